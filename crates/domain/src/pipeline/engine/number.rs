//! Numbers of any length, exactly.
//!
//! A number of JSON that no 128-bit integer holds as it is written (`19.90`, `1e3`, 60 digits) is an [`Exact`]: a value of
//! the template engine that keeps the digits and their spelling. Arithmetic on it is decimal and exact. What cannot be exact
//! is an error, with one exception: a quotient or power without an end (`10 / 3`) of short numbers is a binary
//! floating-point number, as everywhere; it never meets a number that floating point would round.

use std::cmp::Ordering;
use std::str::FromStr as _;
use std::sync::Arc;

use bigdecimal::num_bigint::Sign;
use bigdecimal::num_traits::ToPrimitive as _;
use bigdecimal::{BigDecimal, RoundingMode, Zero as _};
use minijinja::value::{DynObject, Object, ObjectRepr, ValueKind};
use minijinja::{Error, Value};

use super::refused;

/// More digits, zeros of an exponent included, are not computed with.
const MOST_DIGITS: u64 = 4096;

/// Decimals of so many digits are the same after a way through a 64-bit floating-point number.
const SHORT_DIGITS: u64 = 15;

/// A number as it is written in JSON.
#[derive(Debug)]
pub(super) struct Exact(Box<str>);

impl Exact {
    /// Its digits, as they are written.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether it is written as a whole number.
    pub fn is_integer(&self) -> bool {
        !self.0.contains(['.', 'e', 'E'])
    }

    fn decimal(&self) -> Option<BigDecimal> {
        BigDecimal::from_str(&self.0).ok()
    }
}

impl Object for Exact {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        let mantissa = self.0.split(['e', 'E']).next().unwrap_or_default();
        mantissa.contains(|digit| matches!(digit, '1'..='9'))
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        // An exponent beyond 64 bits: nothing is computed with it, but there has to be an order.
        Some(match (self.decimal(), other.decimal()) {
            (Some(own), Some(other)) => own.cmp(&other),
            _ => self.0.cmp(&other.0),
        })
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of a number that is written so; the text is JSON's, or a decimal's.
pub(super) fn value(text: &str) -> Value {
    // A negative zero is no integer of ours.
    if text.len() <= 40 && text != "-0" && !text.contains(['.', 'e', 'E']) {
        if let Ok(number) = text.parse::<i64>() {
            return Value::from(number);
        }
        if let Ok(number) = text.parse::<i128>() {
            return Value::from(number);
        }
        if let Ok(number) = text.parse::<u128>() {
            return Value::from(number);
        }
    }
    exact(text)
}

/// The same as an [`Exact`], whatever it is.
pub(super) fn exact(text: &str) -> Value {
    Value::from_object(Exact(text.into()))
}

/// A place in a list: a whole number is an integer, however it is written.
pub(super) fn index(value: &Value) -> Value {
    let whole = as_exact(value).and_then(Exact::decimal).filter(BigDecimal::is_integer);
    let integer = whole.and_then(|whole| Decimal(whole).truncated().and_then(Number::into_value).ok());
    integer.unwrap_or_else(|| value.clone())
}

/// The number that a value is, if it is an [`Exact`].
pub(super) fn as_exact(value: &Value) -> Option<&Exact> {
    value.downcast_object_ref::<Exact>()
}

/// A number that can be computed with.
#[derive(Clone, Debug)]
pub(super) enum Number {
    /// Every digit of it is known.
    Decimal(BigDecimal),
    /// A quotient or power that was rounded.
    Rounded(f64),
}

use Number::{Decimal, Rounded};

impl Number {
    /// The number that a value is, truth values included; none when it is none.
    ///
    /// # Errors
    /// When it is too large to be computed with.
    pub fn of(value: &Value) -> Result<Option<Self>, Error> {
        let number = match value.kind() {
            ValueKind::Bool => Decimal(u8::from(value.is_true()).into()),
            ValueKind::Number if value.is_integer() => Decimal(match i128::try_from(value.clone()) {
                Ok(number) => number.into(),
                Err(_) => u128::try_from(value.clone())?.into(),
            }),
            ValueKind::Number => Self::from_float(f64::try_from(value.clone())?)?,
            _ => match as_exact(value) {
                Some(exact) => Decimal(exact.decimal().ok_or_else(too_large)?),
                None => return Ok(None),
            },
        };
        Ok(Some(number))
    }

