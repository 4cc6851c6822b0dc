//! Durations and shares as people write them.

use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};

/// Whatever is longer was not meant.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// `250ms`, `1s`, `5m`, `1h`, `1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span = parse_duration(&text).ok_or_else(|| {
            D::Error::custom(format!("invalid duration `{text}`: use 250ms, 1s, 5m, 1h or 1d"))
        })?;
        if span > LONGEST {
            return Err(D::Error::custom(format!("`{text}` is longer than a year; write 365d at most")));
        }
        Ok(Self(span))
    }
}

/// Reads a duration; none when it is none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()
}

/// `10 %`, `10%` or `0.1`, kept in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub u16);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShareVisitor;
        impl<'de> Visitor<'de> for ShareVisitor {
            type Value = Share;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a share such as `10 %` or 0.1")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Share, E> {
                let number = match text.strip_suffix('%') {
                    Some(percent) => percent.trim().parse::<f64>().ok().map(|percent| percent / 100.0),
                    None => text.trim().parse::<f64>().ok(),
                };
                number
                    .and_then(share)
                    .ok_or_else(|| E::custom(format!("invalid share `{text}`: use `10 %` or 0.1")))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Share, E> {
                share(number).ok_or_else(|| E::custom(format!("invalid share {number}: use `10 %` or 0.1")))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Share, E> {
                #[allow(clippy::cast_precision_loss, reason = "anything above 1 is refused")]
                self.visit_f64(number as f64)
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Share, E> {
                #[allow(clippy::cast_precision_loss, reason = "anything above 1 is refused")]
                self.visit_f64(number as f64)
            }
            // serde_json gives out a fraction as a map of its own, to keep the digits.
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Share, A::Error> {
                let value = serde_json::Value::deserialize(MapAccessDeserializer::new(map))?;
                let number = value.as_f64().ok_or_else(|| A::Error::invalid_type(Unexpected::Map, &self))?;
                self.visit_f64(number)
            }
        }
        deserializer.deserialize_any(ShareVisitor)
    }
}

fn share(number: f64) -> Option<Share> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10,000")]
    (0.0..=1.0).contains(&number).then(|| Share((number * 10_000.0).round() as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_from_json_text_and_from_its_value() {
        for (text, share) in [
            ("0.1", 1000),
            ("0.10", 1000),
            ("1e-1", 1000),
            ("1", 10_000),
            ("1.0", 10_000),
            ("0", 0),
            ("\"10 %\"", 1000),
            ("\"0.1\"", 1000),
        ] {
            assert_eq!(serde_json::from_str::<Share>(text).unwrap(), Share(share), "{text}");
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::from_value::<Share>(value).unwrap(), Share(share), "{text}");
        }
        for text in ["1.1", "-0.1", "{}", "{\"a\":0.1}", "[0.1]", "\"x\"", "null", "1e400"] {
            assert!(serde_json::from_str::<Share>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2d"), Some(Duration::from_secs(172_800)));
        for text in ["", "5", "s", "-1s", "1 y", "1e3s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
