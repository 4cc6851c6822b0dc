//! Where a request goes: a path after the dependency's base URL, or a URL that an earlier answer gave.

use minijinja::Value;
use url::Url;

use crate::pipeline::step::RenderError;
use crate::pipeline::template::{Template, checked_path};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A path after the dependency's base URL, encoded.
    Path(String),
    /// A whole URL, http or https, without a user and a fragment. Whether the dependency may be called there is not known yet.
    Url(Url),
    /// A path at the dependency's own origin, perhaps with a query: what an answer gives may be relative (RFC 9110, 10.2.2).
    AtOrigin(String),
    /// Not a URL that anybody may be called at; why, in a sentence without the URL.
    Forbidden(&'static str),
}

impl Target {
    /// What an operator's log shows of it: the path. A query may hold what an API keeps secret.
    pub fn path(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Url(url) => url.path(),
            Self::AtOrigin(path) => path.split('?').next().unwrap_or_default(),
            Self::Forbidden(_) => "",
        }
    }
}

/// What a kept [`Target::AtOrigin`] begins with: neither a path nor a URL does.
const AT_ORIGIN: &str = "origin:";

impl Target {
    /// As it is kept, sealed, of a row that waits for a result.
    pub fn to_kept(&self) -> String {
        match self {
            Self::Path(path) => path.clone(),
            Self::Url(url) => url.to_string(),
            Self::AtOrigin(path) => format!("{AT_ORIGIN}{path}"),
            Self::Forbidden(_) => String::new(),
        }
    }

    /// Reads [`Target::to_kept`]: a path begins with `/`.
    pub fn from_kept(kept: &str) -> Self {
        if kept.starts_with('/') {
            return Self::Path(kept.to_owned());
        }
        Self::from_url(kept.strip_prefix(AT_ORIGIN).unwrap_or(kept))
    }

    /// Where a URL leads that was given by an answer, perhaps as a path at the dependency's origin.
    fn from_url(text: &str) -> Self {
        if text.starts_with('/') && !text.starts_with("//") && !is_ambiguous(text) {
            return Self::AtOrigin(text.split('#').next().unwrap_or_default().to_owned());
        }
        whole_url(text).map_or_else(Self::Forbidden, Self::Url)
    }
}

/// The template of a [`Target`].
#[derive(Debug)]
pub(in crate::pipeline) enum TargetTemplate {
    /// `path`.
    Path(Template),
    /// `url`.
    Url(Template),
}

impl TargetTemplate {
    /// The target for a row.
    ///
    /// # Errors
    /// When the template reads something that is not there, or a value makes another path than the one that is written.
    pub fn render(&self, step: &str, values: &Value) -> Result<Target, RenderError> {
        match self {
            Self::Path(template) => {
                let rendered = template.render_text(values);
                let rendered = rendered.map_err(|error| RenderError::new(step, "path", &error))?;
                let path = checked_path(&rendered).map_err(|why| RenderError::because(step, "path", why))?;
                Ok(Target::Path(path))
            }
            Self::Url(template) => {
                let rendered = template.render_text(values);
                let rendered = rendered.map_err(|error| RenderError::new(step, "url", &error))?;
                Ok(Target::from_url(&rendered))
            }
        }
    }
}

/// Whether readers of URLs may understand a text differently.
fn is_ambiguous(text: &str) -> bool {
    text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\')
}

/// A URL that was given by an answer. What readers of URLs understand differently is refused before it is read (RFC 3986, 3;
/// WHATWG URL, 4.4): only then is the host that is compared the host that is called.
fn whole_url(text: &str) -> Result<Url, &'static str> {
    if is_ambiguous(text) {
        return Err("it holds white space, a control character or a backslash");
    }
    let (scheme, rest) = text.split_once(':').unwrap_or_default();
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if !is_http || !rest.starts_with("//") {
        return Err("it is not an absolute http or https URL");
    }
    if rest.starts_with("///") {
        return Err("it names no host");
    }
    let mut url = Url::parse(text).map_err(|_| "it is not a URL")?;
    if !url.username().is_empty() || url.password().is_some() || authority(text).contains('@') {
        return Err("it names a user");
    }
    url.set_fragment(None);
    Ok(url)
}

/// What stands between `//` and the path.
fn authority(text: &str) -> &str {
    let rest = text.split_once("//").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_at_the_dependencys_origin() {
        let at = |path: &str| Target::AtOrigin(path.to_owned());
        assert_eq!(Target::from_url("/jobs/7?a=b#c"), at("/jobs/7?a=b"));
        assert_eq!(Target::from_kept(&at("/jobs/7?a=b").to_kept()), at("/jobs/7?a=b"));
        assert_eq!(at("/jobs/7?token=x").path(), "/jobs/7");
        for text in
            ["//evil.example/x", "/\\evil.example/x", "/\t/evil.example", "jobs/7", "?a=b", "origin:/x"]
        {
            assert!(matches!(Target::from_url(text), Target::Forbidden(_)), "{text:?}");
        }
    }

    #[test]
    fn only_plain_absolute_urls_are_read() {
        for (text, read) in [
            ("https://api.example/a?b=c#d", "https://api.example/a?b=c"),
            ("HTTP://API.example:8080/x", "http://api.example:8080/x"),
            ("https://münchen.example/", "https://xn--mnchen-3ya.example/"),
            ("http://[::1]:9/x", "http://[::1]:9/x"),
        ] {
            assert_eq!(whole_url(text).map(|url| url.to_string()).as_deref(), Ok(read), "{text}");
        }
        for text in [
            "",
            "/path",
            "//api.example/x",
            "ftp://api.example/",
            "javascript:alert(1)",
            "https:api.example/x",
            "https:/api.example/x",
            "https:///api.example/x",
            "http:///api.example/x",
            "https:\\\\api.example/x",
            "https://api.example\\@evil.example/",
            "https://api.example@evil.example/",
            "https://@api.example/",
            "https://:@api.example/",
            "https://user:secret@api.example/",
            "https://api.example /x",
            "https://api.exa\nmple/x",
            " https://api.example/x",
            "https://",
            "https://?x",
            "https://api.example:99999/",
            "https://exa%6Dple.%00/",
        ] {
            assert!(whole_url(text).is_err(), "{text:?}: {:?}", whole_url(text));
        }
    }
}
