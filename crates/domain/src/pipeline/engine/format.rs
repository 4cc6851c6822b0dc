//! The filter `format`, as printf has it, with decimal and exact numbers.

use bigdecimal::num_bigint::{BigInt, Sign};
use bigdecimal::num_traits::ToPrimitive as _;
use bigdecimal::{BigDecimal, RoundingMode, Zero as _};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Error, State, Value};

use super::error::refused;
use super::number::Number;
use super::operators::defined;
use super::text::text_of;
use super::value::to_json;

/// Characters and places that a conversion may ask for.
const MOST_PLACES: usize = 1000;

/// What a byte of text costs: a fourth of what a step does.
const BYTES_A_STEP: u64 = 4;

/// `"%s, %.2f" | format(name, price)`.
pub(super) fn format(state: &State<'_, '_>, pattern: &Value, args: Rest<Value>) -> Result<Value, Error> {
    let mut rest = pattern.as_str().ok_or_else(|| refused("the pattern is not a text"))?;
    let mut args = Arguments { state, args: &args, next: 0 };
    let mut out = String::new();
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let (conversion, after) = Conversion::read(&rest[at + 1..], &mut args)?;
        out.push_str(&conversion.apply(&mut args)?);
        rest = after;
        state.consume_fuel(1)?;
    }
    out.push_str(rest);
    state.consume_fuel(out.len() as u64 / BYTES_A_STEP)?;
    Ok(Value::from(out))
}

/// The values, one after the other.
struct Arguments<'a, 's> {
    state: &'a State<'s, 's>,
    args: &'a [Value],
    next: usize,
}

impl Arguments<'_, '_> {
    fn next(&mut self) -> Result<Value, Error> {
        let value = self
            .args
            .get(self.next)
            .ok_or_else(|| refused("the pattern takes more values than there are"))?;
        self.next += 1;
        defined(self.state, value)?;
        Ok(value.clone())
    }

    fn named(&self, name: &str) -> Result<Value, Error> {
        let map = self.args.first().filter(|value| value.kind() == ValueKind::Map);
        let value = map.ok_or_else(|| refused("the pattern takes a map"))?.get_item(&Value::from(name))?;
        defined(self.state, &value)?;
        Ok(value)
    }

    fn number(&mut self) -> Result<i64, Error> {
        let given = Number::of(&self.next()?)?;
        match given {
            Some(Number::Decimal(number)) if number.is_integer() => number.to_i64(),
            _ => None,
        }
        .ok_or_else(|| refused("a width or precision is not a whole number"))
    }
}

/// One `%…` of a pattern.
#[derive(Debug, Default)]
struct Conversion {
    name: Option<String>,
    left: bool,
    plus: bool,
    blank: bool,
    alternative: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
    letter: char,
}

