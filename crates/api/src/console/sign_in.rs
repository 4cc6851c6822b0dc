//! Signing in with an API key, and out again. Signing in elsewhere is in [`super::oidc`].

use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_console::layout::{Nav, Page};
use penstock_console::session::{
    Elsewhere, SESSION_SECONDS, Sealed, Session, TICKET_SECONDS, Ticket, VISIT_SECONDS, Visit, is_token,
    new_token, return_to,
};
use penstock_console::sign_in::{Provider, SignIn};
use penstock_crypto::ApiKey;
use penstock_flow::context::api_keys;
use penstock_flow::{FlowError, Services};
use penstock_store::operations::AuditEntry;
use penstock_store::owners::{ApiKeyRecord, Scope};
use serde::Deserialize;
use std::time::Duration;
use url::form_urlencoded;

use crate::address_rates::Taken;
use crate::addresses::client_address;
use crate::console::cookies::{Cookies, SESSION, VISIT};
use crate::console::visitor::{Form, Visitor};
use crate::console::{HOME, Refused, html, query, see_other};
use crate::downloads::valid_key;
use crate::problem::Problem;
use crate::state::ApiState;

/// Bytes of the form to sign in with: a key, a token, and an address to go on to.
const MOST_BYTES: usize = 8 * 1024;

/// The address to sign in at, and to go on from to a page.
pub(super) fn address(to: &str) -> String {
    if to.is_empty() || return_to(Some(to)) != to {
        return "/console/sign-in".into();
    }
    with_target("/console/sign-in", to)
}

fn with_target(path: &str, to: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("to", to).finish();
    format!("{path}?{query}")
}

/// Where to go afterwards.
#[derive(Deserialize)]
pub(super) struct Wanted {
    pub to: Option<String>,
    /// Somebody has just signed out.
    out: Option<bool>,
}

/// The path by which somebody signs in once with that key: the demo's last line.
///
/// # Errors
/// When the database fails, or there is no keyring.
pub async fn one_time_path(services: &Services, key: &ApiKeyRecord) -> Result<String, FlowError> {
    let random = services.random.as_ref();
    let ticket = Ticket {
        key_id: key.id.clone(),
        key_word: api_keys::word(services, key).await?,
        number: new_token(random).map_err(sealing)?,
        ends_at: services.clock.now() + Duration::from_secs(TICKET_SECONDS),
    };
    let sealed = ticket.seal(&services.keyring.get(), random).map_err(sealing)?;
    Ok(format!("/console?ticket={sealed}"))
}

/// What may come with the console's first address.
#[derive(Deserialize)]
pub(super) struct Entered {
    ticket: Option<String>,
}

/// The console's first address: to the batches, signed in when a ticket says so.
pub(super) async fn enter(state: web::Data<ApiState>, request: HttpRequest) -> Result<HttpResponse, Refused> {
    let entered: Entered = query(&request)?;
    // Who looks at an address without opening it uses nothing up.
    let ticket = entered.ticket.filter(|_| request.method() != Method::HEAD);
    let Some(sealed) = ticket else { return Ok(see_other(HOME)) };
    let services = &state.services;
    let now = services.clock.now();
    let ticket = Ticket::open(&services.keyring.get(), &sealed, now);
    let is_new = match &ticket {
        Some(ticket) => services.store.use_ticket(&ticket.number, ticket.ends_at).await?,
        None => false,
    };
    let Some(ticket) = ticket.filter(|_| is_new) else {
        let sentence = "This link was used before, or has ended. Sign in with a key.".to_owned();
        return form(&state, &request, HOME, Some((StatusCode::UNAUTHORIZED, sentence)));
    };
    let key = valid_key(&state, &ticket.key_id).await?;
    match key {
        Some(key) if api_keys::word(services, &key).await? == ticket.key_word => {
            begin(&state, &request, key, HOME, None, None).await
        }
        _ => Ok(see_other("/console/sign-in")),
    }
}

/// The form.
pub(super) async fn show(state: web::Data<ApiState>, request: HttpRequest) -> Result<HttpResponse, Refused> {
    let wanted: Wanted = query(&request)?;
    let to = return_to(wanted.to.as_deref());
    let provider = state.oidc.as_deref().filter(|_| wanted.out == Some(true));
    let Some(provider) = provider else { return form(&state, &request, to, None) };
    let end = provider.end_session(&format!("{}/console/sign-in", state.base)).await;
    shown(&state, &request, to, None, Some(end.map(String::from)))
}

/// The form, with a token that a cookie has too; with a reason it is shown again.
pub(super) fn form(
    state: &ApiState,
    request: &HttpRequest,
    to: &str,
    refused: Option<(StatusCode, String)>,
) -> Result<HttpResponse, Refused> {
    shown(state, request, to, refused, None)
}

