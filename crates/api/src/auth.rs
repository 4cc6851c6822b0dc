//! Who asks: `Authorization: Bearer <key>`.

use std::time::{Duration, Instant};

use actix_web::dev::Payload;
use actix_web::http::{Method, StatusCode, header};
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, web};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use futures::{Stream, TryStreamExt as _};
use penstock_crypto::ApiKey;
use penstock_domain::ids::{BatchId, OwnerSeq};
use penstock_flow::context::api_keys;
use penstock_store::batches::Batch;
use penstock_store::owners::{ApiKeyRecord, KeyRole, Scope, Scopes};

use crate::accesses::Asker;
use crate::problem::Problem;
use crate::state::ApiState;

/// How often the key of a running download is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The holder of a valid key.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The key's public part.
    pub key_id: String,
    /// Its owner.
    pub owner: OwnerSeq,
    /// The owner's name.
    pub owner_name: String,
    /// What it may see.
    pub role: KeyRole,
    /// What it may do.
    pub scopes: Scopes,
    /// The pipelines that it may use; none: all.
    pub pipelines: Option<Vec<String>>,
}

impl Caller {
    /// Who did it, for the audit log.
    pub fn actor(&self) -> String {
        format!("key:{}", self.key_id)
    }

    /// Whose things it may see; none: everybody's.
    pub fn scope(&self) -> Option<OwnerSeq> {
        (self.role == KeyRole::Client).then_some(self.owner)
    }

    /// A batch that it may see.
    ///
    /// # Errors
    /// 404 when there is none, or when it is another owner's.
    pub async fn batch(&self, state: &ApiState, id: &str) -> Result<Batch, Problem> {
        let id: BatchId = id.parse().map_err(|_| Problem::not_found("such batch"))?;
        let batch = state.services.store.batch(id, self.scope()).await?;
        let batch = batch.filter(|batch| self.may_use(&batch.pipeline));
        batch.ok_or_else(|| Problem::not_found("such batch"))
    }

    /// A batch of its own, to command.
    ///
    /// # Errors
    /// As [`Caller::batch`]; 403 for an admin key, which sees other owners' batches and changes none of them.
    pub async fn own_batch(&self, state: &ApiState, id: &str) -> Result<Batch, Problem> {
        let batch = self.batch(state, id).await?;
        if batch.owner == self.owner { Ok(batch) } else { Err(reads_only()) }
    }

    /// Whether the key is for that pipeline.
    pub fn may_use(&self, pipeline: &str) -> bool {
        self.pipelines.as_ref().is_none_or(|pipelines| pipelines.iter().any(|one| one == pipeline))
    }

    /// # Errors
    /// 403 when the key is for some pipelines alone.
    pub fn for_all_pipelines(&self) -> Result<(), Problem> {
        match self.pipelines {
            None => Ok(()),
            Some(_) => Err(Problem::forbidden("this needs a key that is not limited to pipelines")),
        }
    }

    /// Whether the key is still good: who listens for hours asks again.
    pub async fn is_valid(&self, state: &ApiState) -> bool {
        matches!(state.services.store.key(&self.key_id).await, Ok(Some(record)) if record.is_valid(state.services.clock.now()))
    }

    /// Asks for the key again, before something is done for a request that took long.
    ///
    /// # Errors
    /// 401 when it is no longer good: it was revoked, or has expired meanwhile.
    pub async fn still(&self, state: &ApiState) -> Result<(), Problem> {
        let record = state.services.store.key(&self.key_id).await?;
        let now = state.services.clock.now();
        let valid = record.is_some_and(|record| record.is_valid(now));
        if valid { Ok(()) } else { Err(unauthorized()) }
    }

    /// A body that breaks off when the key is no longer good.
    pub fn hold<S: Stream<Item = Result<Bytes, Problem>>>(
        self,
        state: &ApiState,
        body: S,
    ) -> impl Stream<Item = Result<Bytes, Problem>> + use<S> {
        let state = state.clone();
        async_stream::try_stream! {
            let mut body = std::pin::pin!(body);
            let mut looked_at = Instant::now();
            while let Some(part) = body.try_next().await? {
                if looked_at.elapsed() >= LOOK_EVERY {
                    if !self.is_valid(&state).await {
                        Err(Problem::forbidden("the key is no longer valid"))?;
                    }
                    looked_at = Instant::now();
                }
                yield part;
            }
        }
    }
}

