//! `hmac`: a signature over a message that the definition composes of the request.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use minijinja::{Environment, Error, ErrorKind, Value};

use crate::pipeline::engine::{self, Program};
use crate::pipeline::live::LiveText;
use crate::pipeline::owner::OwnerReads;
use crate::pipeline::template;
use crate::pipeline::vars::Filled;

/// Stands for a body that is not text while a message is rendered.
const BODY: &str = "\u{10FFFE}body\u{10FFFE}";

/// The hash of a signature (RFC 2104; SHA-1 for APIs that know no other).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HmacAlgorithm {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// `auth.hmac`.
#[derive(Clone, Debug)]
pub struct Hmac {
    /// The secret.
    pub secret: LiveText,
    /// The hash.
    pub algorithm: HmacAlgorithm,
    /// What its templates read of the owner, once that is known.
    pub(super) owner: Option<Value>,
    pub(super) message: SigningTemplate,
    pub(super) headers: Vec<(String, SigningTemplate)>,
}

/// A request as it is sent, for its signature.
#[derive(Clone, Copy, Debug)]
pub struct Signable<'a> {
    /// Seconds since 1970.
    pub timestamp: i64,
    /// The method.
    pub method: &'a str,
    /// The path as it is sent.
    pub path: &'a str,
    /// The query as it is sent, without `?`.
    pub query: &'a str,
    /// Headers by name in lower case.
    pub headers: &'a BTreeMap<String, String>,
    /// The body.
    pub body: &'a [u8],
    /// Its SHA-256, in lower-case hexadecimal digits.
    pub body_sha256: &'a str,
}

/// A header that goes with a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whether the signature stands in it, or something fixed, which may be a key; others show no secret.
    pub is_signature: bool,
}

impl Hmac {
    fn values(&self, request: &Signable<'_>, body: &str) -> BTreeMap<&'static str, Value> {
        let mut values = values(request, body);
        values.extend(self.owner.clone().map(|owner| ("owner", owner)));
        values
    }

    /// What is signed. Its headers are those that are sent, but for those with the signature.
    ///
    /// # Errors
    /// A sentence that holds no value, when the template cannot be applied.
    pub fn message(&self, request: &Signable<'_>) -> Result<Vec<u8>, String> {
        let text = std::str::from_utf8(request.body);
        let body = text.unwrap_or(BODY);
        let mut headers = request.headers.clone();
        for (name, template) in self.headers.iter().filter(|(_, template)| !template.reads_signature()) {
            let value = template.render(self.values(request, body), &format!("auth.hmac.headers.{name}"))?;
            headers.insert(name.to_ascii_lowercase(), value);
        }
        let request = &Signable { headers: &headers, ..*request };
        let rendered = self.message.render(self.values(request, body), "auth.hmac.message")?;
        if text.is_ok() {
            return Ok(rendered.into_bytes());
        }
        let mut message = Vec::with_capacity(rendered.len() + request.body.len());
        for (index, part) in rendered.split(BODY).enumerate() {
            if index > 0 {
                message.extend_from_slice(request.body);
            }
            message.extend_from_slice(part.as_bytes());
        }
        Ok(message)
    }

    /// The headers that carry the signature.
    ///
    /// # Errors
    /// As [`Hmac::message`].
    pub fn headers(&self, request: &Signable<'_>, signature: &[u8]) -> Result<Vec<SignedHeader>, String> {
        let mut values = self.values(request, std::str::from_utf8(request.body).unwrap_or_default());
        values.insert("signature", Value::from_bytes(signature.to_vec()));
        let header = |(name, template): &(String, SigningTemplate)| {
            let value = template.render(values.clone(), &format!("auth.hmac.headers.{name}"))?;
            Ok(SignedHeader { name: name.clone(), value, is_signature: template.is_secret() })
        };
        self.headers.iter().map(header).collect()
    }
}

fn values(request: &Signable<'_>, body: &str) -> BTreeMap<&'static str, Value> {
    let of_request: BTreeMap<&str, Value> = [
        ("timestamp", Value::from(request.timestamp)),
        ("method", Value::from(request.method)),
        ("path", Value::from(request.path)),
        ("query", Value::from(request.query)),
        ("headers", engine::from_texts(request.headers)),
        ("body", Value::from(body)),
        // `base64` and `hex` of a hash encode its bytes.
        ("body_sha256", Value::from_safe_string(request.body_sha256.to_owned())),
    ]
    .into();
    [("request", Value::from(of_request))].into()
}

/// A template that reads a request, and for headers its signature.
#[derive(Clone, Debug)]
pub(super) enum SigningTemplate {
    Text(String),
    Program {
        program: Arc<Program>,
        /// Whether it reads the signature.
        signature: bool,
        /// Whether it reads the signature or the owner.
        secret: bool,
    },
}

/// What a template may read.
const KNOWN: [&str; 7] = ["timestamp", "method", "path", "query", "headers", "body", "body_sha256"];

impl SigningTemplate {
    /// Compiles a template, and tries it with a request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn compile(filled: Filled, signature: bool, owner: &mut OwnerReads) -> Result<Self, String> {
        let text = match filled {
            Filled::Plain(text) => return Ok(Self::Text(text)),
            Filled::Template(text) => text,
        };
        let read = |error: &Error| {
            format!("the template cannot be read: {}", error.detail().unwrap_or("its syntax is off"))
        };
        let names =
            SIGNING.template_from_str(&text).map_err(|error| read(&error))?.undeclared_variables(true);
        let (mut reads_signature, mut secret) = (false, false);
        for name in names {
            reads_signature |= name == "signature";
            secret |= name == "signature" || name.starts_with("owner.");
            let known = match name.split_once('.') {
                Some(("request", rest)) => KNOWN.contains(&rest.split('.').next().unwrap_or_default()),
                Some(("owner", _)) => owner.add(&name),
                _ => name == "request" || name == "now" || (signature && name == "signature"),
            };
            if !known {
                let more = if signature { " and `signature`" } else { "" };
                let known: Vec<String> = KNOWN.iter().map(|key| format!("request.{key}")).collect();
                return Err(format!("`{name}` is not known here; there are {}{more}", known.join(", ")));
            }
        }
        let program = Program::template(&text).map_err(|error| read(&error))?;
        let template = Self::Program { program: Arc::new(program), signature: reads_signature, secret };
        let headers = BTreeMap::new();
        let sample = Signable {
            timestamp: 0,
            method: "GET",
            path: "/",
            query: "",
            headers: &headers,
            body: b"",
            body_sha256: "",
        };
        let mut values = values(&sample, "");
        values.insert("signature", Value::from_bytes(vec![0xFF; 32]));
        match template.try_render(values) {
            // A header that is not in the sample.
            Err(error) if error.kind() == ErrorKind::UndefinedError => {}
            Err(error) => return Err(format!("the template cannot be applied: {}", error.kind())),
            Ok(_) => {}
        }
        Ok(template)
    }

    fn reads_signature(&self) -> bool {
        matches!(self, Self::Program { signature: true, .. })
    }

    /// Whether what it makes is not shown.
    fn is_secret(&self) -> bool {
        match self {
            Self::Text(_) => true,
            Self::Program { secret, .. } => *secret,
        }
    }

    fn try_render(&self, values: BTreeMap<&'static str, Value>) -> Result<String, Error> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Program { program, .. } => program.render(&SIGNING, Value::from(values)),
        }
    }

