//! Pipelines: those loaded at the start, and the versions that older batches were uploaded under.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use penstock_domain::pipeline::{Catalog, Pipeline, Unset};
use uuid::Uuid;

/// Looks a variable of the environment up.
pub type Vars = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Older versions that are kept compiled, at most.
const OLDER_KEPT: usize = 64;

/// The loaded pipelines, and older versions on demand.
pub struct Definitions {
    current: Catalog,
    unset: Unset,
    vars: Box<Vars>,
    older: Mutex<HashMap<Uuid, Arc<Pipeline>>>,
}

impl Definitions {
    /// The pipelines of a catalog; `vars` fills `${VARS}` of older versions, and `unset` says what becomes of one without a
    /// value.
    pub fn new(current: Catalog, unset: Unset, vars: Box<Vars>) -> Self {
        Self { current, unset, vars, older: Mutex::default() }
    }

    /// The loaded pipeline of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Pipeline>> {
        self.current.get(name).cloned()
    }

    /// All loaded pipelines, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pipeline>> {
        self.current.iter()
    }

    pub(crate) fn older(&self, version: Uuid) -> Option<Arc<Pipeline>> {
        self.older.lock().unwrap_or_else(PoisonError::into_inner).get(&version).cloned()
    }

    /// Compiles the text of an older version, and keeps it.
    ///
    /// # Errors
    /// When it does not load in this environment.
    pub(crate) fn compile(&self, name: &str, version: Uuid, source: &str) -> Result<Arc<Pipeline>, String> {
        // Files that it names lie beside today's definitions.
        let loaded = self.current.get(name).or_else(|| self.current.iter().next());
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
        older.insert(version, pipeline.clone());
        Ok(pipeline)
    }
}
