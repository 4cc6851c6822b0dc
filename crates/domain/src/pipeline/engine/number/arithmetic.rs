//! Addition to powers, exactly.

use bigdecimal::num_bigint::Sign;
use bigdecimal::num_traits::ToPrimitive as _;
use bigdecimal::{BigDecimal, Zero as _};
use minijinja::{Error, Value};

use super::decimal::{Decimal, MOST_DIGITS, Number, Rounded, bits, bounded, finite, short_float};
use super::error::{endless_quotient, impossible, irrational_power, too_large};

/// What two numbers can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
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