    fn render(&self, values: BTreeMap<&'static str, Value>, whose: &str) -> Result<String, String> {
        self.try_render(values)
            .map_err(|error| format!("{whose} cannot be applied to the request: {}", error.kind()))
    }
}

/// Where signatures' templates run.
static SIGNING: LazyLock<Environment<'static>> = LazyLock::new(template::environment);

#[cfg(test)]
mod tests {
    use super::*;

    fn hmac(message: &str, header: &str) -> Hmac {
        let compile = |text: &str, signature| {
            SigningTemplate::compile(Filled::Template(text.into()), signature, &mut OwnerReads::default())
                .unwrap()
        };
        Hmac {
            secret: "s".into(),
            algorithm: HmacAlgorithm::Sha256,
            owner: None,
            message: compile(message, false),
            headers: vec![("X-Signature".into(), compile(header, true))],
        }
    }

    #[test]
    fn a_message_is_made_of_exactly_what_is_sent() {
        let headers = [("content-type".to_owned(), "a/b".to_owned())].into();
        let mut request = Signable {
            timestamp: 1_700_000_000,
            method: "POST",
            path: "/v1/a%20b",
            query: "x=1&y=%20",
            headers: &headers,
            body: b"{\"a\": 1}\n",
            body_sha256: "abc",
        };
        let all = "{{ request.timestamp }}\n{{ request.method }}\n{{ request.path }}?{{ request.query }}\n\
                   {{ request.headers['content-type'] }}\n{{ request.body }}|{{ request.body_sha256 }}";
        let signer =
            hmac(all, "t={{ request.timestamp }},v1={{ signature | hex }},b={{ signature | base64 }}");
        let wanted = b"1700000000\nPOST\n/v1/a%20b?x=1&y=%20\na/b\n{\"a\": 1}\n|abc";
        assert_eq!(signer.message(&request).unwrap(), wanted);
        // A line break at the end is signed too, and is none of a header's.
        let breaks = hmac("{{ request.method }}\n", "{{ signature | hex }}");
        assert_eq!(breaks.message(&request).unwrap(), b"POST\n");
        assert_eq!(
            signer.headers(&request, &[0xFF, 0, 1]).unwrap(),
            [SignedHeader {
                name: "X-Signature".to_owned(),
                value: "t=1700000000,v1=ff0001,b=/wAB".to_owned(),
                is_signature: true
            }]
        );
        let of_time = hmac("m", "{{ request.timestamp }}").headers(&request, &[0]).unwrap();
        assert!(!of_time[0].is_signature);
        let mut dated = hmac("{{ request.headers['x-date'] }}", "{{ signature | hex }}");
        let date = Filled::Template("{{ request.timestamp }}".into());
        let date = SigningTemplate::compile(date, true, &mut OwnerReads::default()).unwrap();
        dated.headers.push(("X-Date".into(), date));
        assert_eq!(dated.message(&request).unwrap(), b"1700000000");
        request.body = b"\xFF\xFE\0";
        assert_eq!(
            hmac("a{{ request.body }}b", "{{ signature | hex }}").message(&request).unwrap(),
            b"a\xFF\xFE\0b"
        );
    }

    #[test]
    fn what_can_never_be_applied_is_known_before() {
        let wrong = |text: &str| {
            SigningTemplate::compile(Filled::Template(text.into()), false, &mut OwnerReads::default())
                .err()
                .unwrap()
        };
        assert!(
            wrong("{{ row.a }}").starts_with("`row.a` is not known here; there are request.timestamp"),
            "{}",
            wrong("{{ row.a }}")
        );
        assert!(wrong("{{ request.bdy }}").starts_with("`request.bdy` is not known here"));
        assert!(wrong("{{ signature }}").starts_with("`signature` is not known here"));
        assert!(wrong("{{ request.").starts_with("the template cannot be read"));
        assert!(
            wrong("{{ request.path | hx }}").starts_with("the template cannot be applied: unknown filter")
        );
    }
}
