//! All pipelines of a service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::Pipeline;

/// Pipelines by name; no two share a name or a route.
#[derive(Debug, Default)]
pub struct Catalog {
    pipelines: BTreeMap<String, Arc<Pipeline>>,
}

/// Two definitions that cannot stand beside each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// One name twice.
    #[error("two pipelines are named `{0}`; rename one of them")]
    Name(String),
    /// One route twice.
    #[error("the pipelines `{0}` and `{1}` have the same route {2}; change one of them")]
    Route(String, String, String),
}

impl Catalog {
    /// A catalog of these pipelines.
    ///
    /// # Errors
    /// When two of them share a name or a route.
    pub fn new(pipelines: Vec<Pipeline>) -> Result<Self, CatalogError> {
        let mut catalog = Self::default();
        for pipeline in pipelines {
            if catalog.pipelines.contains_key(&pipeline.name) {
                return Err(CatalogError::Name(pipeline.name));
            }
            if let Some(route) = &pipeline.route
                && let Some(other) = catalog.iter().find(|other| other.route.as_ref() == Some(route))
            {
                return Err(CatalogError::Route(other.name.clone(), pipeline.name.clone(), route.clone()));
            }
            catalog.pipelines.insert(pipeline.name.clone(), Arc::new(pipeline));
        }
        Ok(catalog)
    }

    /// The pipeline of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Pipeline>> {
        self.pipelines.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pipeline>> {
        self.pipelines.values()
    }
}