impl From<ApiKeyRecord> for Caller {
    fn from(record: ApiKeyRecord) -> Self {
        Self {
            key_id: record.id,
            owner: record.owner_seq,
            owner_name: record.owner,
            role: record.scopes.role(),
            scopes: record.scopes,
            pipelines: record.pipelines,
        }
    }
}

fn unauthorized() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "send a valid key as `Authorization: Bearer <key>`; `penstock keys create --owner NAME` makes one",
    )
}

/// An admin key reads.
pub fn reads_only() -> Problem {
    Problem::forbidden(
        "an admin key reads, and changes only what is its own owner's; use a key of the owner or the penstock command",
    )
}

/// What a key needs for a route. Routes of their own take uploads for pipelines.
pub fn needed_scope(method: &Method, route: &str) -> Scope {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
        || route == "/v2/batches/{id}/downloads"
    {
        Scope::Read
    } else if route.starts_with("/v2/limits/") || route == "/v2/reconcile" {
        Scope::Admin
    } else if route.starts_with("/v2/batches/") || route.starts_with("/v2/callbacks/") {
        Scope::Command
    } else {
        Scope::Upload
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let state = request.app_data::<web::Data<ApiState>>().cloned();
        let request = request.clone();
        let mut sent = request.headers().get_all(header::AUTHORIZATION).cloned();
        let needed = needed_scope(request.method(), &request.match_pattern().unwrap_or_default());
        let (sent, another) = (sent.next(), sent.next().is_some());
        Box::pin(async move {
            if another {
                // What stands before this service may have looked at the other one.
                return Err(Problem::bad_request("two_keys", "send one `Authorization` header"));
            }
            let refused = unauthorized;
            let state = state.ok_or_else(refused)?;
            let sent = sent.as_ref().and_then(|value| value.to_str().ok()).ok_or_else(refused)?;
            let (scheme, text) = sent.split_once(' ').ok_or_else(refused)?;
            let key = ApiKey::parse(text.trim()).filter(|_| scheme.eq_ignore_ascii_case("bearer"));
            let key = key.ok_or_else(refused)?;
            let caller: Self = api_keys::find(&state.services, &key).await?.ok_or_else(refused)?.into();
            let admin = caller.role == KeyRole::Admin;
            request.extensions_mut().insert(Asker { actor: caller.actor(), admin });
            state.rates.request(&caller.key_id, caller.owner, &request)?;
            if !caller.scopes.allow(needed) {
                let name = needed.name();
                return Err(Problem::forbidden(format!("this needs a key with the scope `{name}`")));
            }
            Ok(caller)
        })
    }
}

#[cfg(test)]
mod tests {
    use utoipa::OpenApi as _;

    use super::*;
    use crate::openapi::Document;

    /// Every route of the document that takes a key and changes something, with the scope that it needs.
    #[test]
    fn every_route_needs_a_scope() {
        let paths = serde_json::to_value(Document::openapi()).unwrap()["paths"].take();
        let mut needed = Vec::new();
        for (path, operations) in paths.as_object().unwrap() {
            for (method, _) in
                operations.as_object().unwrap().iter().filter(|(_, one)| !one["security"].is_null())
            {
                let method: Method = method.to_uppercase().parse().unwrap();
                let scope = needed_scope(&method, path);
                if method == Method::GET {
                    assert_eq!(scope, Scope::Read, "{path}");
                } else {
                    needed.push(format!("{} {method} {path}", scope.name()));
                }
            }
        }
        needed.sort();
        assert_eq!(
            needed,
            [
                "admin DELETE /v2/limits/{dependency}",
                "admin POST /v2/limits/{dependency}",
                "admin POST /v2/reconcile",
                "command DELETE /v2/batches/{id}",
                "command POST /v2/batches/{id}/cancel",
                "command POST /v2/batches/{id}/pause",
                "command POST /v2/batches/{id}/resume",
                "command POST /v2/batches/{id}/retry",
                "command POST /v2/callbacks/{id}/redeliver",
                "read POST /v2/batches/{id}/downloads",
                "upload POST /v2/pipelines/{name}/batches",
                "upload POST /v2/uploads",
                "upload PUT /v2/uploads/{id}/content",
            ]
        );
        assert_eq!(needed_scope(&Method::POST, "/v2/client/users/batch/invite"), Scope::Upload);
    }
}
