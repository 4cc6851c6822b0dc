//! What a request for a report may ask for.

use serde::Deserialize;
use utoipa::IntoParams;

/// For whom a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum For {
    /// A spreadsheet: the report begins with a byte order mark, and numbers, dates and the like that are texts stay as they are when the file is opened and saved.
    Spreadsheet,
}

/// The query of a report.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReportQuery {
    /// `spreadsheet`: for Excel and the like; of CSV reports only.
    #[serde(rename = "for")]
    #[param(rename = "for", value_type = Option<String>, pattern = "^spreadsheet$")]
    pub reader: Option<For>,
}
