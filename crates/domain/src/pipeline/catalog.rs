//! All pipelines of a service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::load::DefinitionError;
use super::model::Pipeline;

/// Pipelines by name; no two share a name or a route.
#[derive(Debug, Default)]
pub struct Catalog {
    pipelines: BTreeMap<String, Arc<Pipeline>>,
}

impl Catalog {
    /// A catalog of these pipelines.
    ///
    /// # Errors
    /// Each pipeline that has the name or the route of one before it, with both places.
    pub fn new(pipelines: Vec<Pipeline>) -> Result<Self, Vec<DefinitionError>> {
        let mut catalog = Self::default();
        let mut errors = Vec::new();
        for pipeline in pipelines {
            let place = &pipeline.place;
            let error = |line, message| DefinitionError { file: place.file.to_string(), line, message };
            if let Some(other) = catalog.pipelines.get(&pipeline.name) {
                let there = format!("{}:{}", other.place.file, other.place.name_line);
                let message =
                    format!("{there} defines a pipeline `{}` as well; rename one of them", pipeline.name);
                errors.push(error(place.name_line, message));
                continue;
            }
            if let Some(route) = &pipeline.route
                && let Some(other) = catalog.iter().find(|other| other.route.as_ref() == Some(route))
            {
                let there = format!("{}:{}", other.place.file, other.place.route_line);
                let message =
                    format!("`{}` at {there} has the route {route} as well; change one of them", other.name);
                errors.push(error(place.route_line, message));
            }
            catalog.pipelines.insert(pipeline.name.clone(), Arc::new(pipeline));
        }
        if errors.is_empty() { Ok(catalog) } else { Err(errors) }
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
