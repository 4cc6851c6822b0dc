//! The queue on Redis, on a real one of each test's own: what it promises, and each of the ways in which apalis-redis
//! is known to lose or keep too much.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_queue::{EnqueueResult, Lane, MAX_BACKLOG, Message, Queue as _, SharedQueue};
use penstock_redis::Prefix;
use penstock_sandbox::proxy::Proxy;
use support::{Listening, PATIENCE, Redis, extract, rows, short, until};

/// As many messages as a million rows make go through, and Redis' memory is where it was: nothing of them is left. Nobody
/// who has ended is listed any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_messages_that_were_taken() {
    let redis = Redis::start();
    let (ringer, queue) = (redis.queue(), redis.queue());
    let mut listening = Listening::to(&queue, "listener");
    ringer.enqueue(vec![rows("invite", 0)]).await.unwrap();
    listening.next().await;
    until(|| redis.ask(&["scard", "penstock:rows:invite:inflight:listener/1.0"]) == "0").await;
    let (keys, bytes) = (redis.ask(&["dbsize"]), redis.bytes());
    for round in 0..5 {
        let messages = (0..1000).map(|number| rows("invite", round * 1000 + number)).collect();
        assert_eq!(
            ringer.enqueue(messages).await.unwrap(),
            EnqueueResult { enqueued: 1000, held_back: Vec::new() }
        );
        for _ in 0..1000 {
            listening.next().await;
        }
    }
    until(|| redis.ask(&["dbsize"]) == keys).await;
    assert_eq!(queue.backlog().await.unwrap()[&Lane::Rows("invite".into())], 0);
    // What Redis keeps for itself varies by less than a hundred thousand bytes; 40 bytes a message would be more than this.
    until(|| redis.bytes() < bytes + 200_000).await;
    listening.end().await;
    until(|| redis.ask(&["zcard", "penstock:rows:invite:workers"]) == "0").await;
    assert_eq!(redis.ask(&["keys", "*:workers:metadata:*"]), "");
}

/// 8,000 messages at once would stop every listener for good: no more than half of that ever wait, the rest is held back,
/// and all that wait can be fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_bears_so_many_messages_and_no_more() {
    let redis = Redis::start();
    let queue = redis.queue();
    let most = MAX_BACKLOG as usize;
    let messages: Vec<Message> = (0..10_000).map(|number| rows("invite", number)).collect();
    let held_back = messages[most..].to_vec();
    assert_eq!(queue.enqueue(messages).await.unwrap(), EnqueueResult { enqueued: most, held_back });
    let more = queue.enqueue(vec![rows("invite", 0), rows("other", 0), extract(1)]).await.unwrap();
    assert_eq!(
        more,
        EnqueueResult { enqueued: 2, held_back: vec![rows("invite", 0)] },
        "a full lane holds up neither a file nor another one"
    );
    let waiting = queue.backlog().await.unwrap();
    assert_eq!((waiting[&Lane::Rows("invite".into())], waiting[&Lane::Extractions]), (most as u64, 1));
    let mut listening = Listening::to(&queue, "one");
    let began = Instant::now();
    for _ in 0..most + 2 {
        listening.next().await;
    }
    println!("{most} packets were taken in {:?}", began.elapsed());
    listening.end().await;
}

/// A lane in which nothing was enqueued before is listened to; an idle one is looked at many times a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_listener_receives_at_once() {
    let redis = Redis::start();
    let queue = redis.queue();
    let mut listening = Listening::to(&queue, "one");
    queue.enqueue(vec![rows("invite", 0), rows("unknown", 0)]).await.unwrap();
    let mut received = vec![listening.next().await.lane(), listening.next().await.lane()];
    received.sort();
    assert_eq!(received, [Lane::Rows("invite".into()), Lane::Rows("unknown".into())]);
    let mut waits = Vec::new();
    for number in 0..20 {
        tokio::time::sleep(Duration::from_millis(130)).await;
        let began = Instant::now();
        queue.enqueue(vec![rows("invite", number)]).await.unwrap();
        listening.next().await;
        waits.push(began.elapsed());
    }
    waits.sort();
    assert!(waits[10] < Duration::from_millis(250), "{waits:?}");
    listening.end().await;
}

