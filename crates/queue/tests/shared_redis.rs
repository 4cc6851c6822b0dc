//! Several installations on one Redis, a real one of each test's own.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

mod support;

use std::sync::Arc;

use penstock_queue::{Message, Queue as _, SharedQueue};
use penstock_redis::Prefix;
use support::{Listening, Redis, extract, rows};

/// Installations with prefixes of their own share a Redis: neither takes what is the other's, even where one prefix begins with the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installations_on_one_redis_are_apart() {
    let redis = Redis::start();
    let queue = |prefix| Arc::new(SharedQueue::connect(&redis.url(), Prefix::new(prefix).unwrap()).unwrap());
    let (one, other) = (queue("a"), queue("ab"));
    let (mut ones, mut others) = (Listening::to(&one, "one"), Listening::to(&other, "other"));
    for number in 20..40 {
        one.enqueue(vec![extract(number), rows("invite", 1)]).await.unwrap();
        other.enqueue(vec![extract(100 + number), rows("refund", 1)]).await.unwrap();
    }
    for _ in 0..40 {
        let (mine, theirs) = (ones.next().await, others.next().await);
        assert!(
            matches!(mine, Message::Rows(_)) || (20..40).any(|number| mine == extract(number)),
            "{mine:?}"
        );
        assert_ne!(mine, rows("refund", 1));
        assert!(matches!(theirs, Message::Rows(_)) || (120..140).any(|number| theirs == extract(number)));
        assert_ne!(theirs, rows("invite", 1));
    }
    let keys = redis.ask(&["--scan"]);
    assert!(keys.lines().all(|key| key.starts_with("a:") || key.starts_with("ab:")), "{keys}");
    assert_eq!(one.put_back("other").await.unwrap(), 0);
    ones.end().await;
    others.end().await;
}
