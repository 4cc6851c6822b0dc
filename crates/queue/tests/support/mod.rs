//! A Redis of a test's own, and listeners to its queues.
#![allow(dead_code, reason = "each test's program uses a part")]

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_queue::{Handler, Lane, Message, PACKET_ROWS, Packet, Queue as _, SharedQueue, Taken};
use penstock_redis::Prefix;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Nothing that is waited for takes longer.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A Redis of a test's own.
pub struct Redis {
    pub server: Option<Child>,
    pub port: u16,
}

impl Redis {
    pub fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut redis = Self { server: None, port };
        redis.again();
        redis
    }

    /// Starts it, empty.
    pub fn again(&mut self) {
        let port = self.port.to_string();
        let server = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            // A test sets where it saves.
            .args(["--enable-protected-configs", "yes"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by `cargo xtask test`");
        self.server = Some(server);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    pub fn ask(&self, words: &[&str]) -> String {
        let output =
            Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What it needs for its keys, without its own books and buffers.
    pub fn bytes(&self) -> u64 {
        let info = self.ask(&["info", "memory"]);
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:")).unwrap();
        line.trim().parse().unwrap()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn queue(&self) -> Arc<SharedQueue> {
        Arc::new(SharedQueue::connect(&self.url(), Prefix::default()).unwrap())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Takes messages as the test wants it to.
pub struct Taker {
    pub name: String,
    pub received: mpsc::UnboundedSender<Message>,
    pub has_room: Arc<AtomicBool>,
    pub takes: Duration,
    /// What may not leave the queue yet; none: everything may.
    pub keep: Arc<Mutex<Option<Vec<DropGuard>>>>,
}

#[async_trait]
impl Handler for Taker {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn handle(&self, message: Message) -> Taken {
        assert_ne!(message, extract(13), "a handler that panics");
        let (taken, guard) = Taken::when_dropped();
        if let Some(keep) = self.keep.lock().unwrap().as_mut() {
            keep.push(guard);
        }
        self.received.send(message).unwrap();
        tokio::time::sleep(self.takes).await;
        taken
    }

    fn has_room(&self, _: &Lane) -> bool {
        self.has_room.load(Ordering::SeqCst)
    }

    fn pipelines(&self) -> Vec<String> {
        vec!["invite".to_owned()]
    }
}

/// Somebody who listens.
pub struct Listening {
    pub received: mpsc::UnboundedReceiver<Message>,
    pub has_room: Arc<AtomicBool>,
    pub keep: Arc<Mutex<Option<Vec<DropGuard>>>>,
    pub stop: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
}

impl Listening {
    pub fn to(queue: &Arc<SharedQueue>, name: &str) -> Self {
        Self::slowly_to(queue, name, Duration::ZERO)
    }

    pub fn slowly_to(queue: &Arc<SharedQueue>, name: &str, takes: Duration) -> Self {
        let (sender, received) = mpsc::unbounded_channel();
        let (stop, has_room) = (CancellationToken::new(), Arc::new(AtomicBool::new(true)));
        let keep = Arc::<Mutex<Option<Vec<DropGuard>>>>::default();
        let (name, keeps) = (name.to_owned(), keep.clone());
        let taker =
            Arc::new(Taker { name, received: sender, has_room: has_room.clone(), takes, keep: keeps });
        let task = tokio::spawn({
            let (queue, stop) = (queue.clone(), stop.clone());
            async move { queue.listen(taker, stop).await }
        });
        Self { received, has_room, keep, stop, task }
    }

    pub async fn next(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, self.received.recv()).await.expect("it comes").unwrap()
    }

    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends").unwrap();
    }
}

pub fn extract(batch: i64) -> Message {
    Message::Extract { batch: BatchSeq(batch) }
}

/// A full packet, the `number`th.
pub fn rows(pipeline: &str, number: u32) -> Message {
    let mut packet = Packet::new(pipeline, 1_800_000_000_000);
    for row in 1..=u32::try_from(PACKET_ROWS).unwrap() {
        packet.push(RowRef { batch: BatchSeq(1), number: number * 1000 + row }, row);
    }
    Message::Rows(packet)
}

/// Tells messages apart.
pub fn short(message: &Message) -> (Lane, Option<RowRef>) {
    (message.lane(), message.rows().first().copied())
}

/// Waits until it is so.
pub async fn until(mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "it never was");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
