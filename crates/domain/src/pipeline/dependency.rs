//! `dependencies`: whom steps call, and how often they may.
#![allow(missing_docs, reason = "private to the loader")]

use std::time::Duration;

use serde_saphyr::Spanned;
use url::Url;

use super::auth::{self, Auth};
use super::check::Source;
use super::definition::{BreakerDefinition, ConcurrencyDefinition, DependencyDefinition};
use super::hosts::HostPattern;
use super::hours;
use super::live::LiveText;
use super::model::{Breaker, Concurrency, Dependency};
use super::owner::OwnerReads;
use super::rates::{self, PerText};
use super::scalars::Span;
use super::step::{is_header_name, is_header_value};
use super::transport;
use crate::csv::Format;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Times are kept in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

/// Stands for the address of a dependency where its variable has no value. Nobody is called there.
const UNKNOWN_ADDRESS: &str = "https://unset.invalid";

/// Headers that say how the message itself is sent: HTTP's own business.
const FRAMING: [&str; 4] = ["connection", "content-length", "transfer-encoding", "upgrade"];

pub fn dependency(
    name: &str,
    definition: &DependencyDefinition,
    line: u64,
    open_addresses: &mut Vec<String>,
    pers: &mut Vec<PerText>,
    source: &mut Source<'_>,
) -> Option<Dependency> {
    source.check_name("dependency", name, line);
    let mut owner = OwnerReads::default();
    let base_url = base_url(name, definition, open_addresses, &mut owner, source);
    let headers = headers(name, definition, &mut owner, source);
    let auth = auth::load::auth(name, definition, &mut owner, source);
    if let (Some(url), Some(auth)) = (&base_url, &auth) {
        check_user(name, url, auth, definition.base_url.referenced.line(), source);
    }
    if definition.hosts.is_empty()
        && auth.as_ref().and_then(Auth::token_url).is_some_and(LiveText::reads_owner)
    {
        let message = "a token_url that reads the owner needs `hosts`, such as `hosts: [\"*.example.com\"]`";
        source.error(line, format!("dependency `{name}`: {message}"));
    }
    let fixed_url = base_url.as_ref().filter(|_| owner.address.is_none());
    let tls = transport::tls(name, definition, fixed_url, source);
    let proxy = transport::proxy(name, definition, source);
    let rates =
        definition.rate.as_ref().map(|rate| rates::rates(name, rate, pers, source)).unwrap_or_default();
    let concurrency = definition.concurrency.as_ref().map(|limit| concurrency(name, limit, source));
    let timeout =
        time(&format!("dependency `{name}`: timeout"), definition.timeout.as_ref(), DEFAULT_TIMEOUT, source);
    Some(Dependency {
        name: name.to_owned(),
        base_url: base_url?,
        hosts: hosts(name, definition, source),
        headers,
        owner,
        auth,
        tls,
        proxy,
        rate: rates.rate,
        more: rates.more,
        hours: definition.hours.as_ref().map(|hours| hours::hours(name, hours, source)),
        concurrency,
        timeout,
        breaker: breaker(name, &definition.breaker, source),
    })
}

fn base_url(
    name: &str,
    definition: &DependencyDefinition,
    open_addresses: &mut Vec<String>,
    owner: &mut OwnerReads,
    source: &mut Source<'_>,
) -> Option<Url> {
    let url_line = definition.base_url.referenced.line();
    source.take_left_open();
    let written = &definition.base_url.value;
    if written.contains("{{") || written.contains("{%") {
        let address =
            source.live_of_owner(&format!("dependency `{name}`: base_url"), written, url_line, owner)?;
        if !address.reads_owner() {
            let message =
                "base_url has an expression that reads nothing of the owner; write the address, or `${NAME}`";
            source.error(url_line, format!("dependency `{name}`: {message}"));
        } else if definition.hosts.is_empty() {
            let message =
                "a base_url that reads the owner needs `hosts`, such as `hosts: [\"*.example.com\"]`";
            source.error(url_line, format!("dependency `{name}`: {message}"));
        }
        owner.address = Some(address);
        // Limits are compared by address: another template is another API.
        let mut unknown = Url::parse(UNKNOWN_ADDRESS).ok()?;
        unknown.set_fragment(Some(written));
        return Some(unknown);
    }
    let mut filled = source.fill(&definition.base_url.value, url_line);
    if source.take_left_open() {
        open_addresses.push(name.to_owned());
        filled = Some(UNKNOWN_ADDRESS.to_owned());
    }
    filled.and_then(|filled| {
        let url = Url::parse(&filled).ok().filter(|_| Format::Url.accepts(&filled));
        if url.is_none() {
            let message = "base_url is not an absolute http or https URL, such as https://api.example.com/v1";
            source.broken(url_line, format!("dependency `{name}`: {message}"));
        }
        url
    })
}

