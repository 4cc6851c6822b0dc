//! A connection's bytes, held to the limits of [`super`].

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::Phase;
use super::table::{Connections, Held};
use crate::headers;
use crate::problem::{Problem, RETRY_AFTER};

/// Bytes of a request's head.
pub const HEAD_BYTES: usize = 32 * 1024;

/// Lines of a request's head; actix-http reads no more.
const HEAD_LINES: usize = 96;

/// Bytes of an unfinished head that each connection has for itself.
const FREE_HEAD_BYTES: usize = 4 * 1024;

/// Bytes that are read ahead of a handler.
const AHEAD_BYTES: usize = 32 * 1024;

/// A client that was refused is listened to for so long, so that it reads why before the connection is reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Tells a client that there is no place for it. Only some are waited for until they have read that: a connection that is
/// closed while bytes of its request are unread is reset, and what was said is lost.
pub async fn turn_away(mut io: TcpStream, connections: Arc<Connections>) {
    let Some(_leave) = connections.linger() else { return };
    let told = async {
        io.write_all(&NO_PLACE).await?;
        io.shutdown().await?;
        let (mut scratch, mut left) = ([0; 1024], LINGER_BYTES);
        while left > 0 {
            match io.read(&mut scratch).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<_, io::Error>(())
    };
    // Who does not read it in time is not told.
    let _ = tokio::time::timeout(LINGER, told).await;
}

/// Said when there is no place for a connection.
static NO_PLACE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    answer(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "there are too many connections; try again")
});

static TOO_LATE: LazyLock<Vec<u8>> =
    LazyLock::new(|| answer(StatusCode::REQUEST_TIMEOUT, "timeout", "the request did not come in time"));

static HEAD_TOO_LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let detail =
        format!("the request's head has more than {HEAD_BYTES} bytes, or too many others are unfinished");
    answer(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", &detail)
});

static UNREADABLE: LazyLock<Vec<u8>> =
    LazyLock::new(|| answer(StatusCode::BAD_REQUEST, "bad_request", "the request cannot be read"));

static TOO_MANY_LINES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let detail = format!("the request's head has more than {HEAD_LINES} lines or {HEAD_BYTES} bytes");
    answer(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", &detail)
});

/// What is said in place of a refusal that the server writes without a body.
fn in_place_of(bytes: &[u8]) -> Option<&'static [u8]> {
    // The head of a problem document that is compressed comes without its body too, but with its type.
    let names_type =
        |bytes: &[u8]| bytes.windows(14).any(|part| part.eq_ignore_ascii_case(b"\ncontent-type:"));
    if !bytes.ends_with(b"\r\n\r\n") || names_type(bytes) {
        return None;
    }
    match bytes.get(..13)? {
        b"HTTP/1.1 400 " => Some(&UNREADABLE),
        b"HTTP/1.1 431 " => Some(&TOO_MANY_LINES),
        _ => None,
    }
}

/// A whole answer, for who is not heard by the server behind this stream.
fn answer(status: StatusCode, code: &str, detail: &str) -> Vec<u8> {
    let body = serde_json::to_string(&Problem::new(status, code, detail)).unwrap_or_default();
    let mut usual = HeaderMap::new();
    headers::set(&mut usual, headers::Kind::Owned);
    let usual =
        usual.iter().filter_map(|(name, value)| Some(format!("{name}: {}\r\n", value.to_str().ok()?)));
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\n{}\
         retry-after: {RETRY_AFTER}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Refused"),
        usual.collect::<String>(),
        body.len()
    )
    .into_bytes()
}

/// A connection.
pub struct Guarded {
    io: TcpStream,
    held: Held,
    /// Ends the wait for a head, or an unread rest.
    reading: Alarm,
    /// Ends an answer of which no byte is taken.
    writing: Alarm,
    /// Whether what was written last is not flushed yet.
    unflushed: bool,
    /// Bytes taken from the pool of heads.
    pooled: usize,
    /// Whether the server had a look at all that was read of a head.
    looked_at: bool,
    /// The client was refused and is listened to no more.
    refused: Option<Lingering>,
}

/// A head has more bytes than it may.
struct TooLarge;

struct Lingering {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl Guarded {
    /// A connection that has a place.
    pub fn new(io: TcpStream, held: Held) -> Self {
        Self {
            io,
            held,
            reading: Alarm::default(),
            writing: Alarm::default(),
            unflushed: false,
            pooled: 0,
            looked_at: false,
            refused: None,
        }
    }

    /// What its requests know it by.
    pub fn connection(&self) -> Arc<super::Connection> {
        self.held.connection.clone()
    }

    /// Says why, and takes nothing more.
    fn refuse(&mut self, answer: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing else is under way on this connection, and a socket's buffer is larger than this.
        let _ = self.io.try_write(answer);
        let _ = Pin::new(&mut self.io).poll_shutdown(cx);
        self.refused =
            Some(Lingering { until: Box::pin(sleep_until(Instant::now() + LINGER)), left: LINGER_BYTES });
        self.linger(cx)
    }