/// A listener without room takes nothing: what waits goes to another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_has_no_room_for_another_takes() {
    let redis = Redis::start();
    let (full, free) = (redis.queue(), redis.queue());
    let mut crowded = Listening::to(&full, "full");
    crowded.has_room.store(false, Ordering::SeqCst);
    // What it may have asked for before it was full.
    full.enqueue(vec![rows("invite", 0)]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    while crowded.received.try_recv().is_ok() {}
    let mut other = Listening::to(&free, "free");
    full.enqueue((1..=20).map(|number| rows("invite", number)).collect()).await.unwrap();
    let mut received = 0;
    while received < 20 {
        other.next().await;
        received += 1;
    }
    assert!(crowded.received.try_recv().is_err());
    crowded.has_room.store(true, Ordering::SeqCst);
    full.enqueue(vec![rows("invite", 30), rows("invite", 31)]).await.unwrap();
    tokio::select! {
        _ = crowded.next() => {}
        _ = other.next() => {}
    }
    crowded.end().await;
    other.end().await;
}

/// Connections that are cut, all keys lost, a Redis that was away and comes back empty: the listener is there again by itself,
/// under a name that nobody had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_comes_back_whatever_happens_to_redis() {
    let mut redis = Redis::start();
    let queue = redis.queue();
    let mut listening = Listening::to(&queue, "one");
    let next = AtomicU64::new(1);
    let enqueue = async |listening: &mut Listening| {
        let number = u32::try_from(next.fetch_add(1, Ordering::SeqCst)).unwrap();
        let began = Instant::now();
        while queue.enqueue(vec![rows("invite", number)]).await.is_err() {
            assert!(began.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while listening.next().await != rows("invite", number) {}
    };
    enqueue(&mut listening).await;
    for _ in 0..3 {
        redis.ask(&["client", "kill", "type", "normal"]);
        enqueue(&mut listening).await;
    }
    redis.ask(&["flushall"]);
    // The worker that is no longer registered ends; the next one hears it.
    enqueue(&mut listening).await;
    redis.kill();
    tokio::time::sleep(Duration::from_secs(2)).await;
    redis.again();
    enqueue(&mut listening).await;
    listening.end().await;
}

/// A message in the hands of a listener that was killed comes to another one, once its name has been silent for long enough.
/// One whose handler takes long, while others live, does not come twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_listener_had_in_its_hands_comes_again() {
    let redis = Redis::start();
    let quick = || {
        let queue = SharedQueue::connect(&redis.url(), Prefix::default()).unwrap();
        Arc::new(queue.with_heartbeats(Duration::from_secs(1), 3))
    };
    let (first, second) = (quick(), quick());
    let mut doomed = Listening::slowly_to(&first, "first", Duration::from_secs(3600));
    first.enqueue(vec![extract(7)]).await.unwrap();
    assert_eq!(doomed.next().await, extract(7));
    let slow = Duration::from_secs(8);
    let mut other = Listening::slowly_to(&second, "second", slow);
    // kill -9: no word is said any more.
    doomed.task.abort();
    let began = Instant::now();
    assert_eq!(other.next().await, extract(7));
    println!("it came again after {:?}", began.elapsed());
    let third = quick();
    let mut idle = Listening::to(&third, "third");
    let twice = tokio::time::timeout(slow + Duration::from_secs(5), idle.received.recv()).await;
    assert!(twice.is_err(), "its listener lives: {twice:?}");
    assert_eq!(redis.ask(&["hlen", "penstock:extractions:data"]), "0", "and it is acknowledged");
}

