//! From what is written to rules that are ready to judge answers.

use serde_saphyr::Spanned;

use super::words::ErrorTemplate;
use super::written::{ErrorDefinition, ResponsesDefinition};
use super::{Responses, When, lenient};
use crate::pipeline::check::Source;
use crate::pipeline::names::Names;
use crate::pipeline::template::{self, Kind, Template};
use crate::pipeline::vars::Filled;
use crate::pipeline::written::Written;

type MaybeWritten<'a> = Option<&'a Spanned<Written>>;
type Key = fn(&ResponsesDefinition) -> &Option<Spanned<Written>>;

/// What stands for a step: its own `responses`, and those of its dependency.
struct Both<'a> {
    own: Option<&'a ResponsesDefinition>,
    dependency: Option<&'a ResponsesDefinition>,
}

impl<'a> Both<'a> {
    fn key(&self, key: Key) -> MaybeWritten<'a> {
        let of = |one: Option<&'a ResponsesDefinition>| one.and_then(|one| key(one).as_ref());
        of(self.own).or_else(|| of(self.dependency))
    }

    fn error(&self, key: fn(&ErrorDefinition) -> &Option<Spanned<Written>>) -> MaybeWritten<'a> {
        let of = |one: Option<&'a ResponsesDefinition>| {
            one.and_then(|one| one.error.as_ref()).and_then(|error| key(&error.value).as_ref())
        };
        of(self.own).or_else(|| of(self.dependency))
    }

    fn has_error(&self) -> bool {
        [self.own, self.dependency].into_iter().flatten().any(|one| one.error.is_some())
    }
}

/// Where templates stand, and what they may read.
struct Reader<'a, 's, 't> {
    names: &'a Names,
    source: &'s mut Source<'t>,
    /// Whether one of them has read the complete answer of a bulk call.
    whole: bool,
}

/// The `responses` of a step.
pub fn of_step(
    own: Option<&Spanned<ResponsesDefinition>>,
    dependency: Option<&Spanned<ResponsesDefinition>>,
    names: &Names,
    source: &mut Source<'_>,
) -> Responses {
    let both = Both { own: own.map(|own| &own.value), dependency: dependency.map(|other| &other.value) };
    Reader { names, source, whole: false }.read(&both)
}

/// Checks the `responses` of a dependency by themselves: a step may replace keys of it, or no step may call it.
pub fn of_dependency(own: &Spanned<ResponsesDefinition>, names: &Names, source: &mut Source<'_>) {
    let both = Both { own: Some(&own.value), dependency: None };
    Reader { names, source, whole: false }.read(&both);
}

