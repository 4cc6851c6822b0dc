//! What a client sees of a pipeline: what its files look like, what a row goes through, how fast.

use penstock_domain::csv::{Column, Format, encode_separated};
use penstock_domain::pipeline::{Dependency, Pipeline, Rate, Window};
use serde::Serialize;
use utoipa::ToSchema;

/// A column of a pipeline's files.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ColumnView {
    /// Its name in the header; case counts.
    pub name: String,
    /// Whether it must be there, with a value in every row.
    pub required: bool,
    /// `email`, `e164`, `integer`, `decimal`, `date`, `uuid` or `url`.
    pub format: Option<&'static str>,
    /// What values must look like, in a few words; none: any text.
    pub rule: Option<String>,
    /// A regular expression that values match.
    pub pattern: Option<String>,
    /// Characters at least.
    pub min_length: Option<usize>,
    /// Characters at most.
    pub max_length: Option<usize>,
    /// The only values; empty: any.
    #[serde(rename = "enum")]
    pub one_of: Vec<String>,
}

/// A step, and the API that it calls.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StepView {
    /// Its name.
    pub name: String,
    /// The dependency that it calls.
    pub dependency: String,
    /// The path, as the definition writes it.
    pub path: String,
}

/// How often a dependency may be called.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DependencyView {
    /// Its name.
    pub name: String,
    /// Its limits, in words: `20 calls in 1 s, 5 at once`.
    pub limits: Vec<String>,
    /// Calls under way at most; none: any number.
    pub concurrency: Option<u32>,
}

/// A pipeline, as `GET /v2/pipelines/{name}` shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PipelineView {
    /// Its name.
    pub name: String,
    /// A route of its own for uploads, beside the general one.
    pub route: Option<String>,
    /// What its files look like.
    pub columns: Vec<ColumnView>,
    /// Rows of a file at most.
    pub max_rows: u64,
    /// Bytes of a file at most.
    pub max_bytes: u64,
    /// Keys of `context` without which every row fails.
    pub context: Vec<String>,
    /// What is called for each row, in order.
    pub steps: Vec<StepView>,
    /// The APIs that are called.
    pub dependencies: Vec<DependencyView>,
    /// Columns of the result.
    pub result: Vec<String>,
    /// Attempts that a row has.
    pub attempts: u32,
    /// The definition as it is written, variables not filled in; for admin keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// The view of a pipeline; `source` decides whether its definition is shown.
pub fn pipeline_view(pipeline: &Pipeline, source: bool) -> PipelineView {
    PipelineView {
        name: pipeline.name.clone(),
        route: pipeline.route.clone(),
        columns: pipeline.schema.columns.iter().map(column_view).collect(),
        max_rows: pipeline.schema.limits.max_rows,
        max_bytes: pipeline.max_upload_bytes,
        context: pipeline.context_keys().iter().cloned().collect(),
        steps: pipeline
            .steps
            .iter()
            .map(|step| StepView {
                name: step.name.clone(),
                dependency: pipeline
                    .dependencies
                    .get(step.dependency)
                    .map(|dependency| dependency.name.clone())
                    .unwrap_or_default(),
                path: step.path_template.clone(),
            })
            .collect(),
        dependencies: pipeline.dependencies.iter().map(dependency_view).collect(),
        result: pipeline.result_columns().into_iter().map(str::to_owned).collect(),
        attempts: pipeline.retry.attempts,
        source: source.then(|| pipeline.source.to_string()),
    }
}

fn dependency_view(dependency: &Dependency) -> DependencyView {
    DependencyView {
        name: dependency.name.clone(),
        limits: dependency.rate.iter().chain(&dependency.more).map(rate).collect(),
        concurrency: dependency.concurrency.map(|concurrency| concurrency.limit),
    }
}

/// A limit in words.
pub fn rate(rate: &Rate) -> String {
    let what = rate.name.as_deref().map_or_else(|| "calls".to_owned(), |name| format!("`{name}`"));
    let (seconds, milliseconds) = (rate.period.as_secs(), rate.period.subsec_millis());
    let period = match (seconds, milliseconds) {
        (86_400, 0) => "a day".to_owned(),
        (3600, 0) => "an hour".to_owned(),
        (60, 0) => "a minute".to_owned(),
        (1, 0) => "a second".to_owned(),
        (_, 0) => format!("{seconds} s"),
        _ => format!("{} ms", rate.period.as_millis()),
    };
    let mut words = format!("{} {what} in {period}", rate.limit);
    match rate.window {
        Window::Bucket if rate.burst > 1 => words.push_str(&format!(", {} at once", rate.burst)),
        Window::Bucket => {}
        Window::Sliding => words.push_str(" of any length of it"),
        Window::Calendar { zone, .. } => words.push_str(&format!(" of the calendar ({zone})")),
    }
    if rate.per_owner {
        words.push_str(", for each owner");
    }
    if let Some(per) = &rate.per {
        words.push_str(&format!(", for each `{}`", per.text));
    }
    words
}

