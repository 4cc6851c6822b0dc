//! The shipped pipeline at the pace of a test, and people for it.

const INVITE: &str = include_str!("../../pipelines/invite.yaml");

/// The invite pipeline with limits that no test reaches and short waits.
pub fn quick_invite() -> String {
    INVITE
        .replace("limit: 50, period: 1s, burst: 10", "limit: 5000, period: 1s, burst: 500")
        .replace("limit: 20, period: 1s, burst: 5", "limit: 5000, period: 1s, burst: 500")
        .replace("rows_per_owner: 100", "rows_per_owner: 500, spread: 0s")
        .replace("initial: 1s, factor: 2, max: 5m", "initial: 50ms, factor: 1, max: 50ms")
}

/// A file of so many people, whose addresses begin with `word`. The sandbox invites all of them.
pub fn people(count: u32, word: &str) -> String {
    let mut csv = "email,first_name,last_name,phone,postcode\n".to_owned();
    for number in 0..count {
        csv.push_str(&format!("{word}{number}@example.com,{word},Last,,AB{:04}\n", number % 10_000));
    }
    csv
}
