//! `auth`: from the definition to credentials that can be sent.
#![allow(missing_docs, reason = "private to the loader")]

use std::ops::{Deref, DerefMut};

use serde_saphyr::Spanned;

use super::definition::{ApiKeyDefinition, AuthDefinition};
use super::{Auth, signed};
use crate::pipeline::check::Source;
use crate::pipeline::definition::DependencyDefinition;
use crate::pipeline::dependency::check_header;
use crate::pipeline::live::LiveText;
use crate::pipeline::owner::OwnerReads;

/// The definition's text, whose values may read the owner.
pub(super) struct Reader<'r, 's> {
    pub(super) reads: &'r mut OwnerReads,
    pub(super) source: &'r mut Source<'s>,
}

impl Reader<'_, '_> {
    pub(super) fn live(&mut self, whose: &str, text: &str, line: u64) -> Option<LiveText> {
        self.source.live_of_owner(whose, text, line, self.reads)
    }
}

impl<'s> Deref for Reader<'_, 's> {
    type Target = Source<'s>;

    fn deref(&self) -> &Source<'s> {
        self.source
    }
}

impl<'s> DerefMut for Reader<'_, 's> {
    fn deref_mut(&mut self) -> &mut Source<'s> {
        self.source
    }
}

/// The credentials of a dependency.
pub fn auth(
    name: &str,
    definition: &DependencyDefinition,
    reads: &mut OwnerReads,
    source: &mut Source<'_>,
) -> Option<Auth> {
    let written = definition.auth.as_ref()?;
    let line = written.referenced.line();
    let auth = one_of(name, &written.value, line, &mut Reader { reads, source })?;
    for header in auth.headers() {
        let twice = definition.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(header));
        if let Some((known, value)) = twice {
            let message =
                format!("dependency `{name}`: `auth` sends the header `{known}`; remove one of the two");
            source.error(value.referenced.line(), message);
        }
    }
    Some(auth)
}

/// The one key that `auth` has.
fn one_of(name: &str, auth: &AuthDefinition, line: u64, source: &mut Reader<'_, '_>) -> Option<Auth> {
    let given = given(auth);
    if given.is_empty() && source.errors.iter().any(|error| error.line >= line) {
        // What was given could not be read, and was reported.
        return None;
    }
    if given.len() != 1 {
        let known = "`basic`, `bearer`, `api_key`, `oauth2`, `hmac` or `aws_sigv4`";
        let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
        source.broken(line, format!("dependency `{name}`: `auth` has one of {known}; it has {found}"));
        return None;
    }
    let whose = format!("dependency `{name}`: auth");
    if let Some(basic) = &auth.basic {
        let username = text(&format!("{whose}.basic.username"), &basic.value.username, source);
        if username.as_ref().and_then(LiveText::fixed).is_some_and(|username| username.contains(':')) {
            let message = "ends at the first `:` (RFC 7617, 2), so that it cannot have one";
            source.error(basic.value.username.referenced.line(), format!("{whose}.basic.username {message}"));
        }
        let password = match &basic.value.password {
            Some(password) => text(&format!("{whose}.basic.password"), password, source)?,
            None => LiveText::from(""),
        };
        return Some(Auth::Basic { username: username?, password });
    }
    if let Some(bearer) = &auth.bearer {
        return text(&format!("{whose}.bearer"), bearer, source).map(Auth::Bearer);
    }
    if let Some(oauth2) = &auth.oauth2 {
        return super::oauth2::load(
            &format!("{whose}.oauth2"),
            &oauth2.value,
            oauth2.referenced.line(),
            source,
        );
    }
    if let Some(hmac) = &auth.hmac {
        return signed::hmac(&format!("{whose}.hmac"), &hmac.value, source);
    }
    if let Some(sigv4) = &auth.aws_sigv4 {
        return signed::aws_sigv4(&format!("{whose}.aws_sigv4"), &sigv4.value, source);
    }
    let key = auth.api_key.as_ref()?;
    api_key(&whose, &key.value, key.referenced.line(), source)
}

fn given(auth: &AuthDefinition) -> Vec<&'static str> {
    let keys = [
        ("`basic`", auth.basic.is_some()),
        ("`bearer`", auth.bearer.is_some()),
        ("`api_key`", auth.api_key.is_some()),
        ("`oauth2`", auth.oauth2.is_some()),
        ("`hmac`", auth.hmac.is_some()),
        ("`aws_sigv4`", auth.aws_sigv4.is_some()),
    ];
    keys.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect()
}

fn api_key(whose: &str, key: &ApiKeyDefinition, line: u64, source: &mut Reader<'_, '_>) -> Option<Auth> {
    let value = text(&format!("{whose}.api_key.value"), &key.value, source);
    match (&key.header, &key.query) {
        (Some(header), None) => {
            let at = header.referenced.line();
            check_header(&format!("{whose}.api_key"), &header.value, at, source);
            Some(Auth::KeyHeader { name: header.value.clone(), value: value? })
        }
        (None, Some(query)) => Some(Auth::KeyQuery { name: query.value.clone(), value: value? }),
        (header, _) => {
            let found = if header.is_some() { "both" } else { "neither" };
            let message = format!("{whose}.api_key has `header: NAME` or `query: NAME`; it has {found}");
            source.broken(line, message);
            None
        }
    }
}

/// The same of a text that may be missing.
pub(super) fn optional(
    whose: &str,
    written: Option<&Spanned<String>>,
    source: &mut Reader<'_, '_>,
) -> Option<Option<LiveText>> {
    match written {
        Some(written) => text(whose, written, source).map(Some),
        None => Some(None),
    }
}

/// A secret: free of control characters where it is known.
pub(super) fn text(whose: &str, written: &Spanned<String>, source: &mut Reader<'_, '_>) -> Option<LiveText> {
    let line = written.referenced.line();
    let text = source.live(whose, &written.value, line)?;
    let Some(fixed) = text.fixed() else { return Some(text) };
    if fixed.trim() != fixed {
        source.error(line, format!("{whose} begins or ends with white space; remove it"));
    } else if fixed.chars().any(char::is_control) {
        source.error(line, format!("{whose} has a control character, such as a line break; remove it"));
    }
    Some(text)
}