    /// Of a text: digits, with a sign, a point and an exponent where there are any.
    pub fn parse(text: &str) -> Option<Self> {
        // More lenient than this are only words and underscores.
        let plain = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
        text.chars().all(plain).then(|| BigDecimal::from_str(text).ok()).flatten().map(Decimal)
    }

    fn from_float(number: f64) -> Result<Self, Error> {
        // The shortest text that means this number; a short one is what somebody wrote.
        let decimal = shortest(number)?;
        Ok(if decimal.digits() <= SHORT_DIGITS { Decimal(decimal) } else { Rounded(number) })
    }

    /// As a floating-point number, when nothing is lost by it.
    pub fn as_float(&self) -> Result<f64, Error> {
        match self {
            Rounded(number) => Ok(*number),
            Decimal(decimal) => short_float(decimal).ok_or_else(rounded_operand),
        }
    }

    /// Which one is larger.
    pub fn compare(&self, other: &Self) -> Ordering {
        let decimal = |number: &Self| match number {
            Decimal(decimal) => Some(decimal.clone()),
            Rounded(float) => BigDecimal::from_str(&format!("{float:e}")).ok(),
        };
        decimal(self).cmp(&decimal(other))
    }

    /// As a value: an integer of the engine's where there is one.
    ///
    /// # Errors
    /// When it has too many digits.
    pub fn into_value(self) -> Result<Value, Error> {
        let decimal = match self {
            Rounded(number) => return finite(number),
            Decimal(decimal) => bounded(decimal)?,
        };
        // 2e3 is 2000.
        let decimal = if decimal.fractional_digit_count() < 0 { decimal.with_scale(0) } else { decimal };
        Ok(value(&decimal.to_plain_string()))
    }

    /// As a value that is written with a point, as a quotient is.
    ///
    /// # Errors
    /// As [`Number::into_value`].
    pub fn into_float_value(self) -> Result<Value, Error> {
        let decimal = match self {
            Rounded(number) => return finite(number),
            Decimal(decimal) => bounded(decimal)?.normalized(),
        };
        if let Some(number) = short_float(&decimal) {
            return Ok(Value::from(number));
        }
        let scale = decimal.fractional_digit_count().max(1);
        Ok(exact(&decimal.with_scale(scale).to_plain_string()))
    }

    /// Without what stands behind the point.
    ///
    /// # Errors
    /// When it has too many digits.
    pub fn truncated(self) -> Result<Self, Error> {
        Ok(match self {
            Rounded(number) => {
                Decimal(BigDecimal::from_str(&number.trunc().to_string()).map_err(|_| not_finite())?)
            }
            Decimal(decimal) => Decimal(bounded(decimal)?.with_scale_round(0, RoundingMode::Down)),
        })
    }

    /// Rounded to so many places behind the point.
    ///
    /// # Errors
    /// When it has too many digits.
    pub fn rounded(self, places: i32, mode: RoundingMode) -> Result<Self, Error> {
        let decimal = self.into_decimal()?;
        let places = i64::from(places);
        if decimal.fractional_digit_count() <= places {
            return Ok(Decimal(decimal));
        }
        Ok(Decimal(decimal.with_scale_round(places, mode)))
    }

    /// As a decimal: of a rounded number the shortest one that means it.
    ///
    /// # Errors
    /// When it has too many digits.
    pub fn into_decimal(self) -> Result<BigDecimal, Error> {
        match self {
            Decimal(decimal) => bounded(decimal),
            Rounded(number) => shortest(number),
        }
    }

    /// Its distance from zero.
    pub fn abs(self) -> Self {
        match self {
            Decimal(decimal) => Decimal(decimal.abs()),
            Rounded(number) => Rounded(number.abs()),
        }
    }

    /// The other side of zero.
    pub fn negated(self) -> Self {
        match self {
            Decimal(decimal) => Decimal(-decimal),
            Rounded(number) => Rounded(-number),
        }
    }

    /// Whether it is even; none when it is no whole number.
    pub fn is_even(&self) -> Option<bool> {
        match self {
            Decimal(decimal) if decimal.is_integer() => {
                let decimal = bounded(decimal.clone()).ok()?.with_scale(0);
                Some(!decimal.as_bigint_and_scale().0.bit(0))
            }
            _ => None,
        }
    }
}

/// What two numbers can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    DivideFloor,
    Remainder,
    Power,
}

