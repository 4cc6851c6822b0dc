//! A TCP proxy that holds up what passes, each way by as much as it is told: a server that is far away. It runs on a thread
//! of its own, so that tests do not delay it further.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Rng;

/// How long each way takes: so long, and up to so much longer.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub takes: Duration,
    pub jitter: Duration,
}

impl Way {
    pub const fn millis(takes: u64, jitter: u64) -> Self {
        Self { takes: Duration::from_millis(takes), jitter: Duration::from_millis(jitter) }
    }
}

pub struct Far {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Far {
    /// A way to the server at `target`.
    pub fn away(target: SocketAddr, way: Way) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(&listener, target, way) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: &TcpListener, target: SocketAddr, way: Way) {
    let rng = Arc::new(Mutex::new(Rng(0x9E37_79B9_7F4A_7C15 ^ u64::from(target.port()))));
    while let Ok((near, _)) = listener.accept().await {
        let rng = rng.clone();
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(target).await else { return };
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::join!(carry(near_in, far_out, way, &rng), carry(far_in, near_out, way, &rng));
        });
    }
}

/// In order, as TCP delivers.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    rng: &Mutex<Rng>,
) {
    let (under_way, mut arriving) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let send = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let longer = rng.lock().unwrap().below(u64::try_from(way.jitter.as_micros()).unwrap() + 1);
            let at = Instant::now() + way.takes + Duration::from_micros(longer);
            under_way.send((at, buffer[..read].to_vec())).unwrap();
        }
    };
    let deliver = async move {
        while let Some((at, bytes)) = arriving.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(send, deliver);
}
