//! The three calls, and the control under /_sandbox/.
//!
//! Some people have a fate of their own, whatever else goes wrong: nobody can invite whose address begins with `busy`
//! (429 each time) or with `broken` (500 each time).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::dev::{Server, Service as _};
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Config;
use crate::faults::{Faults, Wait};
use crate::limits::{Gcra, Limit};
use crate::record::{Effect, Endpoint, Record, hash};

/// What all threads share.
pub struct State {
    started: Instant,
    record: Mutex<Record>,
    control: Mutex<Control>,
}

struct Control {
    faults: Faults,
    address: (Option<Limit>, Gcra),
    invite: (Option<Limit>, Gcra),
    rng: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happens to a call before it is answered.
enum Fate {
    Answer,
    Early(f64, Wait),
    Error,
    DropBefore,
    DropAfter,
    Garbage,
    Hang(u64),
}

impl State {
    pub fn new(config: &Config) -> Self {
        Self {
            started: Instant::now(),
            record: Mutex::default(),
            control: Mutex::new(Control {
                faults: config.faults,
                address: (config.address, Gcra::default()),
                invite: (config.invite, Gcra::default()),
                rng: 0x9E37_79B9_7F4A_7C15,
            }),
        }
    }

    pub fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    pub fn set_faults(&self, faults: Faults) {
        lock(&self.control).faults = faults;
    }

    pub fn set_limits(&self, address: Option<Limit>, invite: Option<Limit>) {
        let mut control = lock(&self.control);
        control.address.0 = address;
        control.invite.0 = invite;
    }

    /// The answer to an invitation that never succeeds.
    fn own_fate(&self, email: &str) -> Option<(u16, HttpResponse)> {
        if email.starts_with("broken") {
            return Some(refused(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "this person breaks everything",
            ));
        }
        email.starts_with("busy").then(|| {
            let faults = lock(&self.control).faults;
            let mut response = HttpResponse::TooManyRequests();
            for header in faults.wait.headers(faults.wait_seconds) {
                response.insert_header(header);
            }
            let message = "this person has had too many invitations";
            (429, response.json(json!({ "error": "person_is_busy", "message": message })))
        })
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Judges a call on arrival: its limit first, then the faults that were asked for.
    fn fate(&self, endpoint: Endpoint, at_us: u64) -> (Fate, Duration) {
        let mut control = lock(&self.control);
        let faults = control.faults;
        #[allow(clippy::cast_precision_loss, reason = "microseconds of a process's life")]
        let now = at_us as f64 / 1e6;
        let (limit, gcra) =
            if endpoint == Endpoint::Invite { &mut control.invite } else { &mut control.address };
        if let Some(limit) = limit
            && let Err(early) = gcra.pass(limit, now)
        {
            return (Fate::Early(early, faults.wait), Duration::ZERO);
        }
        let mut roll = || {
            control.rng ^= control.rng << 13;
            control.rng ^= control.rng >> 7;
            control.rng ^= control.rng << 17;
            #[allow(clippy::cast_precision_loss, reason = "53 bits")]
            let unit = (control.rng >> 11) as f64 / (1_u64 << 53) as f64;
            unit
        };
        #[allow(clippy::cast_precision_loss, reason = "milliseconds")]
        let jitter = roll() * faults.jitter_ms as f64;
        let latency = Duration::from_millis(faults.latency_ms) + Duration::from_secs_f64(jitter / 1000.0);
        let mut share = roll();
        for (probability, fate) in [
            (faults.error, Fate::Error),
            (faults.drop_before, Fate::DropBefore),
            (faults.drop_after, Fate::DropAfter),
            (faults.garbage, Fate::Garbage),
            (faults.throttle, Fate::Early(1.0, faults.wait)),
            (faults.hang, Fate::Hang(faults.hang_ms)),
        ] {
            if share < probability {
                return (fate, latency);
            }
            share -= probability;
        }
        (Fate::Answer, latency)
    }
}

/// Binds the server.
pub fn bind(state: Arc<State>, config: &Config) -> std::io::Result<(Server, SocketAddr)> {
    let data = web::Data::from(state);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(data.clone())
            .wrap_fn(|request, service| {
                let parent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
                if let (Some(parent), Some(state)) = (parent, request.app_data::<web::Data<State>>()) {
                    state.record().traced(parent);
                }
                service.call(request)
            })
            .route("/address-links", web::post().to(address_links))
            .route("/addresses/{link}", web::get().to(addresses))
            .route("/invite/create", web::post().to(invite))
            .route("/_sandbox/stats", web::get().to(stats))
            .route("/_sandbox/calls", web::get().to(calls))
            .route("/_sandbox/faults", web::post().to(set_faults))
            .route("/_sandbox/limits", web::post().to(set_limits))
            .route("/livez", web::get().to(HttpResponse::Ok))
    })
    .workers(config.workers)
    .disable_signals()
    .keep_alive(Duration::from_secs(75))
    .bind(config.bind)?;
    let address = server.addrs().first().copied().unwrap_or(config.bind);
    Ok((server.run(), address))
}

