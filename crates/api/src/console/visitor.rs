//! Who asks for a page: the session of its cookie, whose key is looked for again each time.

use actix_web::dev::Payload;
use actix_web::http::{Method, StatusCode};
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, web};
use futures::future::LocalBoxFuture;
use penstock_console::layout::{Nav, Page, Viewer};
use penstock_console::session::{Elsewhere, Sealed as _, Session, is_token};
use penstock_domain::ids::OwnerSeq;
use penstock_flow::context::api_keys;
use penstock_store::batches::Batch;
use penstock_store::owners::{KeyRole, Scope};

use crate::accesses::Asker;
use crate::auth::Caller;
use crate::body;
use crate::console::Refused;
use crate::console::cookies::{Cookies, SESSION};
use crate::downloads::valid_key;
use crate::limits::for_admins;
use crate::problem::Problem;
use crate::state::ApiState;

/// Somebody who is signed in.
#[derive(Debug)]
pub(crate) struct Visitor {
    /// As whom the REST API would answer.
    pub caller: Caller,
    session: Session,
}

impl Visitor {
    fn viewer(&self) -> Viewer {
        Viewer {
            owner: self.caller.owner_name.clone(),
            admin: self.caller.role == KeyRole::Admin,
            operates: self.is_admin().is_ok(),
            uploads: self.caller.scopes.allow(Scope::Upload),
            csrf: self.session.csrf.clone(),
        }
    }

    /// The frame of a page for it.
    pub fn page(&self, state: &ApiState, title: impl Into<String>, nav: Nav) -> Page {
        Page::new(title, nav, Some(self.viewer()), state.services.clock.now())
    }

    /// Whether it may do something to a batch.
    pub fn commands(&self, batch: &Batch) -> bool {
        batch.owner == self.caller.owner && self.caller.scopes.allow(Scope::Command)
    }

    /// Whether an OpenID Connect provider let it in.
    pub fn signed_in_elsewhere(&self) -> bool {
        self.session.by.is_some()
    }

    /// Whether the session is over, whatever becomes of its key.
    pub fn has_ended(&self, state: &ApiState) -> bool {
        self.session.ends_at <= state.services.clock.now()
    }

    /// # Errors
    /// 404 unless it is an admin key that is for all pipelines: who has none is not told what there is.
    pub fn is_admin(&self) -> Result<(), Problem> {
        for_admins(&self.caller).map_err(|_| Problem::not_found("such page"))
    }

    /// # Errors
    /// 403 when the key lacks the scope.
    pub fn needs(&self, scope: Scope) -> Result<(), Problem> {
        if self.caller.scopes.allow(scope) {
            return Ok(());
        }
        Err(Problem::forbidden(format!("this needs a key with the scope `{}`", scope.name())))
    }

    /// # Errors
    /// 403 when the token is another one: the form is not of a page of this session.
    pub fn is_own_form(&self, token: Option<&str>) -> Result<(), Problem> {
        if token.is_some_and(|token| is_token(&self.session.csrf, token)) { Ok(()) } else { Err(forged()) }
    }

    /// The fields of a form of its own.
    ///
    /// # Errors
    /// 403 when it is of no page of this session; 413 when it is too large.
    pub async fn form(
        &self,
        state: &ApiState,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> Result<Form, Refused> {
        let form = Form::read(state, self.caller.owner, request, payload).await?;
        self.is_own_form(form.get("csrf"))?;
        Ok(form)
    }
}

fn forged() -> Problem {
    let detail = "this form is not of a page of your session; go back, load the page again and repeat it";
    Problem::new(StatusCode::FORBIDDEN, "forged_form", detail)
}

impl FromRequest for Visitor {
    type Error = Refused;
    type Future = LocalBoxFuture<'static, Result<Self, Refused>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let Some(state) = request.app_data::<web::Data<ApiState>>() else {
                return Err(Problem::internal().into());
            };
            let found = find(state, &request).await?;
            let visitor = found.ok_or_else(|| Refused::SignIn(wanted(&request)))?;
            let Caller { key_id, owner, role, .. } = &visitor.caller;
            let asker = Asker { actor: visitor.caller.actor(), admin: *role == KeyRole::Admin };
            request.extensions_mut().insert(asker);
            // A page that says why something is refused has the same navigation.
            request.extensions_mut().insert(visitor.viewer());
            state.rates.request(key_id, *owner, &request)?;
            visitor.needs(Scope::Read)?;
            Ok(visitor)
        })
    }
}

/// Where somebody goes after signing in: to the page that was asked for; what a form would have done is not repeated.
fn wanted(request: &HttpRequest) -> String {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        request.uri().path_and_query().map_or_else(String::new, ToString::to_string)
    } else {
        String::new()
    }
}

async fn find(state: &ApiState, request: &HttpRequest) -> Result<Option<Visitor>, Refused> {
    let services = &state.services;
    let Some(sealed) = Cookies::of(request, state).get(SESSION) else { return Ok(None) };
    let session = Session::open(&services.keyring.get(), sealed, services.clock.now());
    let Some(session) = session else { return Ok(None) };
    let granted = |by: &Elsewhere| state.oidc.as_ref().is_some_and(|provider| provider.still_grants(by));
    if session.by.as_ref().is_some_and(|by| !granted(by)) {
        return Ok(None);
    }
    let Some(key) = valid_key(state, &session.key_id).await? else { return Ok(None) };
    if api_keys::word(services, &key).await? != session.key_word {
        return Ok(None);
    }
    Ok(Some(Visitor { caller: key.into(), session }))
}

/// Fields of a form.
#[derive(Debug, Default)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads a form of an owner's. One that another site sent is refused, where the browser says so.
    ///
    /// # Errors
    /// 403 when it is another site's; 413 when it is large; 400 when it is no form.
    async fn read(
        state: &ApiState,
        owner: OwnerSeq,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> Result<Self, Refused> {
        own_site(request)?;
        let body = body::small(state, owner, request.headers(), payload).await?;
        Ok(Self(body.form()?))
    }

    /// The same of who is not known yet: with at most that many bytes, in the room that there is for whoever has no key.
    ///
    /// # Errors
    /// As [`Form::read`], and 503 when there is no such room.
    pub async fn read_of_stranger(
        state: &ApiState,
        share: OwnerSeq,
        request: &HttpRequest,
        payload: web::Payload,
        most: usize,
    ) -> Result<Self, Refused> {
        own_site(request)?;
        let room = state.budgets.keyless(share, most).await?;
        let body = body::in_room(state, request.headers(), payload, most, room).await?;
        Ok(Self(body.form()?))
    }

    /// A field's value; none when it is not there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Browsers say whose page sends a request (Fetch Metadata). Those that do not are held by the token and the cookie alone.
///
/// # Errors
/// 403 when it is another site's.
pub(super) fn own_site(request: &HttpRequest) -> Result<(), Problem> {
    let site = request.headers().get("sec-fetch-site").and_then(|value| value.to_str().ok());
    if site.is_none_or(|site| matches!(site, "same-origin" | "none")) { Ok(()) } else { Err(forged()) }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn another_sites_form_is_refused() {
        let from = |site: &str| TestRequest::post().insert_header(("sec-fetch-site", site)).to_http_request();
        for site in ["cross-site", "same-site"] {
            assert_eq!(own_site(&from(site)).unwrap_err().code, "forged_form");
        }
        own_site(&from("same-origin")).unwrap();
        own_site(&TestRequest::post().to_http_request()).unwrap();
    }
}