/// A message that may not leave yet goes to another listener as soon as somebody finds its own dead, before all that waits; one
/// that may leave is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_process_may_not_let_go_is_put_back() {
    let redis = Redis::start();
    let (first, second) = (redis.queue(), redis.queue());
    let mut doomed = Listening::to(&first, "host/1");
    *doomed.keep.lock().unwrap() = Some(Vec::new());
    let suspects = Message::Suspects([(RowRef { batch: BatchSeq(1), number: 7 }, 2)].into_iter().collect());
    first
        .enqueue((0..30).map(|number| rows("invite", number)).chain([suspects.clone()]).collect())
        .await
        .unwrap();
    let mut taken = Vec::new();
    for _ in 0..31 {
        taken.push(short(&doomed.next().await));
    }
    // Some of the first ones have left.
    doomed.keep.lock().unwrap().as_mut().unwrap().drain(..5);
    let kept = || {
        let kept =
            ["rows:invite", "suspects"].map(|lane| redis.ask(&["hlen", &format!("penstock:{lane}:data")]));
        kept.iter().map(|kept| kept.parse::<usize>().unwrap()).sum::<usize>()
    };
    until(|| kept() == 26).await;
    doomed.task.abort();
    assert_eq!(second.put_back("host/10").await.unwrap(), 0, "that is another process");
    second.enqueue(vec![rows("invite", 99)]).await.unwrap();
    assert_eq!(second.put_back("host/1").await.unwrap(), 26);
    assert_eq!(second.put_back("host/1").await.unwrap(), 0);
    let mut other = Listening::to(&second, "host/2");
    let mut received = Vec::new();
    for _ in 0..27 {
        received.push(short(&other.next().await));
    }
    let late = short(&rows("invite", 99));
    let of_rows: Vec<_> = received.iter().filter(|(lane, _)| *lane != Lane::Suspects).collect();
    assert_eq!(of_rows.last(), Some(&&late), "who waited for less comes later");
    let mut expected = [&taken[5..], &[late]].concat();
    received.sort();
    expected.sort();
    assert_eq!(received, expected);
    until(|| kept() == 0).await;
    other.end().await;
}

/// What is no message of ours, and what makes the handler panic, is dropped and gone: neither comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_is_dropped_for_good() {
    let redis = Redis::start();
    let queue = redis.queue();
    let mut listening = Listening::to(&queue, "one");
    for (id, text) in [("a", "{\"z\":1}"), ("b", "7")] {
        redis.ask(&["hset", "penstock:extractions:data", id, text]);
        redis.ask(&[
            "hset",
            &format!("penstock:extractions:meta:{id}"),
            "attempts",
            "0",
            "max_attempts",
            "1",
            "status",
            "Pending",
        ]);
        redis.ask(&["rpush", "penstock:extractions:active", id]);
    }
    queue.enqueue(vec![extract(13), extract(14)]).await.unwrap();
    assert_eq!(listening.next().await, extract(14));
    until(|| redis.ask(&["hlen", "penstock:extractions:data"]) == "0").await;
    assert_eq!(redis.ask(&["keys", "penstock:extractions:meta:*"]), "");
    listening.end().await;
}

/// A queue that is away is an error for whoever enqueues, and nothing to wait for when it stops.
#[tokio::test]
async fn it_is_stopped_before_redis_is_there() {
    let mut redis = Redis::start();
    redis.kill();
    let queue = redis.queue();
    let listening = Listening::to(&queue, "one");
    assert!(queue.ready().await.is_err());
    assert!(queue.enqueue(vec![extract(1)]).await.is_err());
    listening.end().await;
}

/// Everything goes on within this time after connections have fallen silent.
const GOES_ON: Duration = Duration::from_secs(10);

/// A firewall forgets the connections of both sides: both go on, on new ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_replaced() {
    let redis = Redis::start();
    let (proxy, url) = Proxy::before(&redis.url()).unwrap();
    let queue = || Arc::new(SharedQueue::connect(&url, Prefix::default()).unwrap());
    let (ringer, listener) = (queue(), queue());
    let mut listening = Listening::to(&listener, "listener");
    ringer.enqueue(vec![extract(1), rows("invite", 0)]).await.unwrap();
    listening.next().await;
    listening.next().await;
    for round in 0..2 {
        proxy.silence();
        let began = Instant::now();
        ringer
            .enqueue(vec![extract(2), rows("invite", 1)])
            .await
            .expect("it is tried again on another connection");
        listening.next().await;
        listening.next().await;
        assert!(began.elapsed() < GOES_ON, "round {round}: {:?}", began.elapsed());
    }
    listening.end().await;
}

/// A listener whose connection breaks with a message in its hands puts it back: nobody waits until it counts as gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broken_listener_had_in_its_hands_comes_at_once() {
    let redis = Redis::start();
    let (proxy, url) = Proxy::before(&redis.url()).unwrap();
    let queue = Arc::new(SharedQueue::connect(&url, Prefix::default()).unwrap());
    let mut listening = Listening::to(&queue, "listener");
    // It is there and idle.
    queue.enqueue(vec![extract(1)]).await.unwrap();
    listening.next().await;
    until(|| redis.ask(&["hlen", "penstock:extractions:data"]) == "0").await;
    listening.has_room.store(false, Ordering::SeqCst);
    queue.enqueue(vec![extract(7)]).await.unwrap();
    // Its answer to the next fetch is lost: the message is in its hands, and it does not know.
    let id = redis.ask(&["zrange", "penstock:extractions:scheduled", "0", "0"]);
    assert_eq!(redis.ask(&["zrem", "penstock:extractions:scheduled", &id]), "1", "{id}");
    let name = redis.ask(&["zrange", "penstock:extractions:workers", "0", "0"]);
    assert_eq!(redis.ask(&["sadd", &format!("penstock:extractions:inflight:{name}"), &id]), "1", "{name}");
    proxy.silence();
    listening.has_room.store(true, Ordering::SeqCst);
    let began = Instant::now();
    assert_eq!(listening.next().await, extract(7));
    assert!(began.elapsed() < GOES_ON, "{:?}", began.elapsed());
    listening.end().await;
}

