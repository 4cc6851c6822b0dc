//! A pipeline: what a file must look like, which calls are made for each row, and what of the answers is kept.
//!
//! [`definition`] is the YAML as it is written, [`load`] checks it and makes it ready, [`step`] renders requests and
//! reads answers, [`template`] and [`scalars`] are the small parts, [`catalog`] holds all pipelines of a service.

pub mod catalog;
pub(crate) mod check;
pub mod definition;
pub mod load;
pub mod model;
pub mod scalars;
pub mod step;
pub mod template;

pub use catalog::Catalog;
pub use definition::CanaryDefinition;
pub use load::DefinitionError;
pub use model::{Breaker, Concurrency, Dependency, Dispatch, Pipeline, Rate, Retry};
pub use step::{RenderError, RenderedRequest, ResponseView, RowContext, Step};
