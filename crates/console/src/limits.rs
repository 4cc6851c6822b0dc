//! Limits of dependencies, for admin keys.

use askama::Template;
use askama::filters::Safe;
use penstock_domain::time::Timestamp;
use penstock_flow::operate::limits::LimitView;

use crate::layout::Page;
use crate::show::{Badge, in_groups, moment, number};
use crate::use_chart::use_chart;

/// The page.
#[derive(Template)]
#[template(path = "limits.html")]
pub struct Limits<'a> {
    /// Its frame.
    pub page: Page,
    /// Every dependency, by name.
    pub limits: &'a [LimitView],
}

impl Limits<'_> {
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

    fn grouped(&self, count: &u32) -> String {
        number(*count)
    }

    fn under_way(&self, calls: &usize) -> String {
        number(*calls as u64)
    }

    fn in_groups(&self, text: &str) -> String {
        in_groups(text)
    }

    fn is_paused(&self, view: &LimitView) -> bool {
        view.set.as_ref().is_some_and(|set| set.paused)
    }

    fn chart(&self, view: &LimitView) -> Safe<String> {
        use_chart(&view.last_hour, view.allowed_per_minute, self.page.now)
    }

    /// What was used in the last minute that is over, of what is allowed in one.
    fn used(&self, view: &LimitView) -> String {
        let now = self.page.now.millis().div_euclid(60_000);
        let over = view.last_hour.iter().find(|used| used.minute.millis().div_euclid(60_000) == now - 1);
        let calls = number(over.map_or(0, |used| used.calls));
        match view.allowed_per_minute {
            Some(allowed) => in_groups(&format!("{calls} of {allowed:.0} calls in the last minute")),
            None => format!("{calls} calls in the last minute"),
        }
    }

    /// Calls of the last hour that were refused for being too many.
    fn throttled(&self, view: &LimitView) -> String {
        number(view.last_hour.iter().map(|used| used.throttled).sum::<u64>())
    }

    /// The share of the rate that is used, in percent: 100 unless answers said that it is called too often.
    fn share(&self, share: &f64) -> String {
        format!("{:.0} %", share * 100.0)
    }
}
