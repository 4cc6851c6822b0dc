//! Numbers of any length, exactly.
//!
//! A number of JSON that no 128-bit integer holds as it is written (`19.90`, `1e3`, 60 digits) is an [`Exact`]: a value of
//! the template engine that keeps the digits and their spelling. Arithmetic on it is decimal and exact. What cannot be exact
//! is an error, with one exception: a quotient or power without an end (`10 / 3`) of short numbers is a binary
//! floating-point number, as everywhere; it never meets a number that floating point would round.
mod arithmetic;
mod decimal;
mod error;
mod exact;
#[cfg(test)]
mod tests;

pub(super) use arithmetic::Arithmetic;
pub(super) use decimal::{Number, index};
pub(super) use exact::{Exact, as_exact, exact, value};
