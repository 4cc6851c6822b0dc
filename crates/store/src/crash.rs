//! Named places at which tests kill the process, to show that nothing is lost or doubled there.
//!
//! In a release build this is nothing at all.

/// Right after the sealed file is complete in the object store, before SQL knows of the batch.
pub const FILE_STORED: &str = "file-stored";
/// Inside extraction, between two chunks.
pub const INSIDE_EXTRACTION: &str = "inside-extraction";
/// After rows are marked queued, before the messages are enqueued.
pub const BEFORE_ENQUEUE: &str = "before-enqueue";
/// Between two steps of a row.
pub const BETWEEN_STEPS: &str = "between-steps";
/// After a row's last call, before it is settled.
pub const BEFORE_SETTLEMENT: &str = "before-settlement";
/// Before a bulk call is recorded, with all of its rows.
pub const BEFORE_CALL_RECORD: &str = "before-call-record";
/// Inside the record of a bulk call, before it is committed.
pub const INSIDE_CALL_RECORD: &str = "inside-call-record";
/// After a bulk call was recorded, before it is made.
pub const AFTER_CALL_RECORD: &str = "after-call-record";
/// After the answer of a bulk call, before anything of it is written.
pub const AFTER_CALL: &str = "after-call";
/// Inside a settlement, before it is committed.
pub const INSIDE_SETTLEMENT: &str = "inside-settlement";
/// After a settlement was committed, before anybody was told.
pub const AFTER_SETTLEMENT: &str = "after-settlement";

/// Inside an erasure, once the data key is gone and before the rows are.
pub const INSIDE_ERASURE: &str = "inside-erasure";

/// Dies here, as by `kill -9`, when `PENSTOCK_CRASH_AT` is `name` or `name:N` (at the Nth time, from 1).
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Ok(wanted) = std::env::var("PENSTOCK_CRASH_AT") else { return };
    let (place, nth) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if place == name && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == nth.parse().unwrap_or(1) {
        std::process::abort();
    }
}

/// Nothing: this is a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &str) {}

/// Inside the task that reads a stored file, before each block.
pub const READING: &str = "reading";

/// Panics here, as by a defect, when `PENSTOCK_PANIC_AT` is `name`.
#[cfg(debug_assertions)]
pub fn panic_point(name: &str) {
    let wanted = std::env::var("PENSTOCK_PANIC_AT").is_ok_and(|wanted| wanted == name);
    assert!(!wanted, "PENSTOCK_PANIC_AT is {name}");
}

/// Nothing: this is a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn panic_point(_name: &str) {}
