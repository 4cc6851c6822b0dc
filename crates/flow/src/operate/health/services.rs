//! The services: database, object store and queue.

use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path as ObjectPath;
use penstock_queue::QueueServer;

use crate::context::findings::Findings;
use crate::context::services::Services;

/// Clocks may differ by so much, in milliseconds: leases and start times are told between machines.
const SKEW_MS: i64 = 2000;

/// The queue's share of its memory from which it is worth a word.
const MUCH_MEMORY: f64 = 0.8;

/// Whether what lies in the database can be looked at.
pub(super) async fn database(services: &Services, findings: &mut Findings) -> bool {
    let info = match services.store.engine().await {
        Ok(info) => info,
        Err(error) => {
            findings.fail(
                "database",
                format!("{error}; is it up, and is DATABASE_URL right? What needs it was not looked at"),
            );
            return false;
        }
    };
    let found = format!("{} {}, {} MiB", info.engine, info.version, info.bytes / 1024 / 1024);
    if info.supported {
        findings.ok("database", found);
    } else {
        findings.fail("database", format!("{found}: {} or later is needed", info.needed_version));
    }
    if !info.missing_rights.is_empty() {
        let missing = info.missing_rights.join(", ");
        findings.fail("rights", format!("DATABASE_URL's role lacks {missing}: grant them"));
    }
    clock(findings, "clock", "the database's", services.clock.now().millis() - info.now.millis());
    match services.store.check_schema().await {
        Ok(()) => findings.ok("schema", format!("up to date (version {})", info.schema)),
        Err(error) => {
            findings.fail("schema", error.to_string());
            return false;
        }
    }
    match services.store.probe_writes(services.clock.now()).await {
        Ok(()) => findings.ok("writes", "the database takes them"),
        Err(error) => {
            let hint =
                "is it a standby, read-only, or its disk full? Nothing is processed until it takes writes";
            findings.fail("writes", format!("{error}; {hint}"));
        }
    }
    true
}

fn clock(findings: &mut Findings, what: &'static str, whose: &str, apart: i64) {
    let apart = apart.abs();
    let found = format!("{apart} ms apart from {whose}");
    if apart > SKEW_MS {
        findings.warn(what, format!("{found}: set both by NTP"));
    } else {
        findings.ok(what, found);
    }
}

pub(super) async fn objects(services: &Services, findings: &mut Findings) {
    let objects = &services.objects;
    if let Err(error) = objects.list(None).try_next().await {
        return findings.fail("objects", format!("{error}; check OBJECT_STORE_URL and its credentials"));
    }
    // What can be listed may still take no writes.
    let probe = ObjectPath::from("probe/writes");
    let written = match objects.put(&probe, "doctor".into()).await {
        Ok(_) => objects.delete(&probe).await,
        Err(error) => Err(error),
    };
    match written {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => {
            findings.ok("objects", "reachable, and takes writes");
        }
        Err(error) => {
            let hint = "uploads are refused until objects can be written and deleted";
            findings.fail("objects", format!("{error}; {hint}: check rights and credentials"));
        }
    }
}

pub(super) async fn queue(services: &Services, findings: &mut Findings) {
    let server = match services.queue.server().await {
        Ok(Some(server)) => server,
        Ok(None) => return findings.ok("queue", "in the service's own process"),
        Err(error) => return findings.fail("queue", format!("{error}; is it up, and is REDIS_URL right?")),
    };
    if let Err(error) = services.queue.ready().await {
        let hint = "nothing is enqueued until it takes writes: is it a replica, full, unable to save, or its user without a right?";
        return findings.fail("queue", format!("{error}; {hint}"));
    }
    let waiting = match services.queue.backlog().await {
        Ok(backlog) => backlog.values().sum::<u64>(),
        Err(error) => return findings.fail("queue", error.to_string()),
    };
    if server.version.is_empty() {
        let found = format!(
            "Redis, {waiting} messages wait; its version and its memory are not known, and a restart from an older snapshot is not noticed"
        );
        findings.warn("queue", format!("{found}: grant +info to its user"));
        return clock(findings, "queue clock", "Redis'", services.clock.now().millis() - server.now_ms);
    }
    let found = format!("Redis {}, {waiting} messages wait", server.version);
    if server.is_supported() {
        findings.ok("queue", found);
    } else {
        findings.fail("queue", format!("{found}: {} or later is needed", QueueServer::NEEDED));
    }
    clock(findings, "queue clock", "Redis'", services.clock.now().millis() - server.now_ms);
    memory(&server, findings);
}

fn memory(server: &QueueServer, findings: &mut Findings) {
    let mib = |bytes: u64| bytes / 1024 / 1024;
    if server.memory_policy != "noeviction" {
        return findings.warn(
            "queue memory",
            format!(
                "maxmemory-policy is {}: limits and messages may be thrown away; set it to noeviction",
                server.memory_policy
            ),
        );
    }
    let Some(most) = server.most_bytes else {
        return findings.ok("queue memory", format!("{} MiB, noeviction", mib(server.used_bytes)));
    };
    let found = format!("{} of {} MiB, noeviction", mib(server.used_bytes), mib(most));
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    let share = server.used_bytes as f64 / most as f64;
    if share > MUCH_MEMORY {
        findings.warn("queue memory", format!("{found}: raise maxmemory"));
    } else {
        findings.ok("queue memory", found);
    }
}
