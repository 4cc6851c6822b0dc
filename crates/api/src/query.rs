//! Query parameters, read strictly: one that a route does not have, or that is not UTF-8 in percent-encoding, is refused
//! and never guessed at.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// A route's query parameters. A control character in one is refused: no filter can match it.
#[derive(Debug)]
pub struct Query<T>(pub T);

/// No parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// The query of a route that takes none.
pub type NoQuery = Query<Nothing>;

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let query = request.query_string();
        ready(match decoded(query) {
            Some(bytes) if bytes.iter().any(u8::is_ascii_control) => {
                Err(Problem::bad_request("bad_query", "a query parameter holds a control character"))
            }
            _ => read(query).map(Self),
        })
    }
}

/// Reads a query whose values may hold anything that is text.
///
/// # Errors
/// 400 when it is no UTF-8 in percent-encoding, or has a parameter that is not asked for here.
pub fn read<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    if decoded(query).is_none() {
        return Err(Problem::bad_request(
            "bad_query",
            "the query is not UTF-8 in percent-encoding (RFC 3986, section 2.1)",
        ));
    }
    web::Query::<T>::from_query(query)
        .map(web::Query::into_inner)
        .map_err(|error| Problem::bad_request("bad_query", error.to_string()))
}

/// The bytes behind a query's percent signs; none when one stands without two digits, or when they are not UTF-8.
fn decoded(query: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(query.len());
    let mut rest = query.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    std::str::from_utf8(&bytes).is_ok().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_utf8_in_percent_encoding() {
        for (query, good) in [
            ("", true),
            ("a=b+c&d=%C3%B6", true),
            ("a=%00%0A", true),
            ("a=%", false),
            ("a=%4", false),
            ("a=%zz", false),
            ("a=%+1", false),
            ("a=%FF", false),
            ("a=%C3", false),
            ("a=%ED%A0%80", false),
        ] {
            assert_eq!(decoded(query).is_some(), good, "{query}");
        }
        assert_eq!(decoded("a=%C3%B6%0a"), Some("a=ö\n".as_bytes().to_vec()));
        assert!(read::<Nothing>("").is_ok());
        assert!(read::<Nothing>("x=1").is_err());
    }
}
