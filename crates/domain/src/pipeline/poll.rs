//! `poll`: a step whose answer is not yet its result. The result is looked for again and again, until it is there.
//!
//! The request's own answer is tried first. Looks are GETs, each a pause after the one before, and none of them costs the row an
//! attempt.
#![allow(missing_docs, reason = "the keys are described in the reference, once")]

use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::call::{Here, Read, compiled};
use super::check::Source;
use super::definition::{Method, StepDefinition};
use super::names::Names;
use super::request::look::LookTarget;
use super::request::{self, RenderedRequest, Target, TargetTemplate};
use super::responses::lenient::is_true;
use super::scalars::Span;
use super::step::{RenderError, Step};
use super::template::{Kind, Template};
use super::values::{ResponseView, RowContext, Scope};

const DEFAULT_EVERY: Duration = Duration::from_secs(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(86_400);

/// Workers look for due rows about twice a second.
const SHORTEST: Duration = Duration::from_millis(100);

/// `steps[].poll`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollDefinition {
    pub until: Spanned<String>,
    pub fail: Option<Spanned<String>>,
    pub every: Option<Spanned<Span>>,
    pub factor: Option<Spanned<f64>>,
    pub max: Option<Spanned<Span>>,
    pub timeout: Option<Spanned<Span>>,
    pub path: Option<Spanned<String>>,
    pub url: Option<Spanned<String>>,
}

/// How a step waits for its result.
#[derive(Debug)]
pub struct Poll {
    until: Template,
    fail: Option<Template>,
    /// Where looks go; none: where the request went.
    target: Option<TargetTemplate>,
    every: Duration,
    factor: f64,
    max: Duration,
    /// How long the result is waited for, from the request's answer.
    pub timeout: Duration,
    /// Whether `until` or `fail` reads an answer's body.
    reads_body: bool,
    /// Whether the target reads the body of the request's answer.
    target_reads_body: bool,
}

/// What an answer says about the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollStatus {
    /// It is there: `output` reads this answer.
    Ready,
    /// There will be none.
    Failed,
    /// It is not there yet.
    Waiting,
}

impl Poll {
    /// The pause before the next look, when there have been this many.
    pub fn pause(&self, looks: u32) -> Duration {
        let pause = self.every.as_secs_f64() * self.factor.powf(f64::from(looks));
        Duration::try_from_secs_f64(pause.min(self.max.as_secs_f64())).unwrap_or(self.max)
    }

    /// Whether anything of the poll reads an answer's body.
    pub(super) fn reads_body(&self) -> bool {
        self.reads_body || self.target_reads_body
    }
}

impl Step {
    /// What an answer says about the result; always [`PollStatus::Ready`] without `poll`. What an answer does not have is no
    /// error here: the condition does not hold.
    pub fn poll_status(&self, row: &RowContext<'_>, answer: ResponseView<'_>) -> PollStatus {
        let Some(poll) = &self.poll else { return PollStatus::Ready };
        let key = self.key(row).ok().flatten();
        let values =
            Scope::of(row).with_key(key.as_deref()).with_answer(answer, poll.reads_body).into_value();
        if poll.fail.as_ref().is_some_and(|fail| is_true(fail, &values)) {
            PollStatus::Failed
        } else if is_true(&poll.until, &values) {
            PollStatus::Ready
        } else {
            PollStatus::Waiting
        }
    }

    /// Where looks go, from the request's answer; none: where the request went.
    ///
    /// # Errors
    /// When the answer lacks something that the path or the URL reads, or the path leads elsewhere.
    pub fn look_target(
        &self,
        row: &RowContext<'_>,
        answer: ResponseView<'_>,
    ) -> Result<Option<Target>, RenderError> {
        let Some(poll) = &self.poll else { return Ok(None) };
        let Some(target) = &poll.target else { return Ok(None) };
        let key = self.key(row)?;
        let values =
            Scope::of(row).with_key(key.as_deref()).with_answer(answer, poll.target_reads_body).into_value();
        target.render(&self.name, &values).map(Some)
    }