fn column_view(column: &Column) -> ColumnView {
    ColumnView {
        name: column.name.clone(),
        required: column.required,
        format: column.format.map(format_name),
        rule: rule(column),
        pattern: column.pattern.as_ref().map(|pattern| pattern.as_str().to_owned()),
        min_length: column.min_length,
        max_length: column.max_length,
        one_of: column.one_of.iter().map(str::to_owned).collect(),
    }
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Email => "email",
        Format::E164 => "e164",
        Format::Integer => "integer",
        Format::Decimal => "decimal",
        Format::Date => "date",
        Format::Uuid => "uuid",
        Format::Url => "url",
    }
}

fn rule(column: &Column) -> Option<String> {
    let mut rules = Vec::new();
    rules.extend(column.format.map(|format| format.described().to_owned()));
    if !column.one_of.is_empty() {
        rules.push(format!("one of {}", column.one_of.iter().take(20).collect::<Vec<_>>().join(", ")));
    }
    rules.extend(column.pattern.as_ref().map(|pattern| format!("text that matches {}", pattern.as_str())));
    rules.extend(column.min_length.map(|least| format!("at least {least} characters")));
    rules.extend(column.max_length.map(|most| format!("at most {most} characters")));
    (!rules.is_empty()).then(|| rules.join(", "))
}

/// A file of a header and one row, to begin with, that the pipeline takes. A value that only a pattern describes stays empty.
pub fn example_file(pipeline: &Pipeline) -> Vec<u8> {
    let columns = &pipeline.schema.columns;
    let dialect = &pipeline.schema.dialect;
    let delimiter = dialect.declared_delimiter().unwrap_or(b',');
    let mut file = Vec::new();
    if dialect.is_marked_in_reports() {
        file.extend_from_slice("\u{FEFF}".as_bytes());
    }
    encode_separated(columns.iter().map(|column| column.name.as_str()), delimiter, &mut file);
    file.extend_from_slice(b"\r\n");
    encode_separated(columns.iter().map(example), delimiter, &mut file);
    file.extend_from_slice(b"\r\n");
    file
}

fn example(column: &Column) -> &str {
    if let Some(example) = &column.example {
        return example;
    }
    if let Some(first) = column.one_of.iter().next() {
        return first;
    }
    let value = match column.format {
        Some(Format::Email) => "name@example.com",
        Some(Format::E164) => "+491701234567",
        Some(Format::Integer) => "42",
        Some(Format::Decimal) => "3.14",
        Some(Format::Date) => "2026-11-23",
        Some(Format::Uuid) => "123e4567-e89b-42d3-a456-426614174000",
        Some(Format::Url) => "https://example.com/path",
        None => "text",
    };
    if column.pattern.as_ref().is_none_or(|pattern| pattern.is_match(value)) { value } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFINITION: &str = "name: shop
csv:
  columns:
    - { name: id, required: true, format: integer }
    - { name: size, enum: [\"S,M\", L] }
    - { name: zip, pattern: \"^[0-9]{5}$\" }
dependencies:
  crm: { base_url: \"https://crm.example\", rate: { limit: 20, period: 1s, burst: 5, per_owner: true }, concurrency: 3 }
steps:
  - name: find
    dependency: crm
    request: { method: GET, path: \"/{{ context.shop }}/{{ row.id }}\" }
    output: { name: \"{{ body.name }}\" }
result: { name: \"{{ steps.find.name }}\" }
";

    fn pipeline() -> Pipeline {
        Pipeline::load("shop.yaml", DEFINITION, &|_| None).unwrap()
    }

    #[test]
    fn a_pipeline_says_what_it_takes_and_does() {
        let view = serde_json::to_value(pipeline_view(&pipeline(), false)).unwrap();
        assert_eq!(view["columns"][0]["rule"], "a whole number such as 42");
        assert_eq!(view["columns"][1]["enum"], serde_json::json!(["S,M", "L"]));
        assert_eq!(view["context"], serde_json::json!(["shop"]));
        assert_eq!(view["steps"][0]["path"], "/{{ context.shop }}/{{ row.id }}");
        let limits = &view["dependencies"][0]["limits"];
        assert_eq!(*limits, serde_json::json!(["20 calls in a second, 5 at once, for each owner"]));
        assert!(view.get("source").is_none());
        assert_eq!(pipeline_view(&pipeline(), true).source.as_deref(), Some(DEFINITION));
    }

    #[test]
    fn an_example_is_a_file_that_can_be_filled_in() {
        let file = String::from_utf8(example_file(&pipeline())).unwrap();
        assert_eq!(file, "id,size,zip\r\n42,\"S,M\",\r\n");
    }
}