/// The same; `ended` for who has just signed out, with the address at the provider where that can be done as well.
fn shown(
    state: &ApiState,
    request: &HttpRequest,
    to: &str,
    refused: Option<(StatusCode, String)>,
    ended: Option<Option<String>>,
) -> Result<HttpResponse, Refused> {
    let services = &state.services;
    let now = services.clock.now();
    let random = services.random.as_ref();
    // Several windows may ask to sign in at the same time, and have one cookie.
    let cookies = Cookies::of(request, state);
    let begun = cookies.get(VISIT).and_then(|visit| Visit::open(&services.keyring.get(), visit, now));
    let csrf = match begun {
        Some(visit) => visit.csrf,
        None => new_token(random).map_err(sealing)?,
    };
    let visit = Visit { csrf: csrf.clone(), ends_at: now + Duration::from_secs(VISIT_SECONDS) };
    let visit = visit.seal(&services.keyring.get(), random).map_err(sealing)?;
    let (status, refused) =
        refused.map_or((StatusCode::OK, None), |(status, sentence)| (status, Some(sentence)));
    let page = Page::new("Sign in", Nav::None, None, now);
    let signed_out = ended.is_some();
    let provider = state.oidc.as_deref().map(|provider| Provider {
        name: provider.settings.name.clone(),
        href: with_target("/console/sign-in/oidc", to),
        end: ended.flatten(),
    });
    let mut response = html(status, &SignIn { page, csrf, to: to.to_owned(), refused, provider, signed_out });
    keep(&mut response, cookies.set(VISIT, &visit, VISIT_SECONDS));
    Ok(response)
}

pub(super) fn sealing(source: penstock_crypto::OpenError) -> FlowError {
    FlowError::Sealed { what: "a session", source }
}

pub(super) fn keep(response: &mut HttpResponse, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// Signs in.
pub(super) async fn sign_in(
    state: web::Data<ApiState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    let taken = taken_sign_in(&state, &request)?;
    let tries = &state.sign_ins;
    // Who is not known yet has no owner: addresses share what there is for requests without a key.
    let share = tries.share(client_address(&request, state.connections.limits()));
    let sent = Form::read_of_stranger(&state, share, &request, payload, MOST_BYTES).await?;
    let to = return_to(sent.get("to"));
    let again = |status, sentence: &str| form(&state, &request, to, Some((status, sentence.to_owned())));
    if !is_own_visit(&state, &request, sent.get("csrf").unwrap_or_default()) {
        return again(StatusCode::FORBIDDEN, "The form has expired. Sign in again.");
    }
    let key = ApiKey::parse(sent.get("key").unwrap_or_default().trim());
    let found = match key {
        Some(key) => api_keys::find(&state.services, &key).await?,
        None => None,
    };
    let Some(record) = found else {
        return again(StatusCode::UNAUTHORIZED, "This key is not valid, or no longer.");
    };
    if let Some(taken) = taken {
        tries.refund(&taken, false, tries.now());
    }
    if !record.scopes.allow(Scope::Read) {
        return again(
            StatusCode::FORBIDDEN,
            "This key may not read; the console needs one with the scope `read`.",
        );
    }
    begin(&state, &request, record, to, None, None).await
}

/// One of the sign-ins that may fail from an address; refunded when it does not.
///
/// # Errors
/// 429 when there are none left for a while.
pub(super) fn taken_sign_in(state: &ApiState, request: &HttpRequest) -> Result<Option<Taken>, Problem> {
    let tries = &state.sign_ins;
    let address = client_address(request, state.connections.limits());
    let taken = address.map(|address| tries.take(address, None, tries.now())).transpose();
    taken.map_err(|seconds| {
        let detail = format!("too many sign-ins from here have failed; try again after {seconds} s");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).retry_after(seconds)
    })
}

/// Whether the form was made here for this browser: its token is the one of the browser's cookie.
fn is_own_visit(state: &ApiState, request: &HttpRequest, token: &str) -> bool {
    let services = &state.services;
    let visit = Cookies::of(request, state)
        .get(VISIT)
        .and_then(|sealed| Visit::open(&services.keyring.get(), sealed, services.clock.now()));
    visit.is_some_and(|visit| is_token(&visit.csrf, token))
}

/// Begins a session, written down before it is used: `detail` says more than the address of who signed in elsewhere.
pub(super) async fn begin(
    state: &ApiState,
    request: &HttpRequest,
    key: ApiKeyRecord,
    to: &str,
    by: Option<Elsewhere>,
    detail: Option<String>,
) -> Result<HttpResponse, Refused> {
    let services = &state.services;
    let now = services.clock.now();
    let random = services.random.as_ref();
    let latest = now + Duration::from_secs(SESSION_SECONDS);
    let session = Session {
        key_word: api_keys::word(services, &key).await?,
        csrf: new_token(random).map_err(sealing)?,
        ends_at: key.expires_at.map_or(latest, |end| end.min(latest)),
        key_id: key.id,
        by,
    };
    let from =
        || client_address(request, state.connections.limits()).map(|address| format!("from {address}"));
    let entry = AuditEntry {
        id: 0,
        at: now,
        actor: format!("key:{}", session.key_id),
        action: "console.sign_in".into(),
        batch: None,
        detail: detail.or_else(from),
    };
    services.store.audit(&entry).await?;
    let sealed = session.seal(&services.keyring.get(), random).map_err(sealing)?;
    let (mut response, cookies) = (see_other(to), Cookies::of(request, state));
    keep(&mut response, cookies.set(SESSION, &sealed, SESSION_SECONDS));
    keep(&mut response, cookies.set(VISIT, "", 0));
    Ok(response)
}

/// Signs out: the browser forgets the session. That of somebody who signed in elsewhere ends for whoever has a copy of it too: its
/// key is nobody else's.
pub(super) async fn sign_out(
    visitor: Visitor,
    state: web::Data<ApiState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    visitor.form(&state, &request, payload).await?;
    let elsewhere = visitor.signed_in_elsewhere();
    if elsewhere {
        let services = &state.services;
        services.store.revoke_key(&visitor.caller.key_id, services.clock.now()).await?;
    }
    let mut response = see_other(if elsewhere { "/console/sign-in?out=true" } else { "/console/sign-in" });
    keep(&mut response, Cookies::of(&request, &state).set(SESSION, "", 0));
    Ok(response)
}
