//! The keys of `request`, from the definition to templates.
#![allow(missing_docs, reason = "private to the loader")]

use serde_json::Value as Json;
use serde_saphyr::Spanned;

use super::key::{self, KeyPlace, KeyTemplate};
use super::multipart::{MultipartTemplate, PartTemplate};
use super::{BodyTemplate, RequestTemplate, TargetTemplate};
use crate::pipeline::call::{Here, Read, compiled, has_each, json, json_ordered, text};
use crate::pipeline::check::Source;
use crate::pipeline::definition::{KeyDefinition, Method, StepDefinition};
use crate::pipeline::dependency::check_header;
use crate::pipeline::engine;
use crate::pipeline::names::{Names, hint};
use crate::pipeline::template::{JsonTemplate, Kind, Template};
use crate::pipeline::written::Written;

/// A template that cannot be used; the error was reported.
struct Broken;

/// What the keys of a request are read with.
pub(super) struct Loader<'a, 's, 't> {
    pub(super) step: &'a StepDefinition,
    pub(super) names: &'a Names,
    pub(super) read: &'a mut Read,
    pub(super) source: &'s mut Source<'t>,
    /// Whether templates read an answer.
    pub(super) answer: bool,
    /// Whether one of them has read its body.
    pub(super) reads_body: bool,
}