    /// Reads to nobody, then tells the server that the client is gone.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(lingering) = &mut self.refused else { return Poll::Ready(Ok(())) };
        let mut scratch = [0; 4096];
        while lingering.left > 0 && lingering.until.as_mut().poll(cx).is_pending() {
            let mut into = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut into) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                    lingering.left = lingering.left.saturating_sub(into.filled().len());
                }
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the head, or the rest of a body, took too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let connection = &self.held.connection;
        let limits = connection.limits();
        let within = match connection.phase() {
            Phase::Request => return false,
            Phase::Idle => limits.idle,
            Phase::Head | Phase::Rest => limits.head,
        };
        // While an answer is still being taken nobody can be asked for the next head.
        let began = if self.unflushed { Instant::now() } else { connection.since() };
        self.reading.passed(began + within, cx)
    }

    /// How much may be read now; none: as much as fits.
    fn room(&mut self, cx: &mut Context<'_>) -> Result<Option<usize>, TooLarge> {
        let given = self.held.connection.given();
        match self.held.connection.phase() {
            Phase::Head | Phase::Idle => self.room_of_head(given, cx).map(Some),
            Phase::Request => {
                let room = AHEAD_BYTES.saturating_sub(given);
                if room == 0 {
                    self.held.connection.block(cx);
                }
                Ok(Some(room))
            }
            Phase::Rest => Ok(None),
        }
    }

    /// The server reads all that there is before it looks for a head in it, so what looks like a long head may be a short
    /// one with a body behind it. It is given a little, then has a look; more is for heads that are long.
    fn room_of_head(&mut self, given: usize, cx: &mut Context<'_>) -> Result<usize, TooLarge> {
        let room = (FREE_HEAD_BYTES + self.pooled).saturating_sub(given);
        if room > 0 {
            self.looked_at = false;
            return Ok(room);
        }
        if !self.looked_at {
            self.looked_at = true;
            cx.waker().wake_by_ref();
            return Ok(0);
        }
        if given >= HEAD_BYTES || !self.held.table().take_head(FREE_HEAD_BYTES) {
            return Err(TooLarge);
        }
        self.pooled += FREE_HEAD_BYTES;
        self.looked_at = false;
        Ok(FREE_HEAD_BYTES)
    }

    fn leave_pool(&mut self) {
        self.held.table().give_head(std::mem::take(&mut self.pooled));
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.leave_pool();
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.refused.is_some() {
            return this.linger(cx);
        }
        this.held.connection.listen(cx);
        if this.held.connection.is_closed() {
            return Poll::Ready(Ok(()));
        }
        if !this.held.connection.is_waiting() {
            this.leave_pool();
        }
        if this.is_late(cx) {
            return match this.held.connection.phase() {
                // A browser that connects in advance is told nothing.
                Phase::Head if this.held.connection.given() > 0 => this.refuse(&TOO_LATE, cx),
                _ => Poll::Ready(Ok(())),
            };
        }
        let most = match this.room(cx) {
            Err(TooLarge) => return this.refuse(&HEAD_TOO_LARGE, cx),
            Ok(Some(0)) => return Poll::Pending,
            Ok(room) => room.unwrap_or(usize::MAX).min(into.remaining()),
        };
        let mut part = ReadBuf::new(into.initialize_unfilled_to(most));
        ready!(Pin::new(&mut this.io).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        into.advance(read);
        if this.held.connection.phase() != Phase::Rest {
            this.held.connection.give(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.unflushed
            && self.held.connection.phase() == Phase::Head
            && let Some(refusal) = in_place_of(bytes)
        {
            // What cannot be read as a request is refused by the server behind this stream, without a word.
            let written = self.io.try_write(refusal);
            return Poll::Ready(written.map(|_| bytes.len()));
        }
        self.unflushed = true;
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.after_write(polled, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Guarded {
    fn after_write(
        &mut self,
        polled: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if polled.is_ready() {
            self.writing.off();
            return polled;
        }
        let stalled = self.held.connection.limits().stalled;
        let until = self.writing.deadline.unwrap_or_else(|| Instant::now() + stalled);
        if self.writing.passed(until, cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

/// Wakes at a moment that may move.
#[derive(Default)]
struct Alarm {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Whether the moment has come; wakes when it comes.
    fn passed(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        self.deadline = Some(deadline);
        match &mut self.sleep {
            // Moved on only when it wakes: a timer that is set anew for each read costs more than the read.
            Some(sleep) if sleep.deadline() <= deadline => {
                if sleep.as_mut().poll(cx).is_pending() {
                    return false;
                }
                if Instant::now() >= deadline {
                    return true;
                }
                sleep.as_mut().reset(deadline);
                sleep.as_mut().poll(cx).is_ready()
            }
            sleep => {
                let sleep = sleep.insert(Box::pin(sleep_until(deadline)));
                sleep.as_mut().poll(cx).is_ready()
            }
        }
    }

    fn off(&mut self) {
        self.deadline = None;
        self.sleep = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_without_a_word_is_worded() {
        let bare = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        for (status, code) in
            [("400 Bad Request", "bad_request"), ("431 Request Header Fields Too Large", "head_too_large")]
        {
            let worded = in_place_of(bare(status).as_bytes()).expect("a refusal");
            let worded = std::str::from_utf8(worded).unwrap();
            assert!(worded.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{worded}");
            assert!(worded.contains(&format!("\"code\":\"{code}\"")), "{worded}");
            for usual in ["cache-control: no-store", "x-content-type-options: nosniff", "referrer-policy: "] {
                assert!(worded.contains(usual), "{usual}: {worded}");
            }
        }
        assert!(in_place_of(bare("200 OK").as_bytes()).is_none());
        assert!(in_place_of(b"HTTP/1.1 400 Bad Request\r\n\r\nbody").is_none());
    }
}
