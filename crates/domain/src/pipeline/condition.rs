//! `when` and `otherwise`: whether a step is called for a row, and what it has put out where it is not.
#![allow(missing_docs, reason = "private to the loader")]

use minijinja::Value;
use serde_json::Map;

use super::call::{Here, Read, check_value, json};
use super::check::Source;
use super::definition::StepDefinition;
use super::names::Names;
use super::step::{RenderError, render_fields};
use super::template::{JsonTemplate, Template};

/// When a step is called.
#[derive(Debug)]
pub(super) struct Condition {
    when: JsonTemplate,
    otherwise: Vec<(String, JsonTemplate)>,
}

impl Condition {
    /// The step's outputs when it is not called; none when it is.
    ///
    /// # Errors
    /// When a template reads what is not there.
    pub fn skipped(
        &self,
        step: &str,
        values: &Value,
    ) -> Result<Option<Map<String, serde_json::Value>>, RenderError> {
        if self.holds(values).map_err(|error| RenderError::new(step, "when", &error))? {
            return Ok(None);
        }
        render_fields(&self.otherwise, values, |key| format!("otherwise `{key}`"), step).map(Some)
    }

    /// Any value counts as the template engine has it: null, an empty text, list or map, and zero are false. Text around
    /// expressions is a text already: then an empty one and `false` are.
    fn holds(&self, values: &Value) -> Result<bool, minijinja::Error> {
        match &self.when {
            JsonTemplate::Constant(value) => Ok(value.as_bool().unwrap_or_default()),
            JsonTemplate::Template(template @ Template::Expression(_)) => template.render_truth(values),
            other => {
                let text = super::template::text_of(other.render(values)?);
                Ok(!matches!(text.trim().to_ascii_lowercase().as_str(), "" | "false"))
            }
        }
    }
}

/// Whether a text is the same for every row, and neither true nor false. A variable may be either.
fn is_no_condition(text: &str) -> bool {
    let varies = ["{{", "{%", "${"].iter().any(|begins| text.contains(begins));
    !varies && !["", "true", "false"].contains(&text.trim().to_ascii_lowercase().as_str())
}

/// A step's condition; none when it is called for every row.
pub fn condition(
    step: &StepDefinition,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<Condition> {
    let Some(when) = &step.when else {
        if let Some(otherwise) = &step.otherwise {
            let line = otherwise.referenced.line();
            source.error(line, format!("step `{}`: `otherwise` is for a step that has `when`", step.name));
        }
        return None;
    };
    let line = when.referenced.line();
    let value = source.json(when);
    if !value.is_boolean() && !value.is_string() {
        let message = "`when` is a condition, such as `\"{{ row.plan == 'team' }}\"`";
        source.error(line, format!("step `{}`: {message}", step.name));
    }
    if let Some(text) = value.as_str().filter(|text| is_no_condition(text)) {
        let message = format!("step `{}`: `{text}` is no condition; write `{{{{ … }}}}`", step.name);
        source.error(line, message);
    }
    let when = json(&value, Here { names, answer: false, line }, read, source)?.0;
    let mut outputs = Vec::new();
    // Whether a row reads these is not certain.
    let mut perhaps = Read::default();
    for (name, value) in step.otherwise.iter().flat_map(|otherwise| &otherwise.value) {
        let here = Here { names, answer: false, line: value.referenced.line() };
        let value = source.json(value);
        check_value(&format!("step `{}`: otherwise `{name}`", step.name), &value, here.line, source);
        let output = json(&value, here, &mut perhaps, source)?.0;
        outputs.push((name.clone(), output));
    }
    Some(Condition { when, otherwise: outputs })
}
