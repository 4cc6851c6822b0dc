//! A small HTTP server that answers as its path says, on a thread of its own so that tests do not delay it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long `/slow` takes.
pub const SLOW: Duration = Duration::from_millis(2500);

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub at: Instant,
    pub line: String,
    pub headers: HashMap<String, String>,
    pub body: String,
    pub refused: bool,
    /// It came although the one before it had been asked to stay away.
    pub in_pause: bool,
}

/// The true limit of `/limited`: GCRA, exact.
struct Limit {
    interval: Duration,
    tolerance: Duration,
    tat: Option<Instant>,
    paused_until: Option<Instant>,
}

struct State {
    arrived: Mutex<Vec<Arrived>>,
    /// Calls of `/slow` now, and the most of them that there were.
    at_once: Mutex<(u32, u32)>,
    limit: Mutex<Limit>,
}

pub struct Server {
    url: String,
    state: Arc<State>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Starts; `/limited` allows so many calls a second, so many of them at once.
    pub fn start(per_second: u32, burst: u32) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let interval = Duration::from_secs(1) / per_second;
        let limit = Limit { interval, tolerance: interval * burst, tat: None, paused_until: None };
        let state = Arc::new(State {
            arrived: Mutex::default(),
            at_once: Mutex::default(),
            limit: Mutex::new(limit),
        });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(&listener, &serving) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { url, state, stop: Some(stop), thread: Some(thread) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many calls of `/slow` there were at once at most.
    pub fn most_at_once(&self) -> u32 {
        self.state.at_once.lock().unwrap().1
    }

    pub fn arrived(&self) -> Vec<Arrived> {
        self.state.arrived.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: &TcpListener, state: &Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        tokio::spawn(serve(stream, state.clone()));
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        let at = Instant::now();
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let mut lines = head.lines();
        let line = lines.next().unwrap_or_default().to_owned();
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while buffer.len() < end + length {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
        let body = String::from_utf8_lossy(&buffer[end..end + length]).into_owned();
        buffer.drain(..end + length);
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (answer, refused, in_pause) = answer(&path, at, &state);
        state.arrived.lock().unwrap().push(Arrived { at, line, headers, body, refused, in_pause });
        let answer = match answer {
            Answer::Text(text) => text,
            Answer::Drop => return,
            Answer::Slow => {
                {
                    let mut at_once = state.at_once.lock().unwrap();
                    at_once.0 += 1;
                    at_once.1 = at_once.1.max(at_once.0);
                }
                tokio::time::sleep(SLOW).await;
                state.at_once.lock().unwrap().0 -= 1;
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned()
            }
            Answer::Hang => std::future::pending().await,
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

enum Answer {
    Text(String),
    Drop,
    Slow,
    Hang,
}

fn text(status: &str, headers: &str, body: &str) -> Answer {
    Answer::Text(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()))
}

fn answer(path: &str, at: Instant, state: &State) -> (Answer, bool, bool) {
    let answer = match path.split('?').next().unwrap_or_default() {
        "/limited" => {
            let (refused, in_pause) = state.limit.lock().unwrap().arrives(at);
            let answer = match refused {
                None => text("200 OK", "", "{}"),
                Some(seconds) => text("429 Too Many Requests", &format!("retry-after: {seconds}\r\n"), "{}"),
            };
            return (answer, refused.is_some(), in_pause);
        }
        "/busy" => text("503 Service Unavailable", "retry-after: 2\r\n", "{\"error\":\"busy\"}"),
        // One list in two lines, as a gateway before the service writes it.
        "/policies" => text(
            "429 Too Many Requests",
            "ratelimit: \"second\";r=0;t=2\r\nratelimit: \"hour\";r=900;t=3000\r\n",
            "{}",
        ),
        "/broken" => text("500 Internal Server Error", "", "oh no"),
        "/refused" => text("422 Unprocessable Content", "", "{\"error\":\"bad_email\"}"),
        "/moved" => text("302 Found", "location: /ok\r\n", ""),
        "/garbage" => text("200 OK", "", "<html>"),
        "/nothing" => text("204 No Content", "", ""),
        "/large" => text("200 OK", "", &format!("\"{}\"", "x".repeat(1024 * 1024))),
        "/hang" => Answer::Hang,
        "/drop" => Answer::Drop,
        "/slow" => Answer::Slow,
        // `/said/<status>/<Retry-After>`
        said if said.starts_with("/said/") => {
            let (status, wait) = said["/said/".len()..].split_once('/').unwrap();
            text(&format!("{status} Said"), &format!("retry-after: {wait}\r\n"), "{}")
        }
        _ => text("200 OK", "x-request-id: 7\r\n", "{\"ok\":true}"),
    };
    (answer, false, false)
}

impl Limit {
    /// Whether to refuse, with the seconds to wait; and whether the call came during a pause.
    fn arrives(&mut self, at: Instant) -> (Option<u64>, bool) {
        let tat = self.tat.map_or(at, |tat| tat.max(at)) + self.interval;
        let allowed_from = tat.checked_sub(self.tolerance).unwrap_or(at);
        if allowed_from <= at {
            self.tat = Some(tat);
            return (None, false);
        }
        let in_pause = self.paused_until.is_some_and(|until| at < until);
        let wait = (allowed_from - at).as_secs_f64().ceil();
        self.paused_until = Some(at + Duration::from_secs_f64(wait));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds")]
        (Some(wait as u64), in_pause)
    }
}