impl Arithmetic {
    /// What the engine's own integers make, when all of it fits.
    pub fn of_integers(self, a: i128, b: i128) -> Option<i128> {
        match self {
            Self::Add => a.checked_add(b),
            Self::Subtract => a.checked_sub(b),
            Self::Multiply => a.checked_mul(b),
            Self::DivideFloor => a.checked_div_euclid(b).filter(|_| b > 0),
            Self::Remainder => a.checked_rem_euclid(b).filter(|_| b > 0),
            Self::Divide | Self::Power => None,
        }
    }

    /// What two numbers make.
    ///
    /// # Errors
    /// When it is nothing (a division by zero), or cannot be exact.
    pub fn of(self, a: &Number, b: &Number) -> Result<Value, Error> {
        let (Decimal(left), Decimal(right)) = (a, b) else {
            return finite(self.of_floats(a.as_float()?, b.as_float()?)?);
        };
        let (left, right) = (&bounded(left.clone())?, &bounded(right.clone())?);
        let result = match self {
            Self::Add => left + right,
            Self::Subtract => left - right,
            Self::Multiply => left * right,
            Self::DivideFloor => divide_floor(left, right)?.0,
            Self::Remainder => divide_floor(left, right)?.1,
            Self::Divide => return divide(left, right)?.into_float_value(),
            Self::Power => return power(left, right),
        };
        Decimal(result).into_value()
    }

    fn of_floats(self, a: f64, b: f64) -> Result<f64, Error> {
        if b == 0.0 && matches!(self, Self::Divide | Self::DivideFloor | Self::Remainder) {
            return Err(impossible());
        }
        // The sign of the divisor, as the engine has it for integers.
        let remainder = || {
            let remainder = a % b;
            if remainder != 0.0 && (remainder < 0.0) != (b < 0.0) { remainder + b } else { remainder }
        };
        Ok(match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            Self::Divide => a / b,
            Self::DivideFloor => ((a - remainder()) / b).round(),
            Self::Remainder => remainder(),
            Self::Power => a.powf(b),
        })
    }
}

fn divide(a: &BigDecimal, b: &BigDecimal) -> Result<Number, Error> {
    if b.is_zero() {
        return Err(impossible());
    }
    // At most 100 digits: whether these are all of them is seen by going back.
    let quotient = a / b;
    if &quotient * b == *a {
        return Ok(Decimal(quotient));
    }
    match (short_float(a), short_float(b)) {
        (Some(a), Some(b)) => Ok(Rounded(a / b)),
        _ => Err(endless_quotient()),
    }
}

/// The largest whole number of times that `b` is in `a`, and what is left.
fn divide_floor(a: &BigDecimal, b: &BigDecimal) -> Result<(BigDecimal, BigDecimal), Error> {
    if b.is_zero() {
        return Err(impossible());
    }
    let scale = a.fractional_digit_count().max(b.fractional_digit_count());
    let (whole_a, whole_b) = (a.with_scale(scale), b.with_scale(scale));
    let (whole_a, whole_b) = (whole_a.as_bigint_and_scale().0, whole_b.as_bigint_and_scale().0);
    let mut quotient = whole_a.as_ref() / whole_b.as_ref();
    let remainder = whole_a.as_ref() % whole_b.as_ref();
    if remainder.sign() != Sign::NoSign && remainder.sign() != whole_b.sign() {
        quotient -= 1;
    }
    let quotient = BigDecimal::new(quotient, 0);
    let remainder = a - b * &quotient;
    Ok((quotient, remainder))
}

fn power(base: &BigDecimal, exponent: &BigDecimal) -> Result<Value, Error> {
    if !exponent.is_integer() {
        let (base, exponent) = (
            short_float(base).ok_or_else(irrational_power)?,
            short_float(exponent).ok_or_else(irrational_power)?,
        );
        return finite(base.powf(exponent));
    }
    let times = exponent.abs().to_u32().ok_or_else(too_large)?;
    let (mantissa, scale) = base.as_bigint_and_scale();
    if mantissa.bits().saturating_mul(times.into()) > bits(MOST_DIGITS) {
        return Err(too_large());
    }
    let scale = scale.checked_mul(times.into()).ok_or_else(too_large)?;
    let raised = BigDecimal::new(mantissa.pow(times), scale);
    if exponent.sign() == Sign::Minus {
        return divide(&BigDecimal::from(1), &bounded(raised)?)?.into_float_value();
    }
    Decimal(raised).into_value()
}

