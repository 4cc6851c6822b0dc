//! The two addresses of a sign-in at the provider: where it begins, and where it comes back to.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_console::session::{
    ELSEWHERE_SECONDS, Elsewhere, SESSION_SECONDS, Sealed as _, VisitElsewhere, is_token, return_to,
};
use penstock_flow::context::api_keys::{self, Grant};
use serde::Deserialize;

use super::{Provider, new_visit};
use crate::addresses::client_address;
use crate::console::cookies::Cookies;
use crate::console::sign_in::{Wanted, begin, form, keep, sealing, taken_sign_in};
use crate::console::{Refused, query, see_other};
use crate::problem::Problem;
use crate::state::ApiState;

/// The cookies of who signs in at the provider: each sign-in has one, so that those of several tabs do not end each other.
const COOKIE: &str = "elsewhere";

/// Sign-ins of a browser that are under way: when more are begun, those before are forgotten.
const MOST_AT_ONCE: usize = 5;

/// The cookie of the sign-in with that state.
fn cookie_of(visit_state: &str) -> String {
    format!("{COOKIE}_{}", visit_state.get(..8).unwrap_or_default())
}

/// Where the provider sends people back to.
const COME_BACK: &str = "/console/sign-in/oidc/callback";

fn provider(state: &ApiState) -> Result<&Provider, Problem> {
    state.oidc.as_deref().ok_or_else(|| Problem::not_found("such page"))
}

fn redirect(state: &ApiState) -> String {
    format!("{}{COME_BACK}", state.base)
}

/// Leads to the provider.
pub(in crate::console) async fn start(
    state: web::Data<ApiState>,
    request: HttpRequest,
) -> Result<HttpResponse, Refused> {
    let provider = provider(&state)?;
    let wanted: Wanted = query(&request)?;
    let to = return_to(wanted.to.as_deref());
    let services = &state.services;
    let (random, now) = (services.random.as_ref(), services.clock.now());
    let visit = new_visit(to, random, now).map_err(sealing)?;
    let url = match provider.begin(&redirect(&state), &visit).await {
        Ok(url) => url,
        Err(error) => return form(&state, &request, to, Some((error.status(), sentence(&error)))),
    };
    let sealed = visit.seal(&services.keyring.get(), random).map_err(sealing)?;
    let (mut response, cookies) = (see_other(url.as_str()), Cookies::of(&request, &state));
    let begun = cookies.names(COOKIE);
    if begun.len() >= MOST_AT_ONCE {
        for name in begun {
            keep(&mut response, cookies.set(name, "", 0));
        }
    }
    keep(&mut response, cookies.set(&cookie_of(&visit.state), &sealed, ELSEWHERE_SECONDS));
    Ok(response)
}

fn sentence(error: &super::NotSignedIn) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

/// What the provider sends back.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    code: String,
    state: String,
    error: String,
    iss: Option<String>,
}

/// Somebody came back. Whatever comes of it, the sign-in that was begun is used up, and no other one.
pub(in crate::console) async fn come_back(
    state: web::Data<ApiState>,
    request: HttpRequest,
) -> Result<HttpResponse, Refused> {
    provider(&state)?;
    let answer: Answer = query(&request)?;
    let (services, cookies) = (&state.services, Cookies::of(&request, &state));
    let name = cookie_of(&answer.state);
    let visit = cookies
        .get(&name)
        .and_then(|sealed| VisitElsewhere::open(&services.keyring.get(), sealed, services.clock.now()))
        .filter(|visit| is_token(&visit.state, &answer.state));
    let Some(visit) = visit else {
        let sentence =
            "This sign-in has expired, or was not begun in this browser. Sign in again.".to_owned();
        return form(&state, &request, return_to(None), Some((StatusCode::FORBIDDEN, sentence)));
    };
    let mut response = signed_in(&state, &request, &answer, &visit).await?;
    keep(&mut response, cookies.set(&name, "", 0));
    Ok(response)
}

async fn signed_in(
    state: &ApiState,
    request: &HttpRequest,
    answer: &Answer,
    visit: &VisitElsewhere,
) -> Result<HttpResponse, Refused> {
    let provider = provider(state)?;
    let (name, services) = (&provider.settings.name, &state.services);
    let to = return_to(Some(&visit.to));
    let refused = |status, sentence: String| form(state, request, to, Some((status, sentence)));
    if answer.iss.as_ref().is_some_and(|issuer| *issuer != provider.settings.issuer) {
        return refused(
            StatusCode::UNAUTHORIZED,
            "The answer came from another provider. Sign in again.".into(),
        );
    }
    if !answer.error.is_empty() || answer.code.is_empty() {
        let why = shown_error(&answer.error);
        return refused(StatusCode::UNAUTHORIZED, format!("{name} did not sign you in{why}."));
    }
    let taken = taken_sign_in(state, request)?;
    let person = match provider.person(&redirect(state), &answer.code, visit, services.clock.now()).await {
        Ok(person) => person,
        Err(error) => return refused(error.status(), sentence(&error)),
    };
    if let Some(taken) = taken {
        state.sign_ins.refund(&taken, false, state.sign_ins.now());
    }
    let groups = person.groups.unwrap_or_default();
    let Some(grant) = provider.settings.grant(&groups) else {
        tracing::info!(
            subject = person.subject,
            "somebody signed in elsewhere whose groups may do nothing here"
        );
        let sentence = format!(
            "{name} knows you as {}, but none of your groups may use Penstock. Ask who operates it.",
            person.name
        );
        return refused(StatusCode::FORBIDDEN, sentence);
    };
    let now = services.clock.now();
    let owner = services.store.ensure_owner(&grant.owner, now).await?;
    let key = Grant {
        name: Some(person.name.clone()),
        sign_in: true,
        scopes: grant.scopes,
        pipelines: None,
        expires_at: Some(now + Duration::from_secs(SESSION_SECONDS)),
    };
    // Its secret is given to nobody: the session alone is of this key, and ends with it.
    let (_, record) = api_keys::create(services, &owner, key).await?;
    let by = Elsewhere { issuer: provider.settings.issuer.clone(), entry: grant.entry.clone() };
    let from = client_address(request, state.connections.limits());
    let from = from.map_or_else(String::new, |address| format!("from {address} "));
    let detail = format!("{from}as {} of {}", named(&person.name, &person.subject), by.issuer);
    begin(state, request, record, to, Some(by), Some(detail)).await
}

/// A provider's error code (RFC 6749, section 4.1.2.1) in brackets, unless it is none that may be shown.
fn shown_error(code: &str) -> String {
    let may_be_shown = code.len() <= 40 && code.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    if may_be_shown && !code.is_empty() { format!(" (`{code}`)") } else { String::new() }
}

/// A person's name with the provider's own, unless it says that already.
fn named(name: &str, subject: &str) -> String {
    let is_said = name == subject || name.ends_with(&format!(" ({subject})"));
    if is_said { name.to_owned() } else { format!("{name} ({subject})") }
}
