//! A small chart: rows per second as an area, and the time that is left as a line, each on a scale of its own.

use std::fmt::Write as _;
use std::time::Duration;

use penstock_domain::time::Timestamp;
use penstock_flow::read::throughput::ThroughputPoint;

use crate::show::{number, span};

/// The drawing's width and height, in its own units.
const SIZE: (f64, f64) = (600.0, 120.0);

/// What is said beside the chart, and the chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The drawing.
    pub svg: String,
    /// Rows per second at its end.
    pub rate: String,
    /// The highest rate.
    pub most: String,
    /// The time that is left at its end; none while no row ends, and once all have ended.
    pub left: Option<String>,
    /// When it begins.
    pub from: Timestamp,
    /// When it ends.
    pub to: Timestamp,
}

/// The chart of a batch's last hour; none when there is nothing to draw.
pub fn chart(points: &[ThroughputPoint]) -> Option<Chart> {
    let [first, .., last] = points else { return None };
    let most = points.iter().map(|point| point.rows_per_second).fold(0.0, f64::max);
    let (from, to) = (first.at, last.at);
    let left = last.remaining_seconds.filter(|seconds| *seconds > 0);
    let left = left.map(|seconds| span(Duration::from_secs(seconds)));
    let told = format!(
        "Rows per second: {} at the end, {} at most{}",
        rate(last.rows_per_second),
        rate(most),
        left.as_ref().map_or_else(String::new, |left| format!("; {left} left"))
    );
    let mut svg = format!(
        r#"<svg class="chart" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{told}">"#,
        SIZE.0, SIZE.1
    );
    // Nothing fails when text is added to a text.
    let _ = write!(svg, r#"<path class="rate" d="{}"/>"#, area(points, most));
    let line = remaining(points);
    if !line.is_empty() {
        let _ = write!(svg, r#"<path class="left" d="{line}"/>"#);
    }
    svg.push_str("</svg>");
    Some(Chart { svg, rate: rate(last.rows_per_second), most: rate(most), left, from, to })
}

/// A rate of rows: whole from ten on.
fn rate(rate: f64) -> String {
    if rate >= 10.0 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is a positive rate of rows"
        )]
        return number(rate.round() as u64);
    }
    format!("{rate:.1}")
}

/// Where a time is, from left to right.
fn across(points: &[ThroughputPoint], at: Timestamp) -> f64 {
    let (first, last) = (points[0].at, points[points.len() - 1].at);
    SIZE.0 * at.since(first).as_secs_f64() / last.since(first).as_secs_f64().max(0.001)
}

/// Steps: between two points the rate is one number.
fn area(points: &[ThroughputPoint], most: f64) -> String {
    let mut path = format!("M0 {}", SIZE.1);
    for point in &points[1..] {
        let up = SIZE.1 - (SIZE.1 - 8.0) * point.rows_per_second / most.max(f64::MIN_POSITIVE);
        // Nothing fails when text is added to a text.
        let _ = write!(path, "V{up:.1}H{:.1}", across(points, point.at));
    }
    let _ = write!(path, "V{}Z", SIZE.1);
    path
}

/// The time that is left; nothing is drawn where nobody knows it.
fn remaining(points: &[ThroughputPoint]) -> String {
    #[allow(clippy::cast_precision_loss, reason = "ten years of seconds at most")]
    let seconds = |point: &ThroughputPoint| point.remaining_seconds.map(|seconds| seconds as f64);
    let most = points.iter().filter_map(seconds).fold(0.0, f64::max);
    let (mut path, mut drawn) = (String::new(), false);
    for point in points {
        match seconds(point).filter(|_| most > 0.0) {
            Some(left) => {
                let up = SIZE.1 - (SIZE.1 - 8.0) * left / most;
                let _ =
                    write!(path, "{}{:.1} {up:.1}", if drawn { "L" } else { "M" }, across(points, point.at));
                drawn = true;
            }
            None => drawn = false,
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(seconds: i64, rows_per_second: f64, remaining_seconds: Option<u64>) -> ThroughputPoint {
        let at = Timestamp::from_millis(1_700_000_000_000 + seconds * 1000);
        ThroughputPoint { at, ended: 0, rows_per_second, remaining_seconds }
    }

    #[test]
    fn a_chart_has_steps_and_a_line_where_the_rest_is_known() {
        let points =
            [point(0, 0.0, None), point(30, 12.0, Some(90)), point(60, 0.0, None), point(90, 6.0, Some(60))];
        let chart = chart(&points).unwrap();
        let svg = &chart.svg;
        assert!(svg.contains(r#"d="M0 120V8.0H200.0V120.0H400.0V64.0H600.0V120Z""#), "{svg}");
        assert!(svg.contains(r#"class="left" d="M200.0 8.0M600.0 45.3""#), "{svg}");
        assert_eq!(
            (chart.rate.as_str(), chart.most.as_str(), chart.left.as_deref()),
            ("6.0", "12", Some("1 min"))
        );
        assert!(super::chart(&points[..1]).is_none());
    }

    #[test]
    fn a_batch_at_a_standstill_is_drawn_flat() {
        let chart = chart(&[point(0, 0.0, None), point(30, 0.0, None)]).unwrap();
        assert!(!chart.svg.contains("NaN") && !chart.svg.contains("inf"), "{}", chart.svg);
    }
}