/// As a floating-point number that means the same decimal; none when there is none.
fn short_float(decimal: &BigDecimal) -> Option<f64> {
    if decimal.is_zero() {
        return Some(0.0);
    }
    let short = decimal.digits() <= SHORT_DIGITS || decimal.normalized().digits() <= SHORT_DIGITS;
    let number = short.then(|| decimal.to_f64()).flatten()?;
    (number.is_finite() && number.abs() >= f64::MIN_POSITIVE).then_some(number)
}

/// The number, if all its places can be written down.
fn bounded(decimal: BigDecimal) -> Result<BigDecimal, Error> {
    let (mantissa, scale) = decimal.as_bigint_and_scale();
    let written = mantissa.bits() <= bits(MOST_DIGITS) && scale.unsigned_abs() <= MOST_DIGITS;
    if written { Ok(decimal) } else { Err(too_large()) }
}

/// Bits that so many digits take, at most.
const fn bits(digits: u64) -> u64 {
    digits * 10 / 3
}

fn finite(number: f64) -> Result<Value, Error> {
    if number.is_finite() { Ok(Value::from(number)) } else { Err(not_finite()) }
}

fn shortest(number: f64) -> Result<BigDecimal, Error> {
    BigDecimal::from_str(&format!("{number:e}")).map_err(|_| not_finite())
}

fn too_large() -> Error {
    refused("the number has too many digits to be computed with")
}

fn not_finite() -> Error {
    refused("the result is not a finite number")
}

/// A long number meets one that was rounded.
fn rounded_operand() -> Error {
    refused(
        "the result cannot be exact, because a number of more than 15 digits meets a quotient or power that was rounded; \
         use `round` on that one first",
    )
}

fn endless_quotient() -> Error {
    refused(
        "the result cannot be exact, because the quotient of numbers of more than 15 digits has no end; use `//`",
    )
}

fn irrational_power() -> Error {
    refused(
        "the result cannot be exact, because a number of more than 15 digits has a power that is not a whole number",
    )
}