impl Conversion {
    /// Reads what follows a `%`; the rest of the pattern besides.
    fn read<'p>(text: &'p str, args: &mut Arguments<'_, '_>) -> Result<(Self, &'p str), Error> {
        let mut own = Self::default();
        let mut rest = text;
        if let Some(named) = rest.strip_prefix('(') {
            let (name, after) = named.split_once(')').ok_or_else(|| refused("`%(` has no `)`"))?;
            own.name = Some(name.to_owned());
            rest = after;
        }
        while let Some(flag) = rest.chars().next().filter(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => own.left = true,
                '+' => own.plus = true,
                ' ' => own.blank = true,
                '#' => own.alternative = true,
                _ => own.zeros = true,
            }
            rest = &rest[1..];
        }
        if let Some(after) = rest.strip_prefix('*') {
            let width = args.number()?;
            own.left |= width < 0;
            own.width = places(width.unsigned_abs())?;
            rest = after;
        } else {
            let (width, after) = digits(rest);
            own.width = if width.is_empty() { 0 } else { written(width)? };
            rest = after;
        }
        if let Some(after) = rest.strip_prefix('.') {
            if let Some(after) = after.strip_prefix('*') {
                own.precision = Some(places(args.number()?.max(0).unsigned_abs())?);
                rest = after;
            } else {
                let (precision, after) = digits(after);
                own.precision = Some(if precision.is_empty() { 0 } else { written(precision)? });
                rest = after;
            }
        }
        let rest = rest.trim_start_matches(['h', 'l', 'L']);
        own.letter = rest.chars().next().ok_or_else(|| refused("the pattern ends within a `%`"))?;
        let after = &rest[own.letter.len_utf8()..];
        Ok((own, after))
    }

    fn apply(&self, args: &mut Arguments<'_, '_>) -> Result<String, Error> {
        if self.letter == '%' {
            return Ok("%".into());
        }
        let value = match &self.name {
            Some(name) => args.named(name)?,
            None => args.next()?,
        };
        match self.letter {
            's' => Ok(self.padded("", &self.cut(&text_of(&value)?), false)),
            'r' | 'a' => Ok(self.padded("", &self.cut(&to_json(&value)?.to_string()), false)),
            'c' => Ok(self.padded("", &character(&value)?, false)),
            'd' | 'i' | 'u' => {
                let Number::Decimal(whole) = self.number(&value)?.truncated()? else {
                    return Err(no_number());
                };
                let digits = whole.abs().with_scale(0).to_plain_string();
                Ok(self.signed(whole.sign() == Sign::Minus, "", &self.filled(digits)))
            }
            'o' | 'x' | 'X' => self.in_base(&self.number(&value)?),
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let decimal = self.number(&value)?.into_decimal()?;
                let minus = decimal.sign() == Sign::Minus;
                let text = self.decimal(&decimal.abs());
                Ok(self.signed(minus, "", &text))
            }
            other => Err(refused(format!(
                "`%{other}` is not a conversion; there are s, d, f, e, g, x, o, c and r"
            ))),
        }
    }

    fn number(&self, value: &Value) -> Result<Number, Error> {
        Number::of(value)?.ok_or_else(|| {
            refused(format!("`%{}` takes a number; make one of a text with `float` or `int`", self.letter))
        })
    }

    /// At most this many characters.
    fn cut(&self, text: &str) -> String {
        text.chars().take(self.precision.unwrap_or(usize::MAX)).collect()
    }

    /// Digits with zeros before them, as many as the precision asks for.
    fn filled(&self, digits: String) -> String {
        let wanted = self.precision.unwrap_or(0);
        if digits.len() < wanted { "0".repeat(wanted - digits.len()) + &digits } else { digits }
    }

    fn in_base(&self, number: &Number) -> Result<String, Error> {
        let whole = match number {
            Number::Decimal(decimal) if decimal.is_integer() => {
                Number::Decimal(decimal.clone()).truncated()?
            }
            _ => return Err(refused(format!("`%{}` takes a whole number", self.letter))),
        };
        let (whole, _): (BigInt, i64) = whole.into_decimal()?.with_scale(0).into_bigint_and_scale();
        let minus = whole.sign() == Sign::Minus;
        let digits = whole.magnitude().to_str_radix(if self.letter == 'o' { 8 } else { 16 });
        let digits = if self.letter == 'X' { digits.to_uppercase() } else { digits };
        let prefix = match self.letter {
            _ if !self.alternative => "",
            'o' => "0o",
            'x' => "0x",
            _ => "0X",
        };
        Ok(self.signed(minus, prefix, &self.filled(digits)))
    }

    /// A number from 0 upwards, by the letter.
    fn decimal(&self, number: &BigDecimal) -> String {
        let precision = self.precision.unwrap_or(6);
        let text = match self.letter.to_ascii_lowercase() {
            'f' => fixed(number, precision),
            'e' => scientific(number, precision),
            _ => {
                let precision = precision.max(1);
                let exponent = exponent(&significant(number, precision));
                let small = exponent < -4 || exponent >= i64::try_from(precision).unwrap_or(i64::MAX);
                let text = if small {
                    scientific(number, precision - 1)
                } else {
                    let places = i64::try_from(precision).unwrap_or(0) - 1 - exponent;
                    fixed(number, usize::try_from(places).unwrap_or(0))
                };
                if self.alternative { text } else { without_zeros(&text) }
            }
        };
        if self.letter.is_ascii_uppercase() { text.to_uppercase() } else { text }
    }

    fn signed(&self, minus: bool, prefix: &str, digits: &str) -> String {
        let sign = match (minus, self.plus, self.blank) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        self.padded(&format!("{sign}{prefix}"), digits, self.zeros)
    }

    /// As wide as it is asked for; zeros come after the sign.
    fn padded(&self, sign: &str, text: &str, zeros: bool) -> String {
        let missing = self.width.saturating_sub(sign.chars().count() + text.chars().count());
        match (self.left, zeros) {
            (true, _) => format!("{sign}{text}{}", " ".repeat(missing)),
            (false, true) => format!("{sign}{}{text}", "0".repeat(missing)),
            (false, false) => format!("{}{sign}{text}", " ".repeat(missing)),
        }
    }
}

fn no_number() -> Error {
    refused("this is not a number")
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn written(digits: &str) -> Result<usize, Error> {
    places(digits.parse().unwrap_or(u64::MAX))
}

fn places(number: u64) -> Result<usize, Error> {
    let places = usize::try_from(number).ok().filter(|places| *places <= MOST_PLACES);
    places.ok_or_else(|| refused(format!("a width or precision is at most {MOST_PLACES}")))
}

fn character(value: &Value) -> Result<String, Error> {
    let one = || refused("`%c` takes one character");
    if let Some(text) = value.as_str() {
        return if text.chars().count() == 1 { Ok(text.to_owned()) } else { Err(one()) };
    }
    let code = u32::try_from(value.clone()).map_err(|_| one())?;
    char::from_u32(code).map(String::from).ok_or_else(one)
}

/// With this many places after the point; halves go to the even neighbour, as in `round`.
fn fixed(number: &BigDecimal, places: usize) -> String {
    number.with_scale_round(i64::try_from(places).unwrap_or(0), RoundingMode::HalfEven).to_plain_string()
}

/// Rounded to this many digits.
fn significant(number: &BigDecimal, digits: usize) -> BigDecimal {
    if number.is_zero() {
        return number.clone();
    }
    let scale = i64::try_from(digits).unwrap_or(1) - 1 - exponent(number);
    number.with_scale_round(scale, RoundingMode::HalfEven)
}

/// The power of ten of the first digit.
fn exponent(number: &BigDecimal) -> i64 {
    if number.is_zero() {
        return 0;
    }
    i64::try_from(number.digits()).unwrap_or(0) - 1 - number.fractional_digit_count()
}

fn scientific(number: &BigDecimal, places: usize) -> String {
    let rounded = significant(number, places + 1);
    let exponent = exponent(&rounded);
    let mut digits = rounded.as_bigint_and_scale().0.to_string();
    // 9.99 becomes 10.0: one digit more than asked for, and it is a zero.
    digits.truncate(places + 1);
    let digits = format!("{digits:0<width$}", width = places + 1);
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{first}{point}{rest}e{sign}{:02}", exponent.unsigned_abs())
}

/// Without zeros at the end of the places, before an exponent.
fn without_zeros(text: &str) -> String {
    let (number, exponent) = text.find('e').map_or((text, ""), |at| text.split_at(at));
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{number}{exponent}")
}
