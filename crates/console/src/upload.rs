//! The upload, and what is wrong with a file.

use askama::Template;
use penstock_domain::csv::{RowError, encode_value, neutralise};
use penstock_flow::read::pipelines::PipelineView;

use crate::layout::Page;
use crate::refused::Refused;
use crate::show::in_groups;

/// What was filled in, when the page is shown again.
#[derive(Clone, Debug, Default)]
pub struct Filled {
    /// The pipeline.
    pub pipeline: String,
    /// The name.
    pub name: String,
    /// Labels, commas between them.
    pub labels: String,
    /// The context, by pipeline and key.
    pub context: Vec<(String, String, String)>,
    /// Whether rows go on after one has failed.
    pub stops: bool,
    /// Rows of the trial.
    pub trial_rows: String,
    /// The share of them that may fail.
    pub trial_failures: String,
}

/// The page.
#[derive(Template)]
#[template(path = "upload.html")]
pub struct UploadPage {
    /// Its frame.
    pub page: Page,
    /// Tells this form from every other one.
    pub form: String,
    /// The pipelines that the key may use.
    pub pipelines: Vec<PipelineView>,
    /// What was filled in.
    pub filled: Filled,
    /// Why the file was refused.
    pub refused: Option<Refused>,
}

impl UploadPage {
    fn is_chosen(&self, pipeline: &PipelineView) -> bool {
        pipeline.name == self.filled.pipeline
    }

    fn in_groups(&self, text: &str) -> String {
        in_groups(text)
    }

    fn value(&self, pipeline: &PipelineView, key: &str) -> &str {
        let filled = self.filled.context.iter();
        let mut found = filled.filter(|(name, known, _)| *name == pipeline.name && known == key);
        found.next().map_or("", |(_, _, value)| value)
    }
}

/// The errors as a file, in an address that holds all of it: for an upload of which no list of errors could be kept.
pub fn errors_file(errors: &[RowError]) -> String {
    let mut csv = b"line,column,code,message\r\n".to_vec();
    for error in errors {
        csv.extend_from_slice(format!("{},", error.line).as_bytes());
        for (index, cell) in
            [error.column.as_deref().unwrap_or_default(), error.code, &error.message].iter().enumerate()
        {
            if index > 0 {
                csv.push(b',');
            }
            encode_value(&neutralise(cell), &mut csv);
        }
        csv.extend_from_slice(b"\r\n");
    }
    let mut url = String::from("data:text/csv;charset=utf-8,");
    for byte in csv {
        if byte.is_ascii_alphanumeric() || b"-._~,".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: u64, code: &'static str, message: &str) -> RowError {
        RowError { line, column: Some("e-mail".into()), code, message: message.into() }
    }

    #[test]
    fn the_file_of_errors_is_a_csv_that_no_spreadsheet_runs() {
        let url = errors_file(&[error(2, "format", "=1+1, \"x\"")]);
        let expected = "data:text/csv;charset=utf-8,line,column,code,message%0D%0A\
                        2,e-mail,format,%22%27%3D1%2B1,%20%22%22x%22%22%22%0D%0A";
        assert_eq!(url, expected);
    }
}
