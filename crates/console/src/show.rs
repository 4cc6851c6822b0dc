//! How values are shown: grouped numbers, relative times with the exact one beside, bars.

use std::fmt::Write as _;
use std::time::Duration;

use askama::filters::Safe;
use penstock_domain::batch::{BatchStatus, Counts, Outcome};
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_flow::read::view::BatchView;
use penstock_flow::read::waits::Wait;

/// A number in groups of three digits: `1,234,567`.
pub fn number(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A sentence of ours with its numbers in groups: `5,000 calls in a second`. What is part of a name, a time or a code stays.
pub fn in_groups(text: &str) -> String {
    let part_of_word = |c: char| c.is_alphanumeric() || matches!(c, '.' | ',' | ':' | '-' | '_' | '/' | '`');
    let mut grouped = String::with_capacity(text.len() + 8);
    for piece in text.split_inclusive(|c| !part_of_word(c)) {
        let word = piece.trim_end_matches(|c| !char::is_alphanumeric(c));
        let long = word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        match word.parse::<u64>().ok().filter(|_| long) {
            Some(count) => grouped += &(number(count) + &piece[word.len()..]),
            None => grouped += piece,
        }
    }
    grouped
}

/// A share in percent with one decimal, floored: `0.1 %`. What is not nothing is never shown as `0 %`.
pub fn share(part: u32, whole: u32) -> String {
    if part == 0 || whole == 0 {
        return "0 %".into();
    }
    let tenths = u64::from(part) * 1000 / u64::from(whole);
    match (tenths / 10, tenths % 10) {
        (0, 0) => "< 0.1 %".into(),
        (percent, 0) => format!("{percent} %"),
        (percent, tenth) => format!("{percent}.{tenth} %"),
    }
}

/// A length of time in its largest unit: `3 min`.
pub fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..=59 => format!("{seconds} s"),
        seconds @ 60..=3599 => format!("{} min", seconds / 60),
        seconds @ 3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// A number of bytes: `1.2 MiB`, `1 GiB`.
pub fn bytes(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..=1023 => return format!("{bytes} B"),
        1024..=1_048_575 => (1024, "KiB"),
        1_048_576..=1_073_741_823 => (1_048_576, "MiB"),
        _ => (1_073_741_824, "GiB"),
    };
    match bytes % unit * 10 / unit {
        0 => format!("{} {name}", number(bytes / unit)),
        tenth => format!("{}.{tenth} {name}", number(bytes / unit)),
    }
}

/// A text as HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// A sentence in which names stand between backticks, as HTML.
pub fn sentence(text: &str) -> Safe<String> {
    let (mut html, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, name, after)) = rest
        .split_once('`')
        .and_then(|(before, more)| Some((before, more.split_once('`')?)))
        .map(|(before, (name, after))| (before, name, after))
    {
        // Nothing fails when text is added to a text.
        let _ = write!(html, "{}<code>{}</code>", escaped(before), escaped(name));
        rest = after;
    }
    Safe(html + &escaped(rest))
}

/// Waits whose sentences are ours from end to end. Others may have an API's own words, whose numbers are no counts.
const COUNTING: [&str; 8] =
    ["owner_quota", "pipeline_quota", "queue_full", "in_flight", "polling", "backoff", "behind", "pending"];

/// What something waits for, as HTML.
pub fn waited_for(wait: &Wait) -> Safe<String> {
    if COUNTING.contains(&wait.reason.as_str()) {
        sentence(&in_groups(&wait.sentence))
    } else {
        sentence(&wait.sentence)
    }
}

/// A time, relative to now; the exact one is on it, and the module writes that in the reader's zone.
pub fn moment(at: Timestamp, now: Timestamp) -> Safe<String> {
    time(at, now, "")
}

/// The same of what is expected then: once that has come, it is now.
pub fn due(at: Timestamp, now: Timestamp) -> Safe<String> {
    time(at.max(now), now, " data-due")
}

