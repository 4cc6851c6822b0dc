//! All pipelines of a service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::{DefinitionError, ErrorCode};
use super::model::{Dependency, Pipeline};
use crate::limit::identity;

/// Pipelines by name; no two share a name or a route, and those that share a dependency say the same of its limits.
#[derive(Debug, Default)]
pub struct Catalog {
    pipelines: BTreeMap<String, Arc<Pipeline>>,
}

impl Catalog {
    /// A catalog of these pipelines.
    ///
    /// # Errors
    /// Each pipeline that has the name or the route of one before it, or other limits for a dependency that both name alike at the
    /// same address, with both places.
    pub fn new(pipelines: Vec<Pipeline>) -> Result<Self, Vec<DefinitionError>> {
        let mut catalog = Self::default();
        let mut errors = Vec::new();
        for pipeline in pipelines {
            catalog.add(pipeline, &mut errors);
        }
        if errors.is_empty() { Ok(catalog) } else { Err(errors) }
    }

    /// Adds a pipeline, or reports what keeps it out and what contradicts another one.
    pub(super) fn add(&mut self, pipeline: Pipeline, errors: &mut Vec<DefinitionError>) {
        let place = &pipeline.place;
        let error = |line, message| {
            let (file, code) = (place.file.to_string(), ErrorCode::Conflict);
            DefinitionError { file, line, column: 1, code, message }
        };
        if let Some(other) = self.pipelines.get(&pipeline.name) {
            let there = format!("{}:{}", other.place.file, other.place.name_line);
            let message =
                format!("{there} defines a pipeline `{}` as well; rename one of them", pipeline.name);
            errors.push(error(place.name_line, message));
            return;
        }
        if let Some(route) = &pipeline.route
            && let Some(other) = self.iter().find(|other| other.route.as_ref() == Some(route))
        {
            let there = format!("{}:{}", other.place.file, other.place.route_line);
            let message =
                format!("`{}` at {there} has the route {route} as well; change one of them", other.name);
            errors.push(error(place.route_line, message));
        }
        for (line, message) in self.contradictions(&pipeline) {
            errors.push(error(line, message));
        }
        self.pipelines.insert(pipeline.name.clone(), Arc::new(pipeline));
    }

    /// Limits of a pipeline's dependencies that are others than those of a pipeline before it.
    fn contradictions(&self, pipeline: &Pipeline) -> Vec<(u64, String)> {
        let place = |of: &Pipeline, dependency: &Dependency| {
            of.place.dependency_lines.get(&dependency.name).copied().unwrap_or(of.place.name_line)
        };
        let mut found = Vec::new();
        for dependency in &pipeline.dependencies {
            let own = identity(&dependency.name, &dependency.base_url);
            let shared = self.iter().find_map(|other| {
                let same = |one: &&Dependency| identity(&one.name, &one.base_url) == own;
                Some((other, other.dependencies.iter().find(same)?))
            });
            let Some((other, known)) = shared else { continue };
            let keys = dependency.differing_limits(known);
            if keys.is_empty() {
                continue;
            }
            let keys: Vec<String> = keys.into_iter().map(|key| format!("`{key}`")).collect();
            let message = format!(
                "dependency `{}` has another {} at {}:{}, and both share one limit, because they name the same API; write the same \
                 in both, or rename one of them",
                dependency.name,
                keys.join(" and another "),
                other.place.file,
                place(other, known),
            );
            found.push((place(pipeline, dependency), message));
        }
        found
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
