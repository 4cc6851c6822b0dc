//! Refused requests and what admin keys read: log lines and audit entries, at most a few a minute, so that a flood of requests
//! fills neither. The first of a kind is written at once; the others of that minute are counted and written as one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpRequest, web};
use penstock_domain::ids::BatchId;
use penstock_flow::Services;
use penstock_flow::context::tasks::spawn_part;
use penstock_store::operations::AuditEntry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::connections::Limits;
use crate::state::ApiState;

/// How long accesses of one kind are counted before they are written as one.
const WINDOW: Duration = Duration::from_secs(60);

/// Entries that wait to be written.
const WAITING: usize = 256;

/// What is worth an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// A request without a valid key.
    Unauthorized,
    /// A request that its key does not allow.
    Forbidden,
    /// An admin key read something.
    AdminRead,
}

impl Access {
    const ALL: [Self; 3] = [Self::Unauthorized, Self::Forbidden, Self::AdminRead];

    fn action(self) -> &'static str {
        match self {
            Self::Unauthorized => "request.unauthorized",
            Self::Forbidden => "request.forbidden",
            Self::AdminRead => "admin.read",
        }
    }

    /// Different subjects of a window that are written; the others are counted together.
    fn most(self) -> usize {
        match self {
            // Anybody can make these.
            Self::Unauthorized => 10,
            Self::Forbidden | Self::AdminRead => 50,
        }
    }
}

/// Whose key a request has.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Who it is in the audit log.
    pub actor: String,
    /// Whether the key is an admin's.
    pub admin: bool,
}

/// Who accessed what: accesses of one subject are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    access: Access,
    actor: String,
    batch: Option<BatchId>,
    request: String,
}

/// Counts accesses and writes them. Cheap to clone.
#[derive(Clone)]
pub struct Accesses(Arc<Mutex<Window>>);

struct Window {
    counted: HashMap<Subject, u64>,
    /// Of subjects beyond the number that is written.
    others: HashMap<Access, u64>,
    out: mpsc::Sender<Subject>,
}

impl Accesses {
    /// Writes what is recorded until `stop`.
    pub fn start(services: &Services, stop: &CancellationToken) -> Self {
        let (out, entries) = mpsc::channel(WAITING);
        let accesses = Self::new(out);
        spawn_part("accesses", write(accesses.clone(), services.clone(), entries, stop.clone()), stop);
        accesses
    }

    fn new(out: mpsc::Sender<Subject>) -> Self {
        Self(Arc::new(Mutex::new(Window { counted: HashMap::new(), others: HashMap::new(), out })))
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, subject: Subject) {
        let mut window = self.window();
        if let Some(count) = window.counted.get_mut(&subject) {
            *count += 1;
            return;
        }
        let written = window.counted.keys().filter(|known| known.access == subject.access).count();
        // Where the database is slow, it is only counted.
        if written >= subject.access.most() || window.out.try_send(subject.clone()).is_err() {
            *window.others.entry(subject.access).or_default() += 1;
        } else {
            window.counted.insert(subject, 1);
        }
    }

    /// Ends the window: what was counted in it beyond what was written, with the number of accesses.
    fn end_window(&self) -> Vec<(Subject, u64)> {
        let mut window = self.window();
        let counted = std::mem::take(&mut window.counted).into_iter();
        let mut more: Vec<(Subject, u64)> =
            counted.filter(|(_, count)| *count > 1).map(|(subject, count)| (subject, count - 1)).collect();
        for access in Access::ALL {
            if let Some(count) = window.others.remove(&access) {
                let request = "any".to_owned();
                more.push((Subject { access, actor: "others".into(), batch: None, request }, count));
            }
        }
        more
    }
}

