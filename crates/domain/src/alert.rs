//! Alert rules: what counts as wrong, and who is notified. Read from one YAML file.

use std::time::Duration;

use serde::Deserialize;

use crate::pipeline::check::Source;
use crate::pipeline::scalars::{Share, Span};
use crate::pipeline::{DefinitionError, Unset, yaml};

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// More than this share of a batch's ended rows failed.
    FailureShare {
        /// Hundredths of a percent.
        above_bp: u16,
        /// Ended rows of the batch, at least.
        min_rows: u32,
    },
    /// Rows whose lease or whose time in the queue ran out, and that no sweep took up.
    StuckRows,
    /// No dispatcher run began for this long.
    DispatcherLate {
        /// How long.
        after: Duration,
    },
    /// A dependency's circuit breaker is not closed.
    BreakerOpen,
    /// Callbacks whose schedule is exhausted.
    CallbacksExhausted,
    /// A file that could not be extracted.
    ExtractionFailed,
    /// A running batch that is held: by an answer, or because too many of its rows failed.
    BatchHeld,
    /// A running batch none of whose rows gets through: all that were tried failed or wait with one code.
    BatchStalled {
        /// How long after its start.
        after: Duration,
    },
}

impl Condition {
    /// The rule's name, as it is written and sent.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FailureShare { .. } => "failure_share",
            Self::StuckRows => "stuck_rows",
            Self::DispatcherLate { .. } => "dispatcher_late",
            Self::BreakerOpen => "breaker_open",
            Self::CallbacksExhausted => "callbacks_exhausted",
            Self::ExtractionFailed => "extraction_failed",
            Self::BatchHeld => "batch_held",
            Self::BatchStalled { .. } => "batch_stalled",
        }
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it looks at.
    pub condition: Condition,
    /// It has to last this long before it is sent.
    pub lasting: Duration,
    /// Receivers' names.
    pub to: Vec<String>,
}

/// How a receiver is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speech {
    /// `{"text": …}`, as Slack's incoming webhooks (and those that copy them) take it.
    Slack,
    /// JSON with Standard Webhooks' headers, signed when there is a secret (`whsec_…`).
    Webhook {
        /// The secret, as it is written.
        secret: Option<String>,
    },
}