impl Reader<'_, '_, '_> {
    fn read(&mut self, both: &Both<'_>) -> Responses {
        let mut body = false;
        let throttled = self.when("throttled", both.key(|of| &of.throttled), &mut body);
        let wait = both.key(|of| &of.wait).and_then(|wait| {
            if throttled.is_none() && both.key(|of| &of.throttled).is_none() {
                self.error(wait, "responses.wait goes with `throttled`: write which answers say so");
            }
            self.wait(wait, &mut body)
        });
        let hold = self.when("hold", both.key(|of| &of.hold), &mut body);
        let retry = self.when("retry", both.key(|of| &of.retry), &mut body);
        let fail = self.when("fail", both.key(|of| &of.fail), &mut body);
        let success = self.when("success", both.key(|of| &of.success), &mut body);
        let mut error_reads_body = false;
        let error = both.has_error().then(|| ErrorTemplate {
            code: self.words("code", both.error(|of| &of.code), &mut error_reads_body),
            message: self.words("message", both.error(|of| &of.message), &mut error_reads_body),
        });
        Responses {
            throttled,
            wait,
            hold,
            retry,
            fail,
            success,
            error,
            conditions_read_body: body,
            error_reads_body,
            reads_whole: self.whole,
        }
    }

    fn error(&mut self, at: &Spanned<Written>, message: &str) {
        self.source.error(at.referenced.line(), message.to_owned());
    }

    /// A list of statuses, or a condition.
    fn when(&mut self, key: &str, written: MaybeWritten<'_>, body: &mut bool) -> Option<When> {
        let written = written?;
        match self.source.json(written) {
            serde_json::Value::Null => None,
            serde_json::Value::Array(items) => {
                let mut ranges = Vec::with_capacity(items.len());
                for item in &items {
                    match statuses(item) {
                        Some(range) => ranges.push(range),
                        None => self.error(
                            written,
                            &format!("responses.{key}: `{}` is not a status; write 404, or 5xx for all from 500 to 599", plain(item)),
                        ),
                    }
                }
                if items.is_empty() {
                    self.error(
                        written,
                        &format!("responses.{key} is an empty list; take it out, or name a status"),
                    );
                }
                Some(When::Statuses(ranges))
            }
            serde_json::Value::String(text) => {
                let (template, has_expression) = self.template(&text, written, body)?;
                if !has_expression {
                    self.error(written, &format!("responses.{key}: `{text}` is no condition; write `{{{{ … }}}}`, or a list of statuses such as [404, 5xx]"));
                }
                Some(When::Condition(template))
            }
            other => {
                let hint =
                    statuses(&other).map_or_else(String::new, |_| format!("; write [{}]", plain(&other)));
                self.error(written, &format!("responses.{key} is a list of statuses or a condition{hint}"));
                None
            }
        }
    }

    /// Seconds.
    fn wait(&mut self, written: &Spanned<Written>, body: &mut bool) -> Option<Template> {
        let text = plain(&self.source.json(written));
        let (template, has_expression) = self.template(&text, written, body)?;
        if !has_expression && !text.trim().parse::<f64>().is_ok_and(|seconds| seconds > 0.0) {
            self.error(
                written,
                &format!("responses.wait: `{text}` is no time; write a number of seconds, or a template that makes one"),
            );
        }
        Some(template)
    }

    fn words(&mut self, key: &str, written: MaybeWritten<'_>, body: &mut bool) -> Option<Template> {
        let written = written?;
        match self.source.json(written) {
            value @ (serde_json::Value::String(_) | serde_json::Value::Number(_)) => {
                self.template(&plain(&value), written, body).map(|(template, _)| template)
            }
            _ => {
                self.error(written, &format!("responses.error.{key} is a text"));
                None
            }
        }
    }

    /// A template, and whether it has an expression. What it reads of the context need not be there.
    fn template(&mut self, text: &str, at: &Spanned<Written>, body: &mut bool) -> Option<(Template, bool)> {
        let from = self.source.line_of(text, at.referenced.line());
        self.source.take_left_open();
        let filled = self.source.fill_template(text, from, false)?;
        let has_expression = matches!(filled, Filled::Template(_));
        let reading = template::read_in(&filled, self.names, lenient::environment());
        *body |= reading.roots.contains("body");
        self.whole |= reading.roots.contains("whole");
        if self.source.take_left_open() {
            return Some((Template::empty(), true));
        }
        for fault in reading.faults {
            let line = self.source.line_in(text, from, fault.line);
            self.source.error(line, fault.message);
        }
        match Template::compile(filled, Kind::Plain) {
            Ok(template) => Some((template, has_expression)),
            Err(error) => {
                let line = self.source.line_in(text, from, error.line().map_or(1, |line| line as u64));
                let detail = error.detail().unwrap_or("its syntax is off");
                self.source.broken(line, format!("a template cannot be read: {detail}"));
                None
            }
        }
    }
}

/// The text of a scalar.
fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `404`, or `5xx` for a hundred of them.
fn statuses(item: &serde_json::Value) -> Option<(u16, u16)> {
    let text = plain(item);
    if let Some(class) = text.to_ascii_lowercase().strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
        return Some((class * 100, class * 100 + 99));
    }
    let status = text.parse().ok().filter(|status| (100..=599).contains(status) && text.len() == 3)?;
    Some((status, status))
}
