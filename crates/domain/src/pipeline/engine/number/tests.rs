use std::cmp::Ordering;
use std::str::FromStr as _;

use bigdecimal::{BigDecimal, RoundingMode};
use minijinja::Value;

use super::decimal::bounded;
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
        (Subtract, "340282366920938463463374607431768211456", "1", "340282366920938463463374607431768211455"),
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
