//! A machine's clock that a test sets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use penstock_sandbox::Sandbox;

use crate::Place;
use crate::postgres::Postgres;
use crate::redis::Redis;

/// The file of a place that says how far its clock is from the machine's, such as `+1h`.
pub const CLOCK: &str = "clock";

/// Lets the clock of a place's programs, and those of its database and its Redis, be set by the place's file [`CLOCK`]. Monotonic time
/// is left as it is. The servers that it returns on a cluster have to be kept.
pub async fn fake_clock(place: &mut Place, sandbox: &Sandbox) -> Option<(Postgres, Redis)> {
    let shift = place.write(CLOCK, "+0");
    // PostgreSQL is another user's.
    let folder = Path::new(&shift).parent().expect("a folder");
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let library = std::env::var("PENSTOCK_TEST_FAKETIME").expect("`cargo xtask test` sets it");
    let mut clock = vec![
        ("LD_PRELOAD", library.clone()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", shift),
    ];
    for (name, value) in &clock {
        place.set(name, value.clone());
    }
    if !place.is_cluster() {
        return None;
    }
    // Services go by the database's clock, and limits by that of Redis.
    let server = Postgres::start_with(clock.clone()).await;
    place.set("DATABASE_URL", server.url("penstock"));
    assert!(place.operate(sandbox, &["migrate"]).1);
    // With its own allocator, jemalloc, it does not start: that asks for the time before the library can tell it.
    clock[0].1 = format!("{library}:libc.so.6");
    let mut redis = Redis::reserve();
    redis.set(clock);
    redis.start(&[]);
    place.set("REDIS_URL", redis.url());
    Some((server, redis))
}
