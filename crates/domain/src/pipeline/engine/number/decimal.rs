//! A number that can be computed with.

use std::cmp::Ordering;
use std::str::FromStr as _;

use bigdecimal::num_traits::ToPrimitive as _;
use bigdecimal::{BigDecimal, RoundingMode, Zero as _};
use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::error::{not_finite, rounded_operand, too_large};
use super::exact::{Exact, as_exact, exact, value};

/// More digits, zeros of an exponent included, are not computed with.
pub(super) const MOST_DIGITS: u64 = 4096;

/// Decimals of this many digits are the same after a way through a 64-bit floating-point number.
pub(super) const SHORT_DIGITS: u64 = 15;

/// A number that can be computed with.
#[derive(Clone, Debug)]
pub enum Number {
    /// Every digit of it is known.
    Decimal(BigDecimal),
    /// A quotient or power that was rounded.
    Rounded(f64),
}

pub(super) use Number::{Decimal, Rounded};

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

    /// Without what stands after the point.
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

    /// Rounded to this many places after the point.
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

    /// Whether it is even; none when it is not a whole number.
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

/// A place in a list: a whole number is an integer, however it is written.
pub fn index(value: &Value) -> Value {
    let whole = as_exact(value).and_then(Exact::decimal).filter(BigDecimal::is_integer);
    let integer = whole.and_then(|whole| Decimal(whole).truncated().and_then(Number::into_value).ok());
    integer.unwrap_or_else(|| value.clone())
}

/// As a floating-point number that means the same decimal; none when there is none.
pub(super) fn short_float(decimal: &BigDecimal) -> Option<f64> {
    if decimal.is_zero() {
        return Some(0.0);
    }
    let short = decimal.digits() <= SHORT_DIGITS || decimal.normalized().digits() <= SHORT_DIGITS;
    let number = short.then(|| decimal.to_f64()).flatten()?;
    (number.is_finite() && number.abs() >= f64::MIN_POSITIVE).then_some(number)
}

/// The number, if all its places can be written down.
pub(super) fn bounded(decimal: BigDecimal) -> Result<BigDecimal, Error> {
    let (mantissa, scale) = decimal.as_bigint_and_scale();
    let written = mantissa.bits() <= bits(MOST_DIGITS) && scale.unsigned_abs() <= MOST_DIGITS;
    if written { Ok(decimal) } else { Err(too_large()) }
}

/// Bits that this many digits take, at most.
pub(super) const fn bits(digits: u64) -> u64 {
    digits * 10 / 3
}

pub(super) fn finite(number: f64) -> Result<Value, Error> {
    if number.is_finite() { Ok(Value::from(number)) } else { Err(not_finite()) }
}

pub(super) fn shortest(number: f64) -> Result<BigDecimal, Error> {
    BigDecimal::from_str(&format!("{number:e}")).map_err(|_| not_finite())
}