fn time(at: Timestamp, now: Timestamp, more: &str) -> Safe<String> {
    let relative = match span(if at > now { at.since(now) } else { now.since(at) }) {
        span if span == "0 s" && (at > now || !more.is_empty()) => "now".to_owned(),
        span if span == "0 s" => "just now".to_owned(),
        span if at > now => format!("in {span}"),
        span => format!("{span} ago"),
    };
    let exact = at.to_datetime().format("%Y-%m-%d %H:%M:%S UTC");
    Safe(format!(r#"<time datetime="{at}" title="{exact}"{more}>{relative}</time>"#))
}

/// A word about a state, and what its colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Badge {
    /// The word.
    pub text: &'static str,
    /// `idle`, `run`, `good`, `warn` or `bad`.
    pub kind: &'static str,
}

impl Badge {
    const fn new(text: &'static str, kind: &'static str) -> Self {
        Self { text, kind }
    }
}

/// What is to know of a batch's state, the state itself first.
pub fn badges(view: &BatchView) -> Vec<Badge> {
    let mut badges = vec![match view.status {
        BatchStatus::Pending => Badge::new("pending", "idle"),
        BatchStatus::Processing => Badge::new("processing", "run"),
        BatchStatus::Queued => Badge::new("queued", "run"),
        BatchStatus::Completed => Badge::new("completed", "good"),
        BatchStatus::Cancelled => Badge::new("cancelled", "idle"),
        BatchStatus::Failed => Badge::new("failed", "bad"),
    }];
    badges.extend(view.outcome.map(outcome));
    badges.extend(view.paused.then_some(Badge::new("paused", "warn")));
    badges.extend(view.held.then_some(Badge::new("held", "warn")));
    let cancelling = view.cancelled_at.is_some() && view.finished_at.is_none();
    badges.extend(cancelling.then_some(Badge::new("being cancelled", "warn")));
    badges
}

fn outcome(outcome: Outcome) -> Badge {
    match outcome {
        Outcome::Success => Badge::new("success", "good"),
        Outcome::PartialSuccess => Badge::new("partial success", "warn"),
        Outcome::Failure => Badge::new("failure", "bad"),
    }
}

/// A row's state.
pub fn row_badge(status: RowStatus) -> Badge {
    let kind = match status {
        RowStatus::Pending | RowStatus::Cancelled => "idle",
        RowStatus::Queued | RowStatus::Processing => "run",
        RowStatus::Completed => "good",
        RowStatus::Failed => "bad",
    };
    Badge::new(status.name(), kind)
}

/// The parts of a batch in the order in which they are drawn, by the names of their colours.
pub fn parts(counts: &Counts) -> [(&'static str, u32); 6] {
    [
        ("completed", counts.completed),
        ("failed", counts.failed),
        ("processing", counts.processing),
        ("queued", counts.queued),
        ("pending", counts.pending),
        ("cancelled", counts.cancelled),
    ]
}

/// Counts as a stacked bar. Attributes and not styles give its widths: a page's policy forbids styles of elements.
pub fn bar(counts: &Counts) -> Safe<String> {
    let total = counts.total.max(1);
    let told: Vec<String> = parts(counts)
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{} {name}", number(count)))
        .collect();
    let told = if told.is_empty() { "no rows yet".to_owned() } else { told.join(", ") };
    let mut svg = format!(
        r#"<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{told}">"#
    );
    let mut before = 0_u64;
    for (name, count) in parts(counts) {
        let after = before + u64::from(count);
        let (from, to) = (before * 1000 / u64::from(total), after * 1000 / u64::from(total));
        // What is there is seen, however few they are.
        let width = if count > 0 { (to - from).max(4) } else { 0 };
        if width > 0 {
            // Nothing fails when text is added to a text.
            let _ = write!(svg, r#"<rect class="{name}" x="{from}" width="{width}" height="10"/>"#);
        }
        before = after;
    }
    svg.push_str("</svg>");
    Safe(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_shares_floored() {
        let grouped: Vec<String> = [0_u64, 999, 1000, 1_234_567].into_iter().map(number).collect();
        assert_eq!(grouped, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(share(999, 1000), "99.9 %");
        assert_eq!(share(1, 1_000_000), "< 0.1 %");
        assert_eq!(share(0, 5), "0 %");
        assert_eq!(share(5, 5), "100 %");
        assert_eq!(share(1, 2), "50 %");
    }

    #[test]
    fn numbers_in_a_sentence_are_grouped_and_nothing_else() {
        assert_eq!(
            in_groups("5000 calls in a second, 1500 at once"),
            "5,000 calls in a second, 1,500 at once"
        );
        assert_eq!(
            in_groups("quota of 20000 rows is in flight (1234567)."),
            "quota of 20,000 rows is in flight (1,234,567)."
        );
        let kept = "since 2026-11-30T10:00:00Z `p2000` and `2000` on w-1000/2000: http_500";
        assert_eq!(in_groups(kept), kept);
    }

    #[test]
    fn names_in_a_sentence_are_marked_and_nothing_runs() {
        let html = |text: &str| sentence(text).0;
        assert_eq!(
            html("the limit is `crm`, of `<b>`"),
            "the limit is <code>crm</code>, of <code>&lt;b&gt;</code>"
        );
        assert_eq!(html("a ` alone & <i>"), "a ` alone &amp; &lt;i&gt;");
    }

    #[test]
    fn bytes_have_the_largest_unit() {
        let shown = [1023_u64, 1536, 1 << 30, 3 << 29].map(bytes);
        assert_eq!(shown, ["1023 B", "1.5 KiB", "1 GiB", "1.5 GiB"]);
    }

    #[test]
    fn a_time_is_relative_and_exact() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let Safe(past) = moment(now - Duration::from_secs(125), now);
        assert!(past.ends_with(">2 min ago</time>"), "{past}");
        assert!(past.contains(r#"title="2023-11-14 22:11:15 UTC""#), "{past}");
        assert!(moment(now + Duration::from_secs(7300), now).0.contains(">in 2 h 1 min<"));
        assert!(moment(now, now).0.contains(">just now<"));
        assert!(due(now - Duration::from_secs(9), now).0.ends_with(" data-due>now</time>"));
    }

    #[test]
    fn a_bar_shows_the_smallest_part() {
        let counts = Counts { total: 100_000, completed: 99_999, failed: 1, ..Counts::default() };
        let Safe(svg) = bar(&counts);
        assert!(svg.contains(r#"<rect class="failed" x="999" width="4""#), "{svg}");
        assert!(svg.contains(r#"aria-label="99,999 completed, 1 failed""#), "{svg}");
    }
}
