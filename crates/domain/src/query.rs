//! The query of a URL as it is sent.

use url::form_urlencoded::Serializer;

/// Pairs as a query, encoded. A space is `%20`: every reader takes it for a space, while to some, such as those of `OData`, the
/// `+` of forms is a plus.
pub fn encoded<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> String {
    // A plus in a name or a value is `%2B` here.
    Serializer::new(String::new()).extend_pairs(pairs).finish().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_is_no_plus() {
        let pairs = [("$filter", "name eq 'ä+b'"), ("a b", ""), ("c", "%20&=")];
        assert_eq!(encoded(pairs), "%24filter=name%20eq%20%27%C3%A4%2Bb%27&a%20b=&c=%2520%26%3D");
    }
}
