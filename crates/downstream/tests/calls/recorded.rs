//! Calls that have to be recorded before they are made.

use super::*;

struct Slow<'a> {
    notes: &'a AtomicUsize,
    takes: Duration,
    holds: bool,
}

#[async_trait::async_trait]
impl Note for Slow<'_> {
    async fn write(&self) -> bool {
        self.notes.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        self.holds
    }
}

/// Calls that are made at most once: each is recorded when it has a permit, once, and none is made without a permit or without a record.
#[tokio::test]
async fn a_call_is_recorded_when_it_has_a_permit_and_not_before() {
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.concurrency = Some(concurrency(1));
    api.timeout = Duration::from_secs(3);
    let caller = local();
    let notes = AtomicUsize::new(0);
    let noting = |takes: Duration, holds: bool| Slow { notes: &notes, takes, holds };
    let note = noting(Duration::ZERO, true);
    let (hanging, noted) = (demand(&api), Demand { note: Some(&note), ..demand(&api) });
    let hang = call(&caller, &hanging, get("/hang"));
    let second = async {
        while server.arrived().is_empty() {
            tokio::task::yield_now().await;
        }
        call(&caller, &noted, get("/ok")).await
    };
    let (_, second) = tokio::join!(hang, second);
    assert!(matches!(second, Called::Waits { reason: Reason::Concurrency, .. }), "{second:?}");
    assert_eq!(notes.load(Ordering::SeqCst), 0, "it had no slot");
    // With a rate, each has its moment; a database that takes long costs none its call.
    let mut paced = dependency(server.url());
    paced.rate = Some(rate(50, 1));
    paced.concurrency = Some(concurrency(2));
    for (api, takes) in [(&api, 0), (&api, 900), (&paced, 0), (&paced, 60), (&paced, 900), (&paced, 0)] {
        notes.store(0, Ordering::SeqCst);
        let before = server.arrived().len();
        let note = noting(Duration::from_millis(takes), true);
        let called = call(&caller, &Demand { note: Some(&note), ..demand(api) }, get("/ok")).await;
        assert!(matches!(called, Called::Answered { verdict: Verdict::Success, .. }), "{takes}: {called:?}");
        assert_eq!((notes.load(Ordering::SeqCst), server.arrived().len()), (1, before + 1), "{takes}");
    }
    let (before, note) = (server.arrived().len(), noting(Duration::ZERO, false));
    let called = call(&caller, &Demand { note: Some(&note), ..demand(&api) }, get("/ok")).await;
    assert!(matches!(called, Called::NotCovered), "{called:?}");
    assert_eq!(server.arrived().len(), before);
    assert_eq!(caller.peek(&api, "acme").await.unwrap().in_flight, 0, "its slot was released");
}
