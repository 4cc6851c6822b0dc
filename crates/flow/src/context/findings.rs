//! What was found, line by line.

use serde::Serialize;
use utoipa::ToSchema;

/// How something does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Well.
    Ok,
    /// Worth a look.
    Warn,
    /// Broken.
    Fail,
}

impl Verdict {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// Something that was looked at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HealthLine {
    /// How it does.
    pub verdict: Verdict,
    /// What it is: `database`, `schema`, `queue`, …
    pub what: &'static str,
    /// What was found, and how to fix it.
    pub found: String,
}

/// Everything that was looked at.
#[derive(Clone, Debug, Default)]
pub struct Findings(pub Vec<HealthLine>);

impl Findings {
    fn say(&mut self, verdict: Verdict, what: &'static str, found: impl Into<String>) {
        self.0.push(HealthLine { verdict, what, found: found.into() });
    }

    /// It does well.
    pub fn ok(&mut self, what: &'static str, found: impl Into<String>) {
        self.say(Verdict::Ok, what, found);
    }

    /// It is worth a look.
    pub fn warn(&mut self, what: &'static str, found: impl Into<String>) {
        self.say(Verdict::Warn, what, found);
    }

    /// It is broken.
    pub fn fail(&mut self, what: &'static str, found: impl Into<String>) {
        self.say(Verdict::Fail, what, found);
    }
}
