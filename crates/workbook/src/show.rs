//! Numbers as a person sees them.

use chrono::{Duration, NaiveDate, NaiveDateTime, NaiveTime};

use crate::styles::{Format, Styles};

/// Digits that Excel keeps of a number.
const DIGITS: usize = 15;

/// The last day that Excel has, 9999-12-31.
const LAST_DAY: f64 = 2_958_466.0;

/// Shows the numbers of a workbook.
pub struct Show {
    pub styles: Styles,
    /// Whether dates count from 1904.
    pub since_1904: bool,
}

impl Show {
    /// A number as its cell shows it; as it is written, when it is none.
    pub fn number(&self, written: &str, style: Option<usize>) -> String {
        let Some(number) = written.trim().parse::<f64>().ok().filter(|number| number.is_finite()) else {
            return written.to_owned();
        };
        match style.and_then(|style| self.styles.get(style)) {
            None | Some(Format::General) => general(number),
            Some(Format::Digits(signs)) => digits(number, signs),
            Some(Format::Fixed { decimals, whole, percent }) => {
                let text = fixed(number, *decimals, *percent);
                padded(&text, *whole)
            }
            Some(Format::Moment { date, time }) => {
                self.moment(number, *date, *time).unwrap_or_else(|| general(number))
            }
        }
    }

    /// What a cell shows of a moment that is written in ISO form: the date, the time, or both, to the second.
    pub fn moment_of(&self, written: &str, style: Option<usize>) -> String {
        let (date, time) = match written.split_once('T') {
            Some((date, time)) => (date, time),
            None if written.contains(':') => ("", written),
            None => (written, "00:00:00"),
        };
        let time = time.get(..8).unwrap_or(time);
        match style.and_then(|style| self.styles.get(style)) {
            Some(Format::Moment { date: true, time: false }) if !date.is_empty() => date.to_owned(),
            Some(Format::Moment { date: false, .. }) => time.to_owned(),
            Some(Format::Moment { .. }) if !date.is_empty() => format!("{date}T{time}"),
            _ => written.to_owned(),
        }
    }

    /// In ISO form, to the second.
    fn moment(&self, number: f64, date: bool, time: bool) -> Option<String> {
        if !(0.0..LAST_DAY).contains(&number) {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, reason = "it is in range")]
        let (mut days, mut seconds) = (number.trunc() as i64, (number.fract() * 86_400.0).round() as i64);
        if seconds == 86_400 {
            (days, seconds) = (days + 1, 0);
        }
        if !date {
            // A time that passed may be longer than a day.
            let hours = days * 24 + seconds / 3600;
            return Some(format!("{hours:02}:{:02}:{:02}", seconds / 60 % 60, seconds % 60));
        }
        let first = if self.since_1904 {
            NaiveDate::from_ymd_opt(1904, 1, 1)?
        } else {
            // Excel's calendar has a 29 February 1900, which there was not: days after it count from a day before.
            NaiveDate::from_ymd_opt(1899, 12, if days < 60 { 31 } else { 30 })?
        };
        let day = first.checked_add_signed(Duration::days(days))?;
        let at = NaiveDateTime::new(day, NaiveTime::MIN) + Duration::seconds(seconds);
        Some(if time { at.format("%Y-%m-%dT%H:%M:%S") } else { at.format("%Y-%m-%d") }.to_string())
    }
}

/// Without a format: all of its digits, and no exponent where a person would not write one.
fn general(number: f64) -> String {
    if number == 0.0 {
        return "0".into();
    }
    let rounded: f64 = format!("{number:.*e}", DIGITS - 1).parse().unwrap_or(number);
    if rounded.abs() >= 1e21 || rounded.abs() < 1e-9 {
        return format!("{rounded:E}");
    }
    rounded.to_string()
}

fn fixed(number: f64, decimals: usize, percent: bool) -> String {
    let decimals = decimals.min(30);
    let shown = if percent { number * 100.0 } else { number };
    // Rounded as Excel does: half away from zero, of the digits that it keeps.
    let shown: f64 = format!("{shown:.*e}", DIGITS - 1).parse().unwrap_or(shown);
    let scale = 10_f64.powi(i32::try_from(decimals).unwrap_or(0));
    let scaled = shown * scale;
    let rounded = if scaled.abs() < 1e15 { scaled.round() / scale } else { shown };
    let text = format!("{rounded:.decimals$}");
    let text = if text.trim_start_matches('-').bytes().all(|byte| matches!(byte, b'0' | b'.')) {
        text.trim_start_matches('-').to_owned()
    } else {
        text
    };
    if percent { text + "%" } else { text }
}