    /// The request of a look: a GET with the headers of the step's request, and without what belongs to a body or makes something.
    ///
    /// # Errors
    /// As [`Step::request`].
    pub fn look(&self, row: &RowContext<'_>, target: Option<Target>) -> Result<RenderedRequest, RenderError> {
        let key = self.key(row)?;
        let values = Scope::of(row).with_key(key.as_deref()).into_value();
        self.request.render_look(&self.name, &values, target)
    }
}

/// Reads `poll`.
pub fn poll(
    step: &StepDefinition,
    definition: &PollDefinition,
    line: u64,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<Poll> {
    let name = &step.name;
    let mut reads_body = false;
    let mut condition = |written: &Spanned<String>, read: &mut Read, source: &mut Source<'_>| {
        let at = written.referenced.line();
        if !written.value.contains("{{") && !written.value.contains("{%") {
            let message = format!("step `{name}`: `{}` is no condition; write `{{{{ … }}}}`", written.value);
            source.error(at, message);
        }
        let here = Here { names, answer: true, line: at };
        let (template, reading) = compiled(&written.value, Kind::Plain, here, read, source)?;
        reads_body |= reading.roots.contains("body");
        Some(template)
    };
    let until = condition(&definition.until, read, source);
    let fail = definition.fail.as_ref().and_then(|fail| condition(fail, read, source));
    let target = request::look::look_target(step, definition, names, read, source);
    if step.request.method != Method::Get && definition.path.is_none() && definition.url.is_none() {
        let message = "poll needs a `path`, because its looks are GETs and the request is none; write where the result is found";
        source.error(line, format!("step `{name}`: {message}"));
    }
    let poll = times(name, definition, source);
    let (target, target_reads_body) = match target? {
        LookTarget::Request => (None, false),
        LookTarget::Own { target, reads_body } => (Some(target), reads_body),
    };
    Some(Poll { until: until?, fail, target, reads_body, target_reads_body, ..poll })
}