fn impossible() -> Error {
    refused("a division by zero")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        Number::of(&value(text)).unwrap().unwrap()
    }

    fn made(op: Arithmetic, a: &str, b: &str) -> String {
        op.of(&number(a), &number(b))
            .map_or_else(|error| error.detail().unwrap().to_owned(), |value| value.to_string())
    }

    #[test]
    fn what_fits_is_an_integer_of_the_engine_and_all_else_keeps_its_spelling() {
        for text in [
            "0",
            "-7",
            "9223372036854775808",
            "-170141183460469231731687303715884105728",
            "340282366920938463463374607431768211455",
        ] {
            assert!(value(text).is_integer(), "{text}");
            assert_eq!(value(text).to_string(), text);
        }
        for text in [
            "-0",
            "1.0",
            "19.90",
            "1e3",
            "1E+3",
            "0.1",
            "-1.5e-9",
            "340282366920938463463374607431768211456",
            "1e99999999999999999999",
        ] {
            assert!(as_exact(&value(text)).is_some(), "{text}");
            assert_eq!(value(text).to_string(), text);
        }
        for (text, truth) in
            [("0.0", false), ("-0", false), ("0e7", false), ("0.01", true), ("1e-99999999999999999999", true)]
        {
            assert_eq!(value(text).is_true(), truth, "{text}");
        }
    }

    #[test]
    fn arithmetic_is_exact() {
        use Arithmetic::{Add, Divide, DivideFloor, Multiply, Power, Remainder, Subtract};
        let big = "123456789012345678901234567890123456789012345678901234567890";
        for (op, a, b, wanted) in [
            (Add, "0.1", "0.2", "0.3"),
            (Add, big, "1", "123456789012345678901234567890123456789012345678901234567891"),
            (Add, "1e3", "0.5", "1000.5"),
            (Subtract, "1.10", "0.10", "1.00"),
            (
                Subtract,
                "340282366920938463463374607431768211456",
                "1",
                "340282366920938463463374607431768211455",
            ),
            (Multiply, "19.99", "100", "1999.00"),
            (Multiply, "0.12345678901234567890", "10", "1.23456789012345678900"),
            (Multiply, "1e3", "2", "2000"),
            (Divide, "10", "2", "5.0"),
            (Divide, "1", "8", "0.125"),
            (Divide, big, "2", "61728394506172839450617283945061728394506172839450617283945.0"),
            (Divide, "10", "3", "3.3333333333333335"),
            (
                Divide,
                big,
                "17",
                "the result cannot be exact, because the quotient of numbers of more than 15 digits has no end; use `//`",
            ),
            (Divide, "1", "0.0", "a division by zero"),
            (DivideFloor, "-7", "3", "-3"),
            (DivideFloor, "7", "-3", "-3"),
            (DivideFloor, "7.5", "2", "3"),
            (Remainder, "-7", "3", "2"),
            (Remainder, "7", "-3", "-2"),
            (Remainder, "-7.5", "2", "0.5"),
            (Remainder, "1.0", "0.1", "0.0"),
            (Remainder, big, "17", "1"),
            (Remainder, "1", "0", "a division by zero"),
            (Power, "10", "40", "10000000000000000000000000000000000000000"),
            (Power, "1.1", "2", "1.21"),
            (Power, "2", "-1", "0.5"),
            (Power, "4", "0.5", "2.0"),
            (Power, "0", "-1", "a division by zero"),
            (
                Power,
                big,
                "0.5",
                "the result cannot be exact, because a number of more than 15 digits has a power that is not a whole number",
            ),
            (Power, "10", "100000", "the number has too many digits to be computed with"),
            (Add, "1e999999999", "1", "the number has too many digits to be computed with"),
            (Multiply, "1e4000", "1e4000", "the number has too many digits to be computed with"),
        ] {
            assert_eq!(made(op, a, b), wanted, "{a} {op:?} {b}");
        }
    }

    #[test]
    fn a_rounded_quotient_meets_only_numbers_that_floating_point_has() {
        let third = Number::of(&Value::from(10.0 / 3.0)).unwrap().unwrap();
        assert_eq!(Arithmetic::Multiply.of(&third, &number("3")).unwrap().to_string(), "10.0");
        let error = Arithmetic::Multiply.of(&third, &number("9007199254740993")).unwrap_err();
        assert!(error.detail().unwrap().contains("meets a quotient or power that was rounded"), "{error}");
        let half = Number::of(&Value::from(2.5)).unwrap().unwrap();
        assert_eq!(
            Arithmetic::Add.of(&half, &number("9007199254740993")).unwrap().to_string(),
            "9007199254740995.5"
        );
    }

    #[test]
    fn numbers_are_compared_by_what_they_mean() {
        for (a, b, wanted) in [
            ("1", "1.0", Ordering::Equal),
            ("1e3", "1000", Ordering::Equal),
            ("9007199254740993", "9007199254740992.5", Ordering::Greater),
            ("1e999999999", "1e999999998", Ordering::Greater),
            ("-1e999999999", "0.1", Ordering::Less),
        ] {
            assert_eq!(number(a).compare(&number(b)), wanted, "{a} {b}");
        }
    }

    #[test]
    fn rounding_is_decimal() {
        let rounded = |text: &str, places| {
            number(text).rounded(places, RoundingMode::HalfEven).unwrap().into_value().unwrap().to_string()
        };
        assert_eq!(rounded("2.675", 2), "2.68");
        assert_eq!(rounded("2.665", 2), "2.66");
        assert_eq!(rounded("1234", -2), "1200");
        assert_eq!(number("-1.9").truncated().unwrap().into_value().unwrap().to_string(), "-1");
    }

    proptest::proptest! {
        /// What integers make is what decimals make of them.
        #[test]
        fn the_short_way_is_the_long_way(a in proptest::num::i64::ANY, b in proptest::num::i64::ANY) {
            use Arithmetic::{Add, DivideFloor, Multiply, Remainder, Subtract};
            for op in [Add, Subtract, Multiply, DivideFloor, Remainder] {
                if let Some(short) = op.of_integers(a.into(), b.into()) {
                    proptest::prop_assert_eq!(made(op, &a.to_string(), &b.to_string()), short.to_string());
                }
            }
        }
    }

    #[test]
    fn a_big_mantissa_is_bounded() {
        let digits = "9".repeat(5000);
        assert!(bounded(BigDecimal::from_str(&digits).unwrap()).is_err());
    }
}