/// A Redis that is a replica, or cannot save and takes no writes for that, is not ready. A connection to a replica is
/// replaced: after a failover the next one leads to the new primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_writes_is_not_ready() {
    let redis = Redis::start();
    let (proxy, url) = Proxy::before(&redis.url()).unwrap();
    let queue = SharedQueue::connect(&url, Prefix::default()).unwrap();
    queue.ready().await.unwrap();
    redis.ask(&["replicaof", "127.0.0.1", "1"]);
    let before = proxy.accepted();
    let error = queue.ready().await.unwrap_err();
    assert!(error.to_string().contains("read only"), "{error}");
    assert!(queue.enqueue(vec![extract(1)]).await.is_err());
    assert!(proxy.accepted() > before, "it asks for another connection");
    redis.ask(&["replicaof", "no", "one"]);
    queue.ready().await.expect("it is the primary again");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    assert_eq!(redis.ask(&["config", "set", "dir", &path]), "OK");
    assert_eq!(redis.ask(&["config", "set", "save", "3600 1"]), "OK");
    drop(folder);
    redis.ask(&["bgsave"]);
    until(|| redis.ask(&["info", "persistence"]).contains("rdb_last_bgsave_status:err")).await;
    let error = queue.ready().await.unwrap_err();
    assert!(error.to_string().contains("MISCONF"), "{error}");
    assert_eq!(redis.ask(&["config", "set", "save", ""]), "OK");
    queue.ready().await.expect("it takes writes again");

    assert_eq!(redis.ask(&["config", "set", "maxmemory", "1"]), "OK");
    let error = queue.ready().await.unwrap_err();
    assert!(error.to_string().contains("OOM"), "{error}");
    assert_eq!(redis.ask(&["config", "set", "maxmemory", "0"]), "OK");
    queue.ready().await.expect("it has room again");
}

/// A Redis that closes idle connections, or is restarted by its operator, costs no message, and none comes late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_closed_while_idle_costs_no_message() {
    let redis = Redis::start();
    let (ringer, listener) = (redis.queue(), redis.queue());
    let mut listening = Listening::to(&listener, "listener");
    ringer.enqueue(vec![extract(1)]).await.unwrap();
    listening.next().await;
    for number in 2..6 {
        redis.ask(&["client", "kill", "type", "normal"]);
        let began = Instant::now();
        let enqueued = ringer.enqueue(vec![extract(number)]).await.expect("it is tried on a new connection");
        assert_eq!(enqueued.enqueued, 1);
        // One that was on its way when the connection was closed comes twice.
        while listening.next().await != extract(number) {}
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    listening.end().await;
}

/// A Redis that answers more slowly than a listener's timers run leaves no listener asleep: messages come as soon as it answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_redis_leaves_no_listener_asleep() {
    let redis = Redis::start();
    let heartbeat = Duration::from_millis(130);
    let queue =
        SharedQueue::connect(&redis.url(), Prefix::default()).unwrap().with_heartbeats(heartbeat, 500);
    let queue = Arc::new(queue);
    let mut listening = Listening::to(&queue, "worker");
    for number in 0..60 {
        redis.ask(&["client", "pause", "170", "all"]);
        tokio::time::sleep(Duration::from_millis(150 + number % 7 * 10)).await;
        if number % 10 == 9 {
            let number = i64::try_from(100 + number).unwrap();
            queue.enqueue(vec![extract(number)]).await.unwrap();
            let taken = tokio::time::timeout(Duration::from_secs(10), listening.next()).await;
            assert_eq!(taken.expect("the listener is awake"), extract(number));
        }
    }
    listening.end().await;
}