/// With zeros before the digits, up to so many of them before the point.
fn padded(text: &str, whole: usize) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let has = digits.bytes().take_while(u8::is_ascii_digit).count();
    format!("{sign}{}{digits}", "0".repeat(whole.saturating_sub(has)))
}

/// Digits from the right into the places that a format has for them; those that are left stand before the first place. From the
/// first `0` on a place without a digit shows 0, before it nothing.
fn digits(number: f64, signs: &str) -> String {
    let whole = fixed(number.abs(), 0, false);
    let mut rest: Vec<char> = whole.chars().collect();
    let sign = match number {
        number if number < 0.0 => "-",
        number if number > 0.0 && signs.starts_with('+') => "+",
        _ => "",
    };
    let signs = signs.trim_start_matches('+');
    let zeros = signs.find('0').unwrap_or(signs.len());
    let first = signs.find(['0', '#']);
    let mut shown = Vec::new();
    for (at, c) in signs.char_indices().rev() {
        match c {
            '0' | '#' => shown.extend(rest.pop().or_else(|| (at >= zeros).then_some('0'))),
            c => shown.push(c),
        }
        if Some(at) == first {
            shown.extend(std::mem::take(&mut rest).into_iter().rev());
        }
    }
    let shown: String = shown.into_iter().rev().collect();
    format!("{sign}{shown}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::styles::of;

    #[test]
    fn numbers_are_shown_as_a_person_sees_them() {
        for (written, code, shown) in [
            ("1067", "00000", "01067"),
            ("123456789", "000\\-00\\-0000", "123-45-6789"),
            ("1234567", "00000", "1234567"),
            ("123456789", "0#\" \"##\" \"##\" \"##\" \"##", "01 23 45 67 89"),
            ("123456789", "0#\\ ##\\ ##\\ ##\\ ##", "01 23 45 67 89"),
            ("12345", "00\\.00\\.00", "01.23.45"),
            ("1234", "00\"/\"00", "12/34"),
            ("4915112345678", "\"+\"0", "+4915112345678"),
            ("4915112345678", "+00 000 0000000", "+491 511 2345678"),
            ("151234567", "(000) 000-0000", "(015) 123-4567"),
            ("40151234567", "(000) 000-0000", "(4015) 123-4567"),
            ("-5", "+0;-0;0", "-5"),
            ("0", "+0;-0;0", "0"),
            ("5.5", "00.00", "05.50"),
            ("-5.5", "00.00", "-05.50"),
            ("1067", "000,000", "001067"),
            ("12345", "#\\ ##0", "12345"),
            ("0.5", "# ?/?", "0.5"),
            ("0.5", "# 00/00", "0.5"),
            ("5", "0 \"kg\"", "5"),
            ("-5", "000", "-005"),
            ("0.30000000000000004", "General", "0.3"),
            ("4915112345678", "General", "4915112345678"),
            ("1E-3", "General", "0.001"),
            ("1.5", "0.00", "1.50"),
            ("2.675", "0.00", "2.68"),
            ("-0.001", "0.00", "0.00"),
            ("1234.5", "#,##0.00", "1234.50"),
            ("1234.5", "#,##0.00 \"€\";[Red]-#,##0.00", "1234.50"),
            ("0.125", "0.0%", "12.5%"),
            ("7", "0", "7"),
            ("46350", "yyyy\\-mm\\-dd", "2026-11-24"),
            ("46350", "[$-407]d. mmmm yyyy;@", "2026-11-24"),
            ("46350.75", "dd.mm.yyyy hh:mm", "2026-11-24T18:00:00"),
            ("0.5", "hh:mm", "12:00:00"),
            ("1.25", "[h]:mm", "30:00:00"),
            ("1", "mm/dd/yyyy", "1900-01-01"),
            ("61", "mm/dd/yyyy", "1900-03-01"),
            ("46349.999999", "yyyy-mm-dd", "2026-11-24"),
            ("-1", "yyyy-mm-dd", "-1"),
            ("1e30", "yyyy-mm-dd", "1E30"),
            ("x", "0.00", "x"),
            ("7", "@", "7"),
        ] {
            let show = Show { styles: vec![of(code)], since_1904: false };
            assert_eq!(show.number(written, Some(0)), shown, "{written} {code}");
        }
        let mac = Show { styles: vec![of("yyyy-mm-dd")], since_1904: true };
        assert_eq!(mac.number("44888", Some(0)), "2026-11-24");
    }
}
