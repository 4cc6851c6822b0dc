//! How much of a limit was used in each minute of the last hour, drawn as bars below the line of what is allowed.

use std::fmt::Write as _;

use askama::filters::Safe;
use penstock_domain::time::Timestamp;
use penstock_flow::operate::limits::UsedMinute;

use crate::show::number;

/// Minutes that are drawn.
const MINUTES: i64 = 60;
const WIDTH: i64 = 600;
const HEIGHT: f64 = 80.0;

/// The chart; `allowed` are the calls that the limits allow in a minute. Attributes and not styles say how large its parts are: a
/// page's policy forbids styles of elements.
#[allow(clippy::cast_precision_loss, reason = "it is drawn")]
pub fn use_chart(used: &[UsedMinute], allowed: Option<f64>, now: Timestamp) -> Safe<String> {
    let last = now.millis().div_euclid(60_000);
    let most = used.iter().map(|minute| minute.calls).max().unwrap_or(0);
    let top = allowed.unwrap_or(0.0).max(most as f64).max(1.0);
    let calls: u64 = used.iter().map(|minute| minute.calls).sum();
    let mut drawn = format!(
        r#"<svg class="use" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{} calls in the last hour, at most {} in a minute">"#,
        number(calls),
        number(most)
    );
    let step = WIDTH / MINUTES;
    for minute in used {
        let age = last - minute.minute.millis().div_euclid(60_000);
        if !(0..MINUTES).contains(&age) {
            continue;
        }
        let x = (MINUTES - 1 - age) * step;
        let height = |calls: u64| calls as f64 / top * (HEIGHT - 2.0);
        for (class, calls) in [("calls", minute.calls), ("throttled", minute.throttled)] {
            let height = height(calls);
            if calls > 0 {
                let _ = write!(
                    drawn,
                    r#"<rect class="{class}" x="{x}" y="{:.1}" width="{}" height="{height:.1}"/>"#,
                    HEIGHT - height,
                    step - 1
                );
            }
        }
    }
    if let Some(allowed) = allowed {
        let y = HEIGHT - allowed / top * (HEIGHT - 2.0);
        let _ = write!(drawn, r#"<line class="allowed" x1="0" x2="{WIDTH}" y1="{y:.1}" y2="{y:.1}"/>"#);
    }
    Safe(drawn + "</svg>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minute_of_the_last_hour_has_a_bar() {
        let used = |minute: i64, calls, throttled| UsedMinute {
            minute: Timestamp::from_millis(minute * 60_000),
            calls,
            throttled,
        };
        let now = Timestamp::from_millis(100 * 60_000 + 5);
        let Safe(chart) = use_chart(&[used(40, 9, 0), used(41, 30, 3), used(100, 60, 0)], Some(120.0), now);
        assert_eq!(chart.matches("<rect").count(), 3, "the first is more than an hour old: {chart}");
        assert!(chart.contains(r#"x="0""#) && chart.contains(r#"x="590""#), "{chart}");
        assert!(chart.contains(r#"y1="2.0""#), "{chart}");
        assert!(chart.contains("99 calls in the last hour, at most 60 in a minute"), "{chart}");
        assert!(!chart.contains("style="));
        let Safe(empty) = use_chart(&[], None, now);
        assert_eq!(empty.matches("<rect").count() + empty.matches("<line").count(), 0);
    }
}