/// Who is notified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Its name in the rules.
    pub name: String,
    /// An http or https address.
    pub url: String,
    /// How it is spoken to.
    pub speech: Speech,
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRules {
    /// The rules are looked at this often.
    pub every: Duration,
    /// Who can be notified.
    pub receivers: Vec<Receiver>,
    /// What is looked at.
    pub rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDefinition {
    every: Option<Span>,
    receivers: Vec<ReceiverDefinition>,
    rules: Vec<RuleDefinition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiverDefinition {
    name: String,
    kind: Kind,
    url: String,
    secret: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Slack,
    Webhook,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleDefinition {
    rule: Name,
    above: Option<Share>,
    min_rows: Option<u32>,
    after: Option<Span>,
    lasting: Option<Span>,
    to: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    FailureShare,
    StuckRows,
    DispatcherLate,
    BreakerOpen,
    CallbacksExhausted,
    ExtractionFailed,
    BatchHeld,
    BatchStalled,
}

/// A batch that fails by a fifth is worth a look.
const DEFAULT_SHARE: Share = Share(2000);
const DEFAULT_MIN_ROWS: u32 = 20;
/// Runs come every minute.
const DEFAULT_LATE: Duration = Duration::from_secs(300);
/// Time for a first retry, and for an API that is only slow.
const DEFAULT_STALLED: Duration = Duration::from_secs(120);
const DEFAULT_EVERY: Duration = Duration::from_secs(15);

impl AlertRules {
    /// Reads the file. `vars` looks variables of the environment up for `${NAME}`.
    ///
    /// # Errors
    /// Every error that was found, with its line and a hint.
    pub fn load(
        file: &str,
        text: &str,
        vars: &(dyn Fn(&str) -> Option<String> + '_),
    ) -> Result<Self, Vec<DefinitionError>> {
        let definition: FileDefinition =
            yaml::read(file, text, "`receivers` and `rules`").map_err(|error| vec![error])?;
        let mut source = Source::new(file, text, vars, Unset::Refused);
        let receivers: Vec<Receiver> =
            definition.receivers.into_iter().map(|one| receiver(one, &mut source)).collect();
        let rules = definition.rules.into_iter().map(|one| rule(one, &receivers, &mut source)).collect();
        let every = definition.every.map_or(DEFAULT_EVERY, |span| span.0);
        if every.is_zero() {
            let line = source.line_of("every", 1);
            source.error(line, "`every` is 0; write 15s".to_owned());
        }
        if source.errors.is_empty() {
            Ok(Self { every, receivers, rules })
        } else {
            Err(source.into_errors())
        }
    }
}

fn receiver(definition: ReceiverDefinition, source: &mut Source<'_>) -> Receiver {
    let line = source.line_of(&definition.url, 1);
    let url = source.fill(&definition.url, line).unwrap_or_default();
    if !url.is_empty() && !url.starts_with("http://") && !url.starts_with("https://") {
        source.error(line, format!("the url of `{}` is not an http or https address", definition.name));
    }
    let secret = definition.secret.and_then(|secret| source.fill(&secret, line));
    let speech = match definition.kind {
        Kind::Slack if secret.is_some() => {
            source.error(line, "a slack receiver takes no secret: its address is one".to_owned());
            Speech::Slack
        }
        Kind::Slack => Speech::Slack,
        Kind::Webhook => Speech::Webhook { secret },
    };
    Receiver { name: definition.name, url, speech }
}

fn rule(definition: RuleDefinition, receivers: &[Receiver], source: &mut Source<'_>) -> Rule {
    let condition = match definition.rule {
        Name::FailureShare => Condition::FailureShare {
            above_bp: definition.above.unwrap_or(DEFAULT_SHARE).0,
            min_rows: definition.min_rows.unwrap_or(DEFAULT_MIN_ROWS),
        },
        Name::StuckRows => Condition::StuckRows,
        Name::DispatcherLate => {
            Condition::DispatcherLate { after: definition.after.map_or(DEFAULT_LATE, |span| span.0) }
        }
        Name::BreakerOpen => Condition::BreakerOpen,
        Name::CallbacksExhausted => Condition::CallbacksExhausted,
        Name::ExtractionFailed => Condition::ExtractionFailed,
        Name::BatchHeld => Condition::BatchHeld,
        Name::BatchStalled => {
            Condition::BatchStalled { after: definition.after.map_or(DEFAULT_STALLED, |span| span.0) }
        }
    };
    let line = source.line_of(condition.name(), 1);
    let share = definition.above.is_some() || definition.min_rows.is_some();
    if share && definition.rule != Name::FailureShare {
        source.error(
            line,
            format!("`above` and `min_rows` belong to failure_share, not to {}", condition.name()),
        );
    }
    if definition.after.is_some() && !matches!(definition.rule, Name::DispatcherLate | Name::BatchStalled) {
        let name = condition.name();
        source.error(
            line,
            format!("`after` belongs to dispatcher_late and batch_stalled; {name} takes `lasting`"),
        );
    }
    for name in &definition.to {
        if !receivers.iter().any(|receiver| receiver.name == *name) {
            source.error(line, format!("there is no receiver `{name}`"));
        }
    }
    Rule { condition, lasting: definition.lasting.map(|span| span.0).unwrap_or_default(), to: definition.to }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<AlertRules, String> {
        let vars = |name: &str| (name == "HOOK").then(|| "https://hooks.example.com/x".to_owned());
        AlertRules::load("alerts.yaml", text, &vars)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_file_with_every_rule_is_read() {
        let rules = load(
            "receivers:\n  - { name: ops, kind: slack, url: \"${HOOK}\" }\nrules:\n\
             \x20 - { rule: failure_share, above: 10 %, min_rows: 5, to: [ops] }\n\
             \x20 - { rule: stuck_rows, lasting: 5m, to: [ops] }\n  - { rule: dispatcher_late, after: 3m, to: [ops] }\n\
             \x20 - { rule: breaker_open, to: [ops] }\n  - { rule: callbacks_exhausted, to: [] }\n\
             \x20 - { rule: extraction_failed, to: [ops] }\n  - { rule: batch_held, to: [ops] }\n\
             \x20 - { rule: batch_stalled, to: [ops] }\n  - { rule: batch_stalled, after: 10m, to: [ops] }\n",
        )
        .unwrap();
        assert_eq!(rules.receivers[0].url, "https://hooks.example.com/x");
        assert_eq!(rules.rules.len(), 9);
        let stalled = |minutes: u64| Condition::BatchStalled { after: Duration::from_secs(minutes * 60) };
        assert_eq!([rules.rules[7].condition, rules.rules[8].condition], [stalled(2), stalled(10)]);
        assert_eq!(rules.rules[0].condition, Condition::FailureShare { above_bp: 1000, min_rows: 5 });
        assert_eq!(rules.rules[1].lasting, Duration::from_secs(300));
        assert_eq!(rules.every, DEFAULT_EVERY);
    }

    #[test]
    fn errors_name_the_line_and_the_fix() {
        let head = "receivers:\n  - { name: ops, kind: slack, url: \"${HOOK}\" }\nrules:\n";
        for (rule, expected) in [
            ("{ rule: stuck_rows, to: [pager] }", "alerts.yaml:4: there is no receiver `pager`"),
            (
                "{ rule: stuck_rows, above: 1 %, to: [ops] }",
                "alerts.yaml:4: `above` and `min_rows` belong to failure_share",
            ),
            (
                "{ rule: breaker_open, after: 3m, to: [ops] }",
                "alerts.yaml:4: `after` belongs to dispatcher_late",
            ),
            ("{ rule: mood, to: [ops] }", "alerts.yaml:4: "),
            ("{ rule: stuck_rows, too: [ops] }", "alerts.yaml:4: "),
        ] {
            let error = load(&format!("{head}  - {rule}\n")).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(load("").unwrap_err(), "alerts.yaml:1: the file is empty; write `receivers` and `rules`");
        let error =
            load("receivers:\n  - { name: ops, kind: webhook, url: \"${NONE}\" }\nrules: []\n").unwrap_err();
        assert!(error.contains("alerts.yaml:2:") && error.contains("NONE"), "{error}");
    }
}
