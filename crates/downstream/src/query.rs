//! Pairs behind a URL's own query.

use penstock_domain::query::encoded;
use url::Url;

/// Appends pairs to a URL, behind the query that it has.
pub(crate) fn append<N: AsRef<str>, V: AsRef<str>>(url: &mut Url, pairs: impl IntoIterator<Item = (N, V)>) {
    let query = match url.query() {
        Some(own) if !own.is_empty() => format!("{own}&{}", encoded(pairs)),
        _ => encoded(pairs),
    };
    url.set_query(Some(&query));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_its_own_query() {
        for (url, appended) in [
            ("https://h.example/a", "https://h.example/a?q=x%20y%2Bz"),
            ("https://h.example/a?", "https://h.example/a?q=x%20y%2Bz"),
            ("https://h.example/a?sig=a+b%2F", "https://h.example/a?sig=a+b%2F&q=x%20y%2Bz"),
        ] {
            let mut url = Url::parse(url).unwrap();
            append(&mut url, [("q", "x y+z")]);
            assert_eq!(url.as_str(), appended);
        }
    }
}
