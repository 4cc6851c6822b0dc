//! The way of a service's log lines to standard error. It never blocks: when nobody reads the pipe, lines are dropped and
//! counted, and the first line that gets through again is preceded by one that gives their number.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that wait for the pipe at most: some MiB.
const WAITING: usize = 16 * 1024;

/// Lines that were dropped in this process, for its metrics.
static DROPPED: OnceLock<Dropped> = OnceLock::new();

struct Dropped {
    counter: ErrorCounter,
    /// Lines about dropped lines that were dropped themselves.
    notices: AtomicUsize,
    /// The number that was reported last.
    reported: AtomicUsize,
}

impl Dropped {
    fn lines(&self) -> usize {
        self.counter.dropped_lines().saturating_sub(self.notices.load(Ordering::SeqCst))
    }
}

/// How many log lines this process has dropped.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| u64::try_from(dropped.lines()).unwrap_or(u64::MAX))
}

/// Where lines are written to; each call to [`Write::write_all`] is a line.
pub struct LogPipe {
    lines: NonBlocking,
    dropped: &'static Dropped,
    notice: fn(usize) -> Vec<u8>,
}

impl LogPipe {
    /// A pipe to `out`, for the life of the process. `notice` writes the line that reports dropped ones. What waits when the
    /// guard is dropped is written, within a second.
    pub fn to(out: impl Write + Send + 'static, notice: fn(usize) -> Vec<u8>) -> (Self, WorkerGuard) {
        let (lines, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(WAITING)
            .thread_name("logs")
            .finish(out);
        let counter = lines.error_counter();
        let dropped = DROPPED.get_or_init(|| Dropped {
            counter,
            notices: AtomicUsize::new(0),
            reported: AtomicUsize::new(0),
        });
        (Self { lines, dropped, notice }, guard)
    }

    /// A writer of one line.
    pub fn writer(&self) -> Self {
        Self { lines: self.lines.clone(), dropped: self.dropped, notice: self.notice }
    }

    fn report_dropped(&mut self) -> std::io::Result<()> {
        let (lines, reported) = (self.dropped.lines(), self.dropped.reported.load(Ordering::SeqCst));
        // One of several threads that see it reports it.
        let is_mine = || {
            let swapped =
                self.dropped.reported.compare_exchange(reported, lines, Ordering::SeqCst, Ordering::SeqCst);
            swapped.is_ok()
        };
        if lines <= reported || !is_mine() {
            return Ok(());
        }
        let before = self.dropped.counter.dropped_lines();
        self.lines.write_all(&(self.notice)(lines - reported))?;
        if self.dropped.counter.dropped_lines() > before {
            // There is no room yet.
            self.dropped.notices.fetch_add(1, Ordering::SeqCst);
            self.dropped.reported.store(reported, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Write for LogPipe {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.report_dropped()?;
        self.lines.write(line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.lines.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    /// Takes a line only when the test lets it.
    struct Stuck {
        let_through: mpsc::Receiver<()>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.let_through.recv().map_err(std::io::Error::other)?;
            self.taken.send(line.to_vec()).map_err(std::io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_blocks_nobody_and_dropped_lines_are_counted() {
        let (release, let_through) = mpsc::channel();
        let (taken, lines) = mpsc::channel();
        let (pipe, _guard) =
            LogPipe::to(Stuck { let_through, taken }, |lines| format!("dropped {lines}\n").into());
        let began = Instant::now();
        for number in 0..WAITING + 100 {
            pipe.writer().write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        let dropped = dropped_lines();
        // One or two are on their way out of the queue.
        assert!((95..=100).contains(&dropped), "{dropped}");
        for _ in 0..WAITING + 200 {
            release.send(()).unwrap();
        }
        let next = || lines.recv_timeout(Duration::from_secs(30)).unwrap();
        for _ in 0..WAITING as u64 + 100 - dropped {
            next();
        }
        pipe.writer().write_all(b"again\n").unwrap();
        assert_eq!(next(), format!("dropped {dropped}\n").into_bytes());
        assert_eq!(next(), b"again\n");
        assert_eq!(dropped_lines(), dropped, "each is counted once");
    }
}
