//! Records how each answer of an HTTP/1 connection begins, so that its status is known even when its header cannot be read.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

/// As many bytes as a status line needs up to its status: `HTTP/1.1 200`.
const ENOUGH: usize = 12;

/// The read that brings an answer's beginning goes through a buffer of this size, bytes.
const FIRST_READ: usize = 4096;

/// The first bytes that came since something was last sent.
#[derive(Clone, Default)]
pub(crate) struct Beginning(Arc<Mutex<Vec<u8>>>);

impl Beginning {
    /// The status of the answer whose beginning this is; none when it is none, or only a provisional one.
    pub(crate) fn status(&self) -> Option<u16> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let status = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?;
        let status: u16 = std::str::from_utf8(status.get(..3)?).ok()?.parse().ok()?;
        (200..=599).contains(&status).then_some(status)
    }

    fn sent(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn is_incomplete(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() < ENOUGH
    }

    fn received(&self, bytes: &[u8]) {
        let mut beginning = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = ENOUGH.saturating_sub(beginning.len());
        beginning.extend_from_slice(&bytes[..bytes.len().min(missing)]);
    }
}

/// A connection whose answers' beginnings are recorded. One of HTTP/2, which has no status lines, is passed through.
pub(crate) struct Recording<T> {
    stream: T,
    /// Whether a proxy reads the requests.
    forwarded: bool,
    beginning: Option<Beginning>,
}

impl<T: Connection> Recording<T> {
    pub(crate) fn new(stream: T, forwarded: bool) -> Self {
        let records = !stream.connected().is_negotiated_h2();
        Self { stream, forwarded, beginning: records.then(Beginning::default) }
    }
}

impl<T: Connection> Connection for Recording<T> {
    fn connected(&self) -> Connected {
        let connected = self.stream.connected().proxy(self.forwarded);
        match &self.beginning {
            Some(beginning) => connected.extra(beginning.clone()),
            None => connected,
        }
    }
}

impl<T: Read + Unpin> Read for Recording<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let stream = Pin::new(&mut this.stream);
        let Some(beginning) = this.beginning.as_ref().filter(|beginning| beginning.is_incomplete()) else {
            return stream.poll_read(context, into);
        };
        let mut piece = [0; FIRST_READ];
        let most = into.remaining().min(FIRST_READ);
        let mut piece = ReadBuf::new(&mut piece[..most]);
        ready!(stream.poll_read(context, piece.unfilled()))?;
        beginning.received(piece.filled());
        into.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl<T: Write + Unpin> Write for Recording<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(beginning) = &self.beginning {
            beginning.sent();
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(beginning) = &self.beginning {
            beginning.sent();
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_gives_its_status_and_nothing_else_does() {
        for (text, status) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 503\r\n", Some(503)),
            ("HTTP/1.1 100 Continue\r\n", None),
            ("HTTP/1.1 999 Odd\r\n", None),
            ("HTTP/1.1 20", None),
            ("HTTP/2 200", None),
            ("220 smtp.example ESMTP", None),
            ("", None),
        ] {
            let beginning = Beginning::default();
            for byte in text.as_bytes() {
                beginning.received(&[*byte]);
            }
            assert_eq!(beginning.status(), status, "{text}");
            beginning.sent();
            assert_eq!(beginning.status(), None, "it is the beginning of an earlier answer");
        }
    }
}