async fn write(
    accesses: Accesses,
    services: Services,
    mut entries: mpsc::Receiver<Subject>,
    stop: CancellationToken,
) {
    let mut windows = tokio::time::interval(WINDOW);
    // The first tick is now.
    windows.tick().await;
    loop {
        tokio::select! {
            Some(subject) = entries.recv() => {
                let detail = subject.request.clone();
                log(&subject, 1);
                write_entry(&services, subject, detail).await;
                continue;
            }
            _ = windows.tick() => {}
            () = stop.cancelled() => {}
        }
        for (subject, count) in accesses.end_window() {
            log(&subject, count);
            let detail = format!("{}: {count} more within {} s", subject.request, WINDOW.as_secs());
            write_entry(&services, subject, detail).await;
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

fn log(subject: &Subject, count: u64) {
    let Subject { access, actor, request, batch } = subject;
    let batch = batch.map(tracing::field::display);
    match access {
        Access::AdminRead => tracing::info!(actor, request, batch, count, "an admin key reads"),
        Access::Unauthorized => tracing::warn!(actor, request, count, "a request had no valid key"),
        Access::Forbidden => tracing::warn!(actor, request, batch, count, "a request was not allowed"),
    }
}

async fn write_entry(services: &Services, subject: Subject, detail: String) {
    let entry = AuditEntry {
        id: 0,
        at: services.clock.now(),
        actor: subject.actor,
        action: subject.access.action().to_owned(),
        batch: subject.batch,
        detail: Some(detail),
    };
    if let Err(error) = services.store.audit(&entry).await {
        tracing::warn!(%error, action = entry.action, "an audit entry could not be written");
    }
}

/// A middleware that records refused requests and what admin keys read.
pub async fn recorded<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let response = next.call(request).await?;
    let request = response.request();
    if let Some(state) = request.app_data::<web::Data<ApiState>>()
        && let Some(subject) = subject(request, response.status(), state.connections.limits())
    {
        state.accesses.record(subject);
    }
    Ok(response)
}

fn subject(request: &HttpRequest, status: StatusCode, limits: &Limits) -> Option<Subject> {
    let asker = request.extensions().get::<Asker>().cloned();
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let access = match status {
        StatusCode::UNAUTHORIZED => Access::Unauthorized,
        // Of an address that has had too many of them.
        StatusCode::TOO_MANY_REQUESTS if asker.is_none() => Access::Unauthorized,
        StatusCode::FORBIDDEN => Access::Forbidden,
        status if status.is_success() && reads && asker.as_ref()?.admin => Access::AdminRead,
        _ => return None,
    };
    let actor = match asker.filter(|_| access != Access::Unauthorized) {
        Some(asker) => asker.actor,
        None => format!("address:{}", client_address(request, limits)?),
    };
    if access == Access::Unauthorized {
        // A stranger who tries many routes is one subject.
        return Some(Subject { access, actor, batch: None, request: "a request without a valid key".into() });
    }
    // The route and not the address: a query may carry what only the batch should know.
    let route = request.match_pattern().unwrap_or_else(|| "unknown".to_owned());
    let batch = request.match_info().get("id").filter(|_| route.starts_with("/v2/batches/"));
    let batch = batch.and_then(|id| id.parse().ok());
    Some(Subject { access, actor, batch, request: format!("{} {route}", request.method()) })
}

/// Who is connected; behind trusted proxies, the last address that is none of theirs. IPv6 by networks of 64 bits.
pub fn client_address(request: &HttpRequest, limits: &Limits) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    let forwarded: Vec<&str> = request
        .headers()
        .get_all("x-forwarded-for")
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    Some(network(behind_proxies(peer, &forwarded, limits)))
}

fn behind_proxies(peer: IpAddr, forwarded: &[&str], limits: &Limits) -> IpAddr {
    let mut client = peer;
    for hop in forwarded.iter().rev() {
        if !limits.trusts(client) {
            break;
        }
        let Ok(address) = hop.parse() else { break };
        client = address;
    }
    client
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(number: usize) -> Subject {
        let actor = format!("address:192.0.2.{number}");
        Subject { access: Access::Unauthorized, actor, batch: None, request: "x".into() }
    }

    #[test]
    fn a_flood_is_a_few_entries() {
        let (out, mut entries) = mpsc::channel(WAITING);
        let accesses = Accesses::new(out);
        for _ in 0..1000 {
            for number in 0..30 {
                accesses.record(refused(number));
            }
        }
        let read = Subject { access: Access::AdminRead, actor: "key:a".into(), ..refused(0) };
        accesses.record(read.clone());
        let mut written = Vec::new();
        while let Ok(subject) = entries.try_recv() {
            written.push(subject);
        }
        assert_eq!(written.len(), 11, "ten strangers and the admin key, which they do not hide");
        assert_eq!(written.last(), Some(&read));
        let more = accesses.end_window();
        assert_eq!(more.len(), 11, "ten strangers again, and the others together");
        assert_eq!(more.iter().map(|(_, count)| count).sum::<u64>() + 10, 30_000);
        assert!(accesses.end_window().is_empty());
        accesses.record(refused(0));
        assert_eq!(entries.try_recv().unwrap(), refused(0), "the next window begins");
    }

    #[test]
    fn a_proxy_is_believed_only_when_it_is_trusted() {
        let limits = Limits {
            most: 1,
            per_address: 1,
            head: WINDOW,
            stalled: WINDOW,
            trusted: vec!["10.0.0.0/8".parse().unwrap()],
        };
        let client = |peer: &str, forwarded: &[&str]| {
            behind_proxies(peer.parse().unwrap(), forwarded, &limits).to_string()
        };
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9", "198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["198.51.100.7", "10.0.0.2"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(network("2001:db8:1:2:3::4".parse().unwrap()).to_string(), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()).to_string(), "192.0.2.1");
    }
}
