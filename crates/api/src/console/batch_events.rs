//! What happened to a batch, and who did it.

use penstock_console::batch::Event;
use penstock_flow::read::view::BatchView;
use penstock_store::batches::Batch;
use penstock_store::operations::AuditLine;

/// What happened to a batch, oldest first; `audit` is what is known of it, newest first. Who belongs to the installation's
/// operators has a name for `admin` keys alone.
pub(super) fn events(batch: &Batch, view: &BatchView, audit: &[AuditLine], admin: bool) -> Vec<Event> {
    let who = |line: &AuditLine| who(line, &batch.owner_name, admin);
    let last = |action: &str| audit.iter().find(|line| line.entry.action == action).and_then(who);
    let event = |at, what: &str, who| Event { at, what: what.to_owned(), who };
    let mut events = vec![event(view.created_at, "uploaded", last("batch.create"))];
    events.extend(view.started_at.map(|at| event(at, "taken up by a worker", None)));
    events.extend(view.hold.as_ref().map(|hold| event(hold.since, "held", None)));
    events.extend(audit.iter().filter_map(|line| {
        let what = match line.entry.action.as_str() {
            "batch.pause" => "paused",
            "batch.resume" => "resumed",
            "batch.retry" => "rows retried",
            _ => return None,
        };
        Some(event(line.entry.at, what, who(line)))
    }));
    events.extend(view.cancelled_at.map(|at| event(at, "cancelled", last("batch.cancel"))));
    let ended = match view.outcome {
        Some(outcome) => format!("ended: {}", outcome.name().replace('_', " ")),
        None => "ended".to_owned(),
    };
    events.extend(view.finished_at.map(|at| event(at, &ended, None)));
    events.extend(batch.erased_at.map(|at| event(at, "erased", last("batch.erase"))));
    events.sort_by_key(|event| event.at);
    events
}

/// Who did it; none where that is not known: of a key that has been deleted since.
fn who(line: &AuditLine, owner: &str, admin: bool) -> Option<String> {
    match &line.key_owner {
        _ if admin => Some(line.who()),
        Some(of) if of == owner => Some(line.who()),
        None if line.entry.actor.starts_with("key:") => None,
        _ => Some("an operator".to_owned()),
    }
}
