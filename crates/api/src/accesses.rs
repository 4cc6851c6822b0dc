//! Refused requests and what admin keys read: log lines and audit entries, at most a few a minute, so that a flood of requests
//! fills neither. The first of a kind is written at once; the others of that minute are counted and written as one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use penstock_domain::ids::BatchId;
use penstock_flow::Services;
use penstock_flow::context::tasks::spawn_part;
use penstock_store::operations::AuditEntry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

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
pub(crate) struct Subject {
    pub(crate) access: Access,
    pub(crate) actor: String,
    pub(crate) batch: Option<BatchId>,
    pub(crate) request: String,
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

    pub(crate) fn record(&self, subject: Subject) {
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
}