fn hosts(name: &str, definition: &DependencyDefinition, source: &mut Source<'_>) -> Vec<HostPattern> {
    let mut patterns = Vec::new();
    for host in &definition.hosts {
        let line = host.referenced.line();
        let Some(filled) = source.fill(&host.value, line) else { continue };
        match HostPattern::parse(&filled) {
            Ok(pattern) => patterns.push(pattern),
            Err(why) => source.error(line, format!("dependency `{name}`: hosts: `{}`: {why}", host.value)),
        }
    }
    patterns
}

fn headers(
    name: &str,
    definition: &DependencyDefinition,
    owner: &mut OwnerReads,
    source: &mut Source<'_>,
) -> Vec<(String, LiveText)> {
    let mut headers = Vec::new();
    for (header, value) in &definition.headers {
        let at = value.referenced.line();
        check_header(&format!("dependency `{name}`"), header, at, source);
        let whose = format!("dependency `{name}`: the value of `{header}`");
        let Some(value) = source.live_of_owner(&whose, &value.value, at, owner) else { continue };
        if value.fixed().is_some_and(|value| !is_header_value(value)) {
            source.error(at, format!("dependency `{name}`: the value of `{header}` has a control character, which no header may have"));
        }
        headers.push((header.clone(), value));
    }
    headers
}

/// The user of an address is sent as `Authorization` too.
fn check_user(name: &str, url: &Url, auth: &Auth, line: u64, source: &mut Source<'_>) {
    let has_user = !url.username().is_empty() || url.password().is_some();
    if has_user && auth.headers().contains(&"authorization") {
        let message = "base_url has a user, and `auth` sends `Authorization` as well; remove one of the two";
        source.error(line, format!("dependency `{name}`: {message}"));
    }
}

fn concurrency(
    name: &str,
    concurrency: &Spanned<ConcurrencyDefinition>,
    source: &mut Source<'_>,
) -> Concurrency {
    let at = concurrency.referenced.line();
    let concurrency = concurrency.value;
    if concurrency.limit == 0 {
        source
            .error(at, format!("dependency `{name}`: concurrency is above 0; without it there is no limit"));
    }
    Concurrency { limit: concurrency.limit, per_owner: concurrency.per_owner }
}

/// A name that a header can have, and that is not HTTP's own.
pub fn check_header(whose: &str, name: &str, line: u64, source: &mut Source<'_>) {
    if !is_header_name(name) {
        source.error(
            line,
            format!("{whose}: `{name}` is not a header that can be sent; a name has letters, digits and `-`"),
        );
    } else if FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
        source.error(
            line,
            format!("{whose}: `{name}` says how a message is sent, which is not a definition's; remove it"),
        );
    }
}

fn time(what: &str, value: Option<&Spanned<Span>>, default: Duration, source: &mut Source<'_>) -> Duration {
    let Some(value) = value else { return default };
    if value.value.0 < SHORTEST {
        source.error(value.referenced.line(), format!("{what} is 1ms or more"));
    }
    value.value.0
}

fn count(what: &str, value: Option<&Spanned<u32>>, default: u32, source: &mut Source<'_>) -> u32 {
    let Some(value) = value else { return default };
    if value.value == 0 {
        source.error(value.referenced.line(), format!("{what} is above 0"));
    }
    value.value.max(1)
}

fn breaker(name: &str, definition: &BreakerDefinition, source: &mut Source<'_>) -> Breaker {
    let defaults = Breaker::default();
    let of = |key: &str| format!("dependency `{name}`: breaker.{key}");
    Breaker {
        failure_bp: definition.failure_share.map_or(defaults.failure_bp, |share| share.0),
        min_calls: count(&of("min_calls"), definition.min_calls.as_ref(), defaults.min_calls, source),
        window: time(&of("window"), definition.window.as_ref(), defaults.window, source),
        open_for: time(&of("open_for"), definition.open_for.as_ref(), defaults.open_for, source),
        probes: count(&of("probes"), definition.probes.as_ref(), defaults.probes, source),
    }
}