fn times(step: &str, definition: &PollDefinition, source: &mut Source<'_>) -> Poll {
    let span = |span: &Option<Spanned<Span>>, usual| span.as_ref().map_or(usual, |span| span.value.0);
    let every = span(&definition.every, DEFAULT_EVERY);
    let factor = definition.factor.as_ref().map_or(1.0, |factor| factor.value);
    let timeout = span(&definition.timeout, DEFAULT_TIMEOUT);
    if let Some(written) = definition.every.as_ref().filter(|_| every < SHORTEST) {
        source.error(written.referenced, format!("step `{step}`: poll.every is 100ms or more"));
    }
    if let Some(written) = definition.factor.as_ref().filter(|_| !(1.0..=100.0).contains(&factor)) {
        source.error(written.referenced, format!("step `{step}`: poll.factor is between 1 and 100"));
    }
    if let Some(max) = definition.max.as_ref().filter(|max| max.value.0 < every) {
        let message = format!("step `{step}`: poll.max ({:?}) is below poll.every ({every:?})", max.value.0);
        source.error(max.referenced, message);
    }
    if let Some(written) = definition.timeout.as_ref().filter(|_| timeout < every) {
        let message = format!(
            "step `{step}`: poll.timeout ({timeout:?}) is below poll.every ({every:?}), so there would be no look"
        );
        source.error(written.referenced, message);
    }
    Poll {
        until: Template::empty(),
        fail: None,
        target: None,
        every,
        factor,
        max: span(&definition.max, timeout.max(every)),
        timeout,
        reads_body: false,
        target_reads_body: false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Map, json};

    use super::*;
    use crate::pipeline::{Pipeline, RowValues};
    use crate::time::Timestamp;

    fn pipeline(poll: &str) -> Result<Pipeline, String> {
        let text = format!(
            "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies: {{ d: {{ base_url: http://d.example }} }}\nsteps:\n\
             \x20 - name: s\n    dependency: d\n    request: {{ method: POST, path: /x, query: {{ q: 1 }}, headers: {{ A: b, Content-Type: c }}, json: {{}} }}\n\
             \x20   poll: {poll}\n"
        );
        Pipeline::load("p.yaml", &text, &|_| None)
            .map_err(|errors| errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("\n"))
    }

    fn view<'a>(headers: &'a BTreeMap<String, String>, body: &'a serde_json::Value) -> ResponseView<'a> {
        ResponseView { status: 200, headers, body }
    }

    #[test]
    fn an_answer_is_ready_or_failed_or_neither() {
        let pipeline = pipeline(
            "{ until: \"{{ body.state == 'done' }}\", fail: \"{{ body.state == 'void' or headers['x-end'] == '1' }}\", path: \"/jobs/{{ body.id }}\" }",
        )
        .unwrap();
        let step = &pipeline.steps[0];
        let (values, outputs) = (RowValues::new(&BTreeMap::new(), &json!({})), Map::new());
        let row = RowContext { values: &values, steps: &outputs, now: Timestamp::from_millis(0) };
        let none = BTreeMap::new();
        for (body, wanted) in [
            (json!({ "state": "done" }), PollStatus::Ready),
            (json!({ "state": "void" }), PollStatus::Failed),
            (json!({ "state": "new" }), PollStatus::Waiting),
            (json!({}), PollStatus::Waiting),
            (json!(null), PollStatus::Waiting),
            (json!("accepted"), PollStatus::Waiting),
        ] {
            assert_eq!(step.poll_status(&row, view(&none, &body)), wanted, "{body}");
        }
        let target = step.look_target(&row, view(&none, &json!({ "id": "a b" }))).unwrap();
        assert_eq!(target, Some(Target::Path("/jobs/a%20b".into())));
        assert!(step.look_target(&row, view(&none, &json!({}))).is_err());
        let look = step.look(&row, target.clone()).unwrap();
        assert_eq!((look.method, Some(look.target), look.query.len()), (Method::Get, target, 0));
        assert_eq!((look.headers, look.body.is_none()), (vec![("A".to_owned(), "b".to_owned())], true));
    }

    #[test]
    fn pauses_grow_up_to_their_maximum() {
        let pauses = |poll: &str| {
            let pipeline = pipeline(&format!("{{ until: \"{{{{ true }}}}\", path: /x, {poll} }}")).unwrap();
            let poll = pipeline.steps[0].poll.as_ref().unwrap();
            [0, 1, 2, 9, 4_000_000_000].map(|looks| poll.pause(looks).as_secs())
        };
        assert_eq!(pauses("every: 10s, factor: 2, max: 1m, timeout: 14d"), [10, 20, 40, 60, 60]);
        assert_eq!(pauses("every: 3s"), [3, 3, 3, 3, 3]);
        assert_eq!(pauses("every: 1s, factor: 3, timeout: 1h"), [1, 3, 9, 3600, 3600]);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (poll, wanted) in [
            ("{ every: 5s, path: /x }", "the key `until` is missing here; add it"),
            ("{ until: \"{{ true }}\" }", "step `s`: poll needs a `path`, because its looks are GETs"),
            ("{ until: done, path: /x }", "step `s`: `done` is no condition; write `{{ … }}`"),
            (
                "{ until: \"{{ boddy.x }}\", path: /x }",
                "unknown variable `boddy` in a template; did you mean `body`?",
            ),
            ("{ until: \"{{ true }}\", path: /x, every: 1ms }", "step `s`: poll.every is 100ms or more"),
            (
                "{ until: \"{{ true }}\", path: /x, factor: 0.5 }",
                "step `s`: poll.factor is between 1 and 100",
            ),
            (
                "{ until: \"{{ true }}\", path: /x, max: 1s }",
                "step `s`: poll.max (1s) is below poll.every (10s)",
            ),
            (
                "{ until: \"{{ true }}\", path: /x, timeout: 1s }",
                "step `s`: poll.timeout (1s) is below poll.every (10s)",
            ),
            (
                "{ until: \"{{ true }}\", path: /x, url: \"{{ body.x }}\" }",
                "step `s`: `path` and `url` both say where looks go; remove one of the two",
            ),
            ("{ until: \"{{ true }}\", path: x }", "step `s`: path begins with `/`"),
        ] {
            let error = pipeline(poll).map(|_| ()).unwrap_err();
            assert!(error.starts_with(wanted), "{poll}: {error}");
        }
    }
}
