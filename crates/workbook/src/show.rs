//! Numbers as a person sees them.

use chrono::{Duration, NaiveDate, NaiveDateTime, NaiveTime};

use crate::styles::{Format, Styles, text_sign};

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
        style
            .and_then(|style| self.styles.get(style))
            .map_or_else(|| general(number), |style| self.styled(number, style))
    }

    fn styled(&self, number: f64, style: &Format) -> String {
        match style {
            Format::General => general(number),
            Format::Digits(signs) => digits(number, signs),
            Format::Fixed { decimals, whole, percent } => padded(&fixed(number, *decimals, *percent), *whole),
            Format::Moment { date, time, elapsed } => {
                let show = if *elapsed && !date { passed(number) } else { self.moment(number, *date, *time) };
                show.unwrap_or_else(|| general(number))
            }
            // Sections have none of their own.
            Format::Sections(sections) => {
                sections.iter().find(|(condition, _)| condition.takes(number)).map_or_else(
                    || general(number),
                    |(condition, style)| match style {
                        Format::Digits(signs) if condition.is_for_negative() => digits(-number, signs),
                        style => self.styled(number, style),
                    },
                )
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
        let mut style = style.and_then(|style| self.styles.get(style));
        if let Some(Format::Sections(sections)) = style {
            style =
                sections.iter().map(|(_, style)| style).find(|style| matches!(style, Format::Moment { .. }));
        }
        match style {
            Some(Format::Moment { date: true, time: false, .. }) if !date.is_empty() => date.to_owned(),
            Some(Format::Moment { date: false, .. }) => time.to_owned(),
            Some(Format::Moment { .. }) if !date.is_empty() => format!("{date}T{time}"),
            _ => written.to_owned(),
        }
    }

    /// In ISO form, to the second.
    fn moment(&self, number: f64, date: bool, time: bool) -> Option<String> {
        let (days, seconds) = days_and_seconds(number)?;
        if !date {
            return Some(clock(seconds));
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

/// Whole days, and the seconds of the one that has begun; none of what is no date.
fn days_and_seconds(number: f64) -> Option<(i64, i64)> {
    if !(0.0..LAST_DAY).contains(&number) {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "it is in range")]
    let (days, seconds) = (number.trunc() as i64, (number.fract() * 86_400.0).round() as i64);
    Some(if seconds == 86_400 { (days + 1, 0) } else { (days, seconds) })
}

/// A time that passed, which may be longer than a day.
fn passed(number: f64) -> Option<String> {
    let (days, seconds) = days_and_seconds(number)?;
    Some(clock(days * 86_400 + seconds))
}

fn clock(seconds: i64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
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

/// With so many decimals, rounded as Excel does: half away from zero, of the digits that it keeps.
fn fixed(number: f64, decimals: usize, percent: bool) -> String {
    let (shift, decimals) = (if percent { 2 } else { 0 }, decimals.min(30));
    let Some((mut digits, exponent)) = decimal(number.abs()) else { return number.to_string() };
    // Digits before the point, and all that are kept.
    let before = exponent + 1 + shift;
    let kept = before + i32::try_from(decimals).unwrap_or(0);
    let up = usize::try_from(kept).is_ok_and(|kept| digits.get(kept).is_some_and(|digit| *digit >= b'5'));
    digits.truncate(usize::try_from(kept).unwrap_or(0));
    let carried = up && add_one(&mut digits);
    let before = before + i32::from(carried);
    // Before a number below 1 stands a 0, and behind the point one for each place that its digits are away from it.
    let zeros = if before > 0 { 0 } else { 1 + before.unsigned_abs() as usize };
    let mut text = "0".repeat(zeros.min(1 + decimals));
    text.extend(digits.iter().map(|digit| char::from(*digit)));
    let whole = usize::try_from(before).unwrap_or(0).max(1);
    text.extend(std::iter::repeat_n('0', (whole + decimals).saturating_sub(text.len())));
    if decimals > 0 {
        text.insert(whole, '.');
    }
    let negative = number < 0.0 && text.bytes().any(|byte| matches!(byte, b'1'..=b'9'));
    format!("{}{text}{}", if negative { "-" } else { "" }, if percent { "%" } else { "" })
}

/// The digits that Excel keeps, and the power of ten of the first of them.
fn decimal(number: f64) -> Option<(Vec<u8>, i32)> {
    let written = format!("{number:.*e}", DIGITS - 1);
    let (digits, exponent) = written.split_once('e')?;
    Some((digits.bytes().filter(u8::is_ascii_digit).collect(), exponent.parse().ok()?))
}

/// The next larger one of numbers with these digits; whether it has one digit more.
fn add_one(digits: &mut Vec<u8>) -> bool {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return false;
        }
        *digit = b'0';
    }
    digits.insert(0, b'1');
    true
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
            c => shown.push(text_sign(c).unwrap_or(c)),
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
            ("42", "\"KD-\"00000", "KD-00042"),
            ("42", "\\K\\D00000", "KD00042"),
            ("42", "\"A0#-\"000\" (neu)\"", "A0#-042 (neu)"),
            ("-42", "\"KD-\"00000", "-KD-00042"),
            ("5", "\"EUR \"0.00", "5.00"),
            ("0.5", "hh\"h\"mm", "12:00:00"),
            ("-5", "[<0]-000;000", "-005"),
            ("5", "[<0]-000;000", "005"),
            ("-5", "[<0]-0.00;0.00", "-5.00"),
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
            ("46350.75", "hh:mm:ss", "18:00:00"),
            ("46350.75", "[$-F400]h:mm:ss AM/PM", "18:00:00"),
            ("1.5", "h:mm AM/PM", "12:00:00"),
            ("46350.75", "[mm]:ss", "1112418:00:00"),
            ("5551234", "[<=9999999]###\\-####;\\(###\\)\\ ###\\-####", "555-1234"),
            ("2125551234", "[<=9999999]###\\-####;\\(###\\)\\ ###\\-####", "(212) 555-1234"),
            ("1500", "[>=1000]#,##0.0;0.00", "1500.0"),
            ("7", "[>=1000]#,##0.0;0.00", "7.00"),
            ("1.005", "0.00", "1.01"),
            ("0.145", "0.00", "0.15"),
            ("1.255", "0.00", "1.26"),
            ("-0.285", "0.00", "-0.29"),
            ("0.0049", "0.00", "0.00"),
            ("0.005", "0.00", "0.01"),
            ("0.05", "0", "0"),
            ("0.5", "0", "1"),
            ("9.995", "0.00", "10.00"),
            ("99.5", "0", "100"),
            ("12345678901234567890", "0", "12345678901234600000"),
            ("1e-20", "0.00", "0.00"),
            ("0", "0.00", "0.00"),
            ("0.015", "0%", "2%"),
            ("1.4999", "0%", "150%"),
            ("0.00001", "0.0%", "0.0%"),
            ("0.5", "0.0000000000000000", "0.5000000000000000"),
            ("0.05", "0.00000000000000000", "0.05000000000000000"),
            ("-0.00125", "0.0000000000000000%", "-0.1250000000000000%"),
            ("0.0009996", "0.000000", "0.001000"),
            ("0.96", "0.0", "1.0"),
            ("12.5", "0.000000000000000000", "12.500000000000000000"),
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
