//! Pipelines: those in use, which may be replaced while services run, and the versions that older batches were uploaded under.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use penstock_domain::pipeline::{Catalog, Pipeline, Unset};
use uuid::Uuid;

/// Looks a variable of the environment up.
pub type Vars = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Older versions that are kept compiled, at most.
const OLDER_KEPT: usize = 64;

/// The pipelines that are in use, and older versions on demand.
pub struct Definitions {
    current: RwLock<Arc<Catalog>>,
    /// All pipelines that were in use since the start: batches of those that are not any more go on.
    names: Mutex<BTreeSet<String>>,
    /// Why what the folder holds now is not in use.
    fault: Mutex<Option<String>>,
    unset: Unset,
    vars: Box<Vars>,
    /// How often they were replaced.
    replaced: AtomicU64,
    older: Mutex<HashMap<Uuid, Arc<Pipeline>>>,
}

impl Definitions {
    /// The pipelines of a catalog; `vars` fills `${VARS}` of older versions, and `unset` says what becomes of one without a
    /// value.
    pub fn new(current: Catalog, unset: Unset, vars: Box<Vars>) -> Self {
        let names = current.iter().map(|pipeline| pipeline.name.clone()).collect();
        Self {
            current: RwLock::new(Arc::new(current)),
            names: Mutex::new(names),
            fault: Mutex::default(),
            unset,
            vars,
            replaced: AtomicU64::new(0),
            older: Mutex::default(),
        }
    }

    /// The pipelines that are in use now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses other pipelines from now on. What is under way keeps those that it began with, and batches the version that they were
    /// uploaded under, with what its files hold now.
    pub fn replace(&self, catalog: Catalog) {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(catalog.iter().map(|pipeline| pipeline.name.clone()));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        older.clear();
        self.replaced.fetch_add(1, Ordering::Release);
    }

    /// How often they were replaced: what was made of them before is made anew.
    pub(crate) fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Acquire)
    }

    /// Why what the folder holds now is not in use; none: it is.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets [`Definitions::fault`]; what it was before.
    pub fn set_fault(&self, fault: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.fault.lock().unwrap_or_else(PoisonError::into_inner), fault)
    }

    /// The pipeline of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Pipeline>> {
        self.catalog().get(name).cloned()
    }

    /// The pipeline with that route of its own.
    pub fn by_route(&self, route: &str) -> Option<Arc<Pipeline>> {
        self.iter().find(|pipeline| pipeline.route.as_deref() == Some(route))
    }

    /// All pipelines that are in use now, by name.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Pipeline>> + use<> {
        self.catalog().iter().cloned().collect::<Vec<_>>().into_iter()
    }

    /// The names of all pipelines that were in use since the start.
    pub(crate) fn names_since_start(&self) -> Vec<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(crate) fn older(&self, version: Uuid) -> Option<Arc<Pipeline>> {
        self.older.lock().unwrap_or_else(PoisonError::into_inner).get(&version).cloned()
    }

    /// Compiles the text of an older version, and keeps it.
    ///
    /// # Errors
    /// When it does not load in this environment.
    pub(crate) fn compile(&self, name: &str, version: Uuid, source: &str) -> Result<Arc<Pipeline>, String> {
        let replaced = self.replaced();
        // Files that it names lie beside today's definitions.
        let current = self.catalog();
        let loaded = current.get(name).or_else(|| current.iter().next());
        let folder = loaded.and_then(|pipeline| Path::new(&*pipeline.place.file).parent());
        let file = folder.unwrap_or(Path::new("")).join(format!("{name} (version {version})"));
        let file = file.display().to_string();
        let pipeline = Pipeline::load_accepted(&file, source, &*self.vars, self.unset)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let pipeline = Arc::new(pipeline);
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        if older.len() >= OLDER_KEPT {
            older.clear();
        }
        // What was read before the definitions were replaced may be of what files held before.
        if self.replaced() == replaced {
            older.insert(version, pipeline.clone());
        }
        Ok(pipeline)
    }
}
