//! A TCP proxy for tests of what networks do to connections: they fall silent, and answers get lost.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A proxy on a runtime of its own. Dropping it closes all connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    // Tests run in runtimes, where a runtime must not be dropped by waiting for it.
    runtime: Option<Runtime>,
}

struct Shared {
    target: Mutex<String>,
    /// How often connections were silenced: those that were opened before are silent.
    silenced: watch::Sender<usize>,
    /// The answer to the next message that holds these bytes is lost.
    lose_answer_to: Mutex<Option<Vec<u8>>>,
    accepted: AtomicUsize,
}

impl Proxy {
    /// Starts a proxy before `target`, which is `host:port`.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(target: &str) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target.to_owned()),
            silenced: watch::channel(0).0,
            lose_answer_to: Mutex::default(),
            accepted: AtomicUsize::new(0),
        });
        runtime.spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, runtime: Some(runtime) })
    }

    /// Starts a proxy before the server of a URL; the URL that leads through it.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn before(url: &str) -> std::io::Result<(Self, String)> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, target) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
        let proxy = Self::start(target)?;
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        let url = format!("{scheme}://{user}{}/{path}", proxy.address);
        Ok((proxy, url))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every connection that is open now forwards nothing any more, in either direction, and stays open. New ones work.
    pub fn silence(&self) {
        self.shared.silenced.send_modify(|times| *times += 1);
    }

    /// New connections lead to `target` from now on. Those that are open stay where they are.
    pub fn lead_to(&self, target: &str) {
        target.clone_into(&mut self.shared.target.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The next message of a client that holds these bytes arrives; the answer does not, and the connection is closed.
    pub fn lose_answer_to(&self, bytes: &[u8]) {
        *self.shared.lose_answer_to.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes.to_vec());
    }

    /// Whether an answer was lost since [`Proxy::lose_answer_to`].
    pub fn lost_an_answer(&self) -> bool {
        self.shared.lose_answer_to.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// How many connections were opened so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn loses_the_answer_to(&self, message: &[u8]) -> bool {
        let mut wanted = self.lose_answer_to.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |bytes: &mut Vec<u8>| message.windows(bytes.len()).any(|part| part == bytes);
        wanted.take_if(is_it).is_some()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((client, _)) = listener.accept().await {
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(carry(client, shared.clone()));
    }
}

async fn carry(client: TcpStream, shared: Arc<Shared>) {
    let mut silenced = shared.silenced.subscribe();
    silenced.mark_unchanged();
    let target = shared.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Ok(server) = TcpStream::connect(&target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let lost = watch::channel(false).0;
    // Outside of what is waited for: sockets that are dropped would be closed.
    let mut to_server = pin!(to_the_server(from_client, to_server, &shared, &lost));
    let mut to_client = pin!(to_the_client(from_server, to_client, &lost));
    tokio::select! {
        () = &mut to_server => {}
        () = &mut to_client => {}
        _ = silenced.changed() => std::future::pending().await,
    }
}

async fn to_the_server(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    lost: &watch::Sender<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let message = &buffer[..read];
        if shared.loses_the_answer_to(message) {
            lost.send_replace(true);
        }
        if to.write_all(message).await.is_err() {
            return;
        }
    }
}

async fn to_the_client(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lost: &watch::Sender<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if *lost.borrow() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
