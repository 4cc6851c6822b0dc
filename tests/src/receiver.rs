//! Somebody else's web server: takes whatever is posted to it, and answers as it is told to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::PATIENCE;

/// One request.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Its method.
    pub method: String,
    /// Its path, with its query.
    pub path: String,
    /// Its headers, names in small letters.
    pub headers: Vec<(String, String)>,
    /// Its body; what is not text in it is replaced.
    pub body: String,
    /// When it came.
    pub at: Instant,
    /// What it was answered; 0: nothing, and the connection stays open.
    pub status: u16,
}

impl Heard {
    /// A header's value; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// Verifies its signature by the reference library of Standard Webhooks, which is none of ours.
    ///
    /// # Errors
    /// When it does not verify.
    pub fn verify(&self, secret: &str) -> Result<(), standardwebhooks::WebhookError> {
        let mut headers = http::HeaderMap::new();
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) =
                (http::HeaderName::from_bytes(name.as_bytes()), http::HeaderValue::from_str(value))
            {
                headers.append(name, value);
            }
        }
        standardwebhooks::Webhook::new(secret)?.verify(self.body.as_bytes(), &headers)
    }
}

/// The server; it ends with the test's runtime.
pub struct Receiver {
    /// Its address, `http://…`.
    pub url: String,
    decide: Arc<Mutex<Decide>>,
    heard: Arc<Mutex<Vec<Heard>>>,
    delay_ms: Arc<AtomicU64>,
}

/// What it answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status; 0: nothing, and the connection stays open.
    pub status: u16,
    /// Header lines besides the usual ones, each with its line end.
    pub headers: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// 200 with a JSON text.
    pub fn json(body: impl Into<String>) -> Self {
        Self { status: 200, headers: "content-type: application/json\r\n".into(), body: body.into() }
    }
}

/// The answer, by what was heard.
type Decide = Box<dyn Fn(&Heard) -> Answer + Send>;

impl Receiver {
    /// Starts it; it answers 204.
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// The same behind TLS; its address is `https://localhost:…`.
    pub async fn behind_tls(acceptor: TlsAcceptor) -> Self {
        Self::listen(Some(acceptor)).await
    }

    async fn listen(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let url = match acceptor {
            Some(_) => format!("https://localhost:{}", address.port()),
            None => format!("http://{address}"),
        };
        let decide: Decide =
            Box::new(|_| Answer { status: 204, headers: String::new(), body: String::new() });
        let (decide, heard) = (Arc::new(Mutex::new(decide)), Arc::new(Mutex::new(Vec::new())));
        let delay_ms = Arc::<AtomicU64>::default();
        tokio::spawn({
            let (decide, heard, delay_ms) = (decide.clone(), heard.clone(), delay_ms.clone());
            async move {
                while let Ok((connection, _)) = listener.accept().await {
                    let (acceptor, decide) = (acceptor.clone(), decide.clone());
                    let (heard, delay_ms) = (heard.clone(), delay_ms.clone());
                    tokio::spawn(async move {
                        let Some(acceptor) = acceptor else {
                            return serve(connection, decide, heard, delay_ms).await;
                        };
                        // Whoever shows no certificate is not heard.
                        if let Ok(connection) = acceptor.accept(connection).await {
                            serve(connection, decide, heard, delay_ms).await;
                        }
                    });
                }
            }
        });
        Self { url, decide, heard, delay_ms }
    }

    /// What it answers from now on.
    pub fn answer(&self, status: u16) {
        self.answer_by(move |_| (status, String::new()));
    }

    /// How long after it heard a request it answers, from now on.
    pub fn answer_after(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).expect("a short time"), Ordering::SeqCst);
    }

    /// What it answers from now on: a status (0: nothing, and the connection stays open) and header lines.
    pub fn answer_by(&self, decide: impl Fn(&Heard) -> (u16, String) + Send + 'static) {
        self.answer_with(move |heard| {
            let (status, headers) = decide(heard);
            Answer { status, headers, body: String::new() }
        });
    }

    /// What it answers from now on, body included.
    pub fn answer_with(&self, decide: impl Fn(&Heard) -> Answer + Send + 'static) {
        *self.decide.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(decide);
    }

    /// What it heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("no test panics here").clone()
    }

    /// Waits until it heard something of that kind.
    pub async fn until(&self, what: impl Fn(&Heard) -> bool) -> Heard {
        let began = Instant::now();
        loop {
            if let Some(found) = self.heard().into_iter().find(|heard| what(heard)) {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "it was never told; it heard {:?}", self.heard());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn serve(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    decide: Arc<Mutex<Decide>>,
    heard: Arc<Mutex<Vec<Heard>>>,
    delay_ms: Arc<AtomicU64>,
) {
    let mut bytes = Vec::new();
    let mut piece = [0; 8192];
    loop {
        let Ok(read) = connection.read(&mut piece).await else { return };
        if read == 0 {
            return;
        }
        bytes.extend_from_slice(&piece[..read]);
        let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
        let (head, body) = (String::from_utf8_lossy(&bytes[..end]).into_owned(), &bytes[end + 4..]);
        let mut lines = head.lines();
        let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length =
            headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value);
        if body.len() < length.parse::<usize>().unwrap_or(0) {
            continue;
        }
        let mut one = Heard {
            method,
            path,
            headers: headers.clone(),
            body: String::from_utf8_lossy(body).into_owned(),
            at: Instant::now(),
            status: 0,
        };
        let Answer { status, headers: more, body } =
            decide.lock().unwrap_or_else(PoisonError::into_inner)(&one);
        one.status = status;
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n{body}"
        );
        // Noted before it is answered: who saw the answer finds the note.
        heard.lock().expect("no test panics here").push(one);
        if status == 0 {
            // Until the other side has gone.
            let _ = connection.read(&mut piece).await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(delay_ms.load(Ordering::SeqCst))).await;
        let _ = connection.write_all(answer.as_bytes()).await;
        return;
    }
}