/// A step's request; none when it is broken.
pub(in crate::pipeline) fn request(
    step: &StepDefinition,
    line: u64,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<RequestTemplate> {
    let mut loader = Loader { step, names, read, source, answer: false, reads_body: false };
    let target = loader.target(line);
    let query = loader.query();
    let headers = loader.headers();
    let body = loader.body();
    let key = loader.key();
    let content_type = loader.content_type(body.as_ref().is_ok_and(Option::is_some));
    Some(RequestTemplate {
        method: step.request.method,
        target: target?,
        query,
        headers,
        body: body.ok()?,
        content_type,
        key,
    })
}

impl Loader<'_, '_, '_> {
    pub(super) fn wrong(&mut self, line: u64, message: &str) {
        self.source.error(line, format!("step `{}`: {message}", self.step.name));
    }

    fn text(&mut self, written: &str, line: u64) -> Option<Template> {
        text(written, Here { names: self.names, answer: false, line }, self.read, self.source)
    }

    fn compiled(&mut self, written: &Spanned<String>, kind: Kind) -> Option<(Template, String)> {
        let here = Here { names: self.names, answer: self.answer, line: written.referenced.line() };
        let (template, reading) = compiled(&written.value, kind, here, self.read, self.source)?;
        self.reads_body |= reading.roots.contains("body");
        Some((template, reading.skeleton))
    }

    /// `path` or `url`.
    fn target(&mut self, line: u64) -> Option<TargetTemplate> {
        let request = &self.step.request;
        match (&request.path, &request.url) {
            (Some(path), None) => self.path(path).map(TargetTemplate::Path),
            (None, Some(url)) => self.url(url).map(TargetTemplate::Url),
            (Some(_), Some(url)) => {
                self.wrong(
                    url.referenced.line(),
                    "`path` and `url` both say where the request goes; remove one of the two",
                );
                self.source.is_broken = true;
                None
            }
            (None, None) => {
                self.wrong(
                    line,
                    "`request` has no `path`; write where the request goes, such as `path: /people`",
                );
                self.source.is_broken = true;
                None
            }
        }
    }

    pub(super) fn path(&mut self, written: &Spanned<String>) -> Option<Template> {
        let (template, skeleton) = self.compiled(written, Kind::Path)?;
        let line = written.referenced.line();
        if !written.value.starts_with('/') {
            self.wrong(line, "path begins with `/`");
        }
        if skeleton.contains(['?', '#']) {
            self.wrong(
                line,
                "`?` and `#` would be encoded as parts of the path; write `query: { key: value }` for what follows `?`",
            );
        }
        if skeleton.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
            self.wrong(
                line,
                "a path has no white space, control characters or backslashes; encode them, such as %20",
            );
        }
        let dots =
            |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
        if skeleton.split('/').any(dots) {
            self.wrong(line, "`.` and `..` in a path would lead elsewhere; write the path itself");
        }
        Some(template)
    }

    pub(super) fn url(&mut self, written: &Spanned<String>) -> Option<Template> {
        let (template, skeleton) = self.compiled(written, Kind::Plain)?;
        if matches!(template, Template::Text(_)) && !skeleton.is_empty() {
            let message = "`url` is for an address that an earlier answer gave, such as \
                           `{{ steps.start.location }}`; write `path` for one that is always the same";
            self.wrong(written.referenced.line(), message);
        }
        Some(template)
    }

    fn query(&mut self) -> Vec<(String, Template)> {
        let mut query = Vec::new();
        for (name, value) in &self.step.request.query {
            let written = self.source.json(value);
            self.pairs(name, written, value.referenced.line(), &mut query);
        }
        query
    }

    /// The pairs of a value of the query, as `form` writes them: a list repeats its name, a map becomes `a[b]`.
    fn pairs(&mut self, name: &str, value: Json, line: u64, query: &mut Vec<(String, Template)>) {
        match value {
            Json::Array(items) => items.into_iter().for_each(|item| self.pairs(name, item, line, query)),
            Json::Object(fields) => {
                for (key, field) in fields {
                    self.pairs(&format!("{name}[{key}]"), field, line, query);
                }
            }
            Json::String(text) => query.extend(self.text(&text, line).map(|text| (name.to_owned(), text))),
            other => query.extend(self.text(&other.to_string(), line).map(|text| (name.to_owned(), text))),
        }
    }

    fn headers(&mut self) -> Vec<(String, Template)> {
        let mut headers = Vec::new();
        for (name, value) in &self.step.request.headers {
            let at = value.referenced.line();
            check_header(&format!("step `{}`", self.step.name), name, at, self.source);
            let compiled = self.text(&value.value, at);
            headers.extend(compiled.map(|template| (name.clone(), template)));
        }
        headers
    }

    /// `idempotency_key`.
    fn key(&mut self) -> Option<KeyTemplate> {
        let written = self.step.request.idempotency_key.as_ref()?;
        let line = written.referenced.line();
        let KeyDefinition::Place { header, query, json, value } = &written.value else {
            let KeyDefinition::Flag(true) = written.value else { return None };
            self.refuse_header(
                key::HEADER,
                "`idempotency_key: true` sends this header; remove one of the two",
            );
            return Some(KeyTemplate { place: KeyPlace::Header(key::HEADER.to_owned()), value: None });
        };
        let places = [header, query, json].into_iter().flatten().count();
        if places > 1 {
            self.wrong(
                line,
                "`idempotency_key` is sent in one place; keep one of `header`, `query` and `json`",
            );
        }
        let place = if let Some(name) = header {
            check_header(&format!("step `{}`", self.step.name), name, line, self.source);
            self.refuse_header(name, "`idempotency_key` sends this header; remove one of the two");
            KeyPlace::Header(name.clone())
        } else if let Some(name) = query {
            if self.step.request.query.contains_key(name) {
                self.wrong(line, "`idempotency_key` sends this pair of the query; remove one of the two");
            }
            KeyPlace::Query(name.clone())
        } else if let Some(name) = json {
            self.key_in_body(name, line);
            KeyPlace::Body(name.clone())
        } else {
            KeyPlace::Header(key::HEADER.to_owned())
        };
        if place == KeyPlace::Header(key::HEADER.to_owned()) && header.is_none() {
            self.refuse_header(key::HEADER, "`idempotency_key` sends this header; remove one of the two");
        }
        let value = value.as_ref().and_then(|value| self.key_value(value));
        Some(KeyTemplate { place, value })
    }

    /// Reports a header of the step that something else sends.
    fn refuse_header(&mut self, name: &str, message: &str) {
        let headers = &self.step.request.headers;
        if let Some((_, value)) = headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)) {
            self.wrong(value.referenced.line(), message);
        }
    }

    fn key_in_body(&mut self, name: &str, line: u64) {
        let request = &self.step.request;
        let taken = match (&request.json, &request.form, &request.multipart) {
            (Some(body), None, None) | (None, Some(body), None) => {
                match &body.value {
                    Written::Map(fields) => fields.iter().any(|(field, _)| field == name),
                    Written::Scalar(serde_json::Value::String(_)) => false,
                    _ => {
                        self.wrong(line, "the body is no map, so `idempotency_key` has no place in it; send it in a `header`");
                        false
                    }
                }
            }
            (None, None, Some(parts)) => parts.value.contains_key(name),
            _ => {
                let message = "`idempotency_key: { json: … }` needs a body of `json`, `form` or `multipart`; send it in a `header`";
                self.wrong(line, message);
                false
            }
        };
        if taken {
            self.wrong(line, "`idempotency_key` is sent as this field of the body; remove one of the two");
        }
    }

    /// The key's own template: it must be the same at each attempt.
    fn key_value(&mut self, written: &Spanned<String>) -> Option<Template> {
        let mut names = self.names.clone();
        names.keyed = false;
        let here = Here { names: &names, answer: false, line: written.referenced.line() };
        let (template, reading) = compiled(&written.value, Kind::Plain, here, self.read, self.source)?;
        if reading.roots.contains(engine::NOW) {
            self.wrong(
                written.referenced.line(),
                "an idempotency key is the same for each attempt, and `now()` is not",
            );
        }
        if matches!(template, Template::Text(_)) && !reading.skeleton.is_empty() {
            self.wrong(
                written.referenced.line(),
                "this idempotency key would be the same for each row; write what tells rows apart, such as `{{ row.reference }}`",
            );
        }
        Some(template)
    }

    /// The one kind of body that the request has.
    fn body(&mut self) -> Result<Option<BodyTemplate>, Broken> {
        let request = &self.step.request;
        let kinds = [
            request.json.as_ref().map(|body| ("json", body.referenced.line())),
            request.form.as_ref().map(|body| ("form", body.referenced.line())),
            request.text.as_ref().map(|body| ("text", body.referenced.line())),
            request.xml.as_ref().map(|body| ("xml", body.referenced.line())),
            request.multipart.as_ref().map(|body| ("multipart", body.referenced.line())),
        ];
        let given: Vec<(&str, u64)> = kinds.into_iter().flatten().collect();
        if let [(first, _), (second, line), ..] = given.as_slice() {
            self.wrong(*line, &format!("a request has one body; `{first}` and `{second}` are two"));
        }
        if let Some((kind, line)) = given.first()
            && matches!(request.method, Method::Get | Method::Head)
        {
            let method = request.method.as_str();
            self.wrong(
                *line,
                &format!(
                    "a {method} request has no body; send `{kind}` with POST, PUT or PATCH, or use `query`"
                ),
            );
        }
        let broken = |template: Option<BodyTemplate>| template.map(Some).ok_or(Broken);
        if let Some(body) = &request.json {
            let here = Here { names: self.names, answer: false, line: body.referenced.line() };
            if self.step.bulk.is_some() || has_each(body) {
                return broken(json_ordered(body, here, self.read, self.source).map(BodyTemplate::Json));
            }
            let value = self.source.json(body);
            return broken(
                json(&value, here, self.read, self.source).map(|(json, _)| BodyTemplate::Json(json)),
            );
        }
        if let Some(body) = &request.form {
            return broken(self.form(body).map(BodyTemplate::Form));
        }
        if let Some(body) = &request.text {
            return broken(
                self.compiled(body, Kind::Exact).map(|(template, _)| BodyTemplate::Text(template)),
            );
        }
        if let Some(body) = &request.xml {
            return broken(self.compiled(body, Kind::Xml).map(|(template, _)| BodyTemplate::Xml(template)));
        }
        match &request.multipart {
            Some(body) => {
                let parts =
                    body.value.iter().map(|(name, part)| Some((name.clone(), self.part(name, part)?)));
                broken(
                    parts
                        .collect::<Option<_>>()
                        .map(|parts| BodyTemplate::Multipart(MultipartTemplate { parts })),
                )
            }
            None => Ok(None),
        }
    }

    fn form(&mut self, body: &Spanned<Written>) -> Option<JsonTemplate> {
        let line = body.referenced.line();
        if !matches!(body.value, Written::Map(_) | Written::Scalar(serde_json::Value::String(_))) {
            self.wrong(line, "`form` is a map of names and values");
        }
        let here = Here { names: self.names, answer: false, line };
        json_ordered(body, here, self.read, self.source)
    }

    fn part(&mut self, name: &str, part: &Spanned<Written>) -> Option<PartTemplate> {
        let line = part.referenced.line();
        let Written::Map(keys) = &part.value else {
            let here = Here { names: self.names, answer: false, line };
            return json_ordered(part, here, self.read, self.source).map(PartTemplate::Field);
        };
        let known = ["content", "filename", "type"];
        let (mut content, mut filename, mut kind) = (None, None, None);
        for (key, value) in keys {
            let written = super::super::template::text_of(self.source.json(value));
            let at = value.referenced.line();
            let kind_of = if key == "content" { Kind::Lines } else { Kind::Plain };
            let here = Here { names: self.names, answer: false, line: at };
            let (template, _) = compiled(&written, kind_of, here, self.read, self.source)?;
            match key.as_str() {
                "content" => content = Some(template),
                "filename" => filename = Some(template),
                "type" => kind = Some(template),
                other => {
                    let hint = hint(other, &known);
                    self.wrong(at, &format!("multipart `{name}`: unknown key `{other}`{hint}"));
                }
            }
        }
        if content.is_none() {
            self.wrong(line, &format!("multipart `{name}`: a part that is a file has `content`, and may have `filename` and `type`"));
        }
        Some(PartTemplate::File { content: content?, filename, kind })
    }

    fn content_type(&mut self, has_body: bool) -> Option<Template> {
        let written = self.step.request.content_type.as_ref()?;
        let line = written.referenced.line();
        if !has_body {
            self.wrong(line, "`content_type` is that of a body, and the request has none");
        }
        let headers = &self.step.request.headers;
        if headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")) {
            self.wrong(line, "`content_type` sends the header `Content-Type`; remove one of the two");
        }
        if self.step.request.multipart.is_some()
            && !written.value.to_ascii_lowercase().starts_with("multipart/")
        {
            self.wrong(line, "the content type of a `multipart` body begins with `multipart/`");
        }
        if self.step.request.multipart.is_some() && written.value.to_ascii_lowercase().contains("boundary=") {
            self.wrong(
                line,
                "the boundary of a `multipart` body is made for each request; remove it from `content_type`",
            );
        }
        self.text(&written.value, line)
    }
}
