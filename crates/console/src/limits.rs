//! Limits of dependencies, for admin keys.

use askama::Template;
use askama::filters::Safe;
use penstock_domain::time::Timestamp;
use penstock_flow::operate::limits::LimitView;

use crate::layout::Page;
use crate::show::{Badge, moment};

/// The page.
#[derive(Template)]
#[template(path = "limits.html")]
pub struct Limits {
    /// Its frame.
    pub page: Page,
    /// Every dependency, by name.
    pub limits: Vec<LimitView>,
}

impl Limits {
    fn moment(&self, at: &Timestamp) -> Safe<String> {
        moment(*at, self.page.now)
    }

    fn badge(&self, view: &LimitView) -> Badge {
        let paused = view.set.as_ref().is_some_and(|set| set.paused);
        match &view.state {
            _ if paused => Badge { text: "paused", kind: "warn" },
            None => Badge { text: "unknown", kind: "idle" },
            Some(state) if state.breaker == "open" => Badge { text: "breaker open", kind: "bad" },
            Some(state) if state.breaker == "half open" => Badge { text: "being tried", kind: "warn" },
            Some(state) if state.paused_until.is_some() => Badge { text: "asked to wait", kind: "warn" },
            Some(state) if state.share < 1.0 => Badge { text: "slowed", kind: "warn" },
            Some(_) => Badge { text: "open", kind: "good" },
        }
    }

    fn is_paused(&self, view: &LimitView) -> bool {
        view.set.as_ref().is_some_and(|set| set.paused)
    }

    /// The share of the rate that is used, in percent: 100 unless answers said that it is called too often.
    fn share(&self, share: &f64) -> String {
        format!("{:.0} %", share * 100.0)
    }
}
