//! A pipeline: what a file must look like, which calls are made for each row, and what of the answers is kept.
//!
//! [`definition`] is the YAML as it is written, `yaml` reads it, [`load`] makes it ready, room by room: `columns`,
//! `dependency` (with [`auth`] and the texts of [`live`]), `call`. Every template is looked through by `inspect`, with the names
//! of `names`, the variables of `vars` and the engine's own word (`probe`). [`step`] renders requests (`request`) and reads answers,
//! [`template`] and [`scalars`] are the small parts, [`responses`] judges answers, [`catalog`] holds all pipelines of a service.

pub mod answer;
pub mod auth;
pub mod bulk;
pub mod cache;
mod call;
pub mod catalog;
pub(crate) mod check;
mod columns;
mod condition;
mod cost;
pub mod dedupe;
pub mod definition;
mod dependency;
mod engine;
pub mod error;
pub mod hosts;
mod hours;
mod inspect;
pub mod live;
pub mod load;
pub mod model;
mod names;
mod owner;
pub mod poll;
mod probe;
pub mod rate;
mod rates;
pub mod request;
pub mod responses;
pub mod scalars;
mod schema;
mod secret_values;
pub mod step;
mod successor;
pub mod template;
pub mod transport;
mod values;
pub(crate) mod vars;
mod written;
pub(crate) mod yaml;

pub use answer::{AnswerFormat, AnswerKind};
pub use auth::{
    Auth, AwsSigV4, Claim, ClientAuth, Grant, Hmac, HmacAlgorithm, Jwt, JwtAlgorithm, OAuth2, Signable,
    SignedHeader,
};
pub use bulk::{Bulk, Entry, ItemResult};
pub use catalog::Catalog;
pub use cost::{CallCost, Costs};
pub use definition::CanaryDefinition;
pub use error::{DefinitionError, ErrorCode};
pub use live::{Files, LiveText, NoFiles};
pub use load::check_files;
pub use model::{Breaker, Concurrency, Dependency, Dispatch, Pipeline, Retry, SourceSpan};
pub use owner::{OwnerReads, OwnerView};
pub use rate::{Per, Rate, Window};
pub use request::{Body, RenderedRequest, Target};
pub use responses::{ApiError, Responses, clean_code};
pub use schema::schema;
pub use secret_values::{MASK, SecretValues};
pub use step::{RenderError, Step};
pub use successor::KeptStep;
pub use transport::{Proxy, Tls};
pub use values::{ResponseView, RowAbout, RowContext, RowInCall, RowValues, WholeAnswer};
pub use vars::{FILE, Unset, is_object_store_setting, is_own_setting};
pub use yaml::utf8;
