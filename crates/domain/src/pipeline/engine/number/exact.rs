//! A number with the digits and the spelling of its JSON.

use std::cmp::Ordering;
use std::str::FromStr as _;
use std::sync::Arc;

use bigdecimal::BigDecimal;
use minijinja::Value;
use minijinja::value::{DynObject, Object, ObjectRepr};

/// A number as it is written in JSON.
#[derive(Debug)]
pub struct Exact(Box<str>);

impl Exact {
    /// Its digits, as they are written.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether it is written as a whole number.
    pub fn is_integer(&self) -> bool {
        !self.0.contains(['.', 'e', 'E'])
    }

    pub(super) fn decimal(&self) -> Option<BigDecimal> {
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
pub fn value(text: &str) -> Value {
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
pub fn exact(text: &str) -> Value {
    Value::from_object(Exact(text.into()))
}

/// The number that a value is, if it is an [`Exact`].
pub fn as_exact(value: &Value) -> Option<&Exact> {
    value.downcast_object_ref::<Exact>()
}