fn refused(status: StatusCode, error: &str, message: &str) -> (u16, HttpResponse) {
    (status.as_u16(), HttpResponse::build(status).json(json!({ "error": error, "message": message })))
}

/// Answers a call as its fate has it; `effect` is what the call does when it comes to that.
async fn answer(
    state: &State,
    endpoint: Endpoint,
    effect: impl FnOnce() -> (u16, HttpResponse),
) -> HttpResponse {
    let at_us = state.now_us();
    let (fate, latency) = state.fate(endpoint, at_us);
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let (status, response) = match fate {
        Fate::Answer => effect(),
        Fate::Early(early, wait) => {
            let mut response = HttpResponse::TooManyRequests();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds")]
            let seconds = early.ceil().max(1.0) as u64;
            for header in wait.headers(seconds) {
                response.insert_header(header);
            }
            (429, response.json(json!({ "error": "too_many_requests", "message": "slow down" })))
        }
        Fate::Error => refused(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something broke"),
        Fate::Garbage => (200, HttpResponse::Ok().content_type("application/json").body("<html>not JSON")),
        Fate::Hang(ms) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            refused(StatusCode::INTERNAL_SERVER_ERROR, "internal", "it took too long")
        }
        Fate::DropBefore => (0, hang_up()),
        Fate::DropAfter => {
            effect();
            (0, hang_up())
        }
    };
    state.record().call(at_us, endpoint, status);
    response
}

/// A body that promises more than it gives: the connection breaks off before the answer is whole.
fn hang_up() -> HttpResponse {
    HttpResponse::Ok().body(Broken)
}

struct Broken;

impl actix_web::body::MessageBody for Broken {
    type Error = std::io::Error;

    fn size(&self) -> actix_web::body::BodySize {
        actix_web::body::BodySize::Sized(1000)
    }

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<web::Bytes, std::io::Error>>> {
        std::task::Poll::Ready(Some(Err(std::io::Error::other("hung up"))))
    }
}

#[derive(Deserialize)]
struct Postcode {
    postcode: String,
}

async fn address_links(state: web::Data<State>, body: web::Json<Postcode>) -> HttpResponse {
    answer(&state, Endpoint::AddressLinks, || {
        let postcode = &body.postcode;
        if postcode.starts_with("ZZ") {
            return refused(StatusCode::UNPROCESSABLE_ENTITY, "unknown_postcode", "no such postcode");
        }
        let link = format!("lnk_{:016x}", hash(("link", postcode)));
        (200, HttpResponse::Ok().json(json!({ "links": [{ "id": link }] })))
    })
    .await
}

async fn addresses(state: web::Data<State>, link: web::Path<String>) -> HttpResponse {
    answer(&state, Endpoint::Addresses, || {
        if !link.starts_with("lnk_") {
            return refused(StatusCode::NOT_FOUND, "unknown_link", "no such link");
        }
        let address = format!("adr_{:016x}", hash(("address", link.as_str())));
        (200, HttpResponse::Ok().json(json!({ "addresses": [{ "id": address }] })))
    })
    .await
}

async fn invite(state: web::Data<State>, request: HttpRequest, body: web::Json<Value>) -> HttpResponse {
    let key = request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
    answer(&state, Endpoint::Invite, || {
        let email = body["email"].as_str().unwrap_or_default();
        if let Some(answer) = state.own_fate(email) {
            return answer;
        }
        if email.starts_with("taken") {
            return refused(StatusCode::CONFLICT, "email_taken", "this person was invited before");
        }
        if email.ends_with("@blocked.example") {
            return refused(StatusCode::FORBIDDEN, "blocked", "this address is blocked");
        }
        let person = hash((email, body["campaign"].to_string()));
        match state.record().invite(key.as_deref(), person, hash(body.to_string())) {
            Effect::Made(answer) | Effect::Replayed(answer) => {
                (201, HttpResponse::Created().json(json!({ "check_id": format!("chk_{answer:016x}") })))
            }
            Effect::Conflict => {
                refused(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", "this key was used with another body")
            }
        }
    })
    .await
}

async fn stats(state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok().json(state.record().stats())
}

async fn calls(state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok().json(state.record().calls())
}

async fn set_faults(state: web::Data<State>, faults: web::Json<Faults>) -> HttpResponse {
    state.set_faults(faults.into_inner());
    HttpResponse::NoContent().finish()
}

#[derive(Deserialize)]
struct Limits {
    address: Option<Limit>,
    invite: Option<Limit>,
}

async fn set_limits(state: web::Data<State>, limits: web::Json<Limits>) -> HttpResponse {
    state.set_limits(limits.address, limits.invite);
    HttpResponse::NoContent().finish()
}
