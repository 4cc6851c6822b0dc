//! Why a number cannot be computed.

use minijinja::Error;

use super::super::error::refused;

pub(super) fn too_large() -> Error {
    refused("the number has too many digits to be computed with")
}

pub(super) fn not_finite() -> Error {
    refused("the result is not a finite number")
}

/// A long number meets one that was rounded.
pub(super) fn rounded_operand() -> Error {
    refused(
        "the result cannot be exact, because a number of more than 15 digits meets a quotient or power that was rounded; \
         use `round` on that one first",
    )
}

pub(super) fn endless_quotient() -> Error {
    refused(
        "the result cannot be exact, because the quotient of numbers of more than 15 digits has no end; use `//`",
    )
}

pub(super) fn irrational_power() -> Error {
    refused(
        "the result cannot be exact, because a number of more than 15 digits has a power that is not a whole number",
    )
}

pub(super) fn impossible() -> Error {
    refused("a division by zero")
}
