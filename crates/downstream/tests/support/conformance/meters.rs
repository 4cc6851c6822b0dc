//! Several limits at once: a call takes what it needs of all of them, or nothing.

use std::time::Duration;

use penstock_domain::limit::{Ask, Decision, Denied, Past, Reason};
use penstock_domain::pipeline::{Dependency, Per, Rate, Window};
use penstock_domain::time::Clock as _;
use penstock_downstream::{CallLimits, Spend};

use super::Scene;

/// A limit of a list, known by its id.
fn limit(id: &str, limit: u32, period: Duration, burst: u32) -> Rate {
    Rate { id: id.to_owned(), ..Rate::bucket(limit, period, burst) }
}

fn per(text: &str) -> Option<Per> {
    let template = penstock_domain::pipeline::template::Template::Text(text.to_owned());
    Some(Per { text: text.to_owned(), template })
}

const SECOND: Duration = Duration::from_secs(1);

/// What a case asks: after so many milliseconds, by whom, with which value, at what cost (of no name, and of `tokens`), waiting for
/// how long; and what comes of it, in milliseconds.
struct Asked {
    after: u64,
    owner: &'static str,
    value: &'static str,
    cost: u32,
    tokens: Option<u32>,
    patience: u64,
    expected: Result<u64, (u64, Reason)>,
}

const fn ask(value: &'static str, expected: Result<u64, (u64, Reason)>) -> Asked {
    Asked { after: 0, owner: "acme", value, cost: 1, tokens: None, patience: 1100, expected }
}

/// The cases of both limiters: limits, and what is asked of them one after another from a state that is full.
/// What it shows, the limits, and what is asked of them.
type Case = (&'static str, fn(&mut Dependency), Vec<Asked>);

fn table() -> Vec<Case> {
    let own = |wait| Err((wait, Reason::ValueRate));
    vec![
        (
            "the tightest of two limits counts, and both are charged",
            |api| {
                api.rate = Some(limit("", 10, SECOND, 10));
                api.more = vec![limit("b", 2, SECOND, 1)];
            },
            vec![
                ask("", Ok(0)),
                // 25 ms that a burst of one has no room for, and an interval.
                ask("", Ok(528)),
                Asked { after: 1000, ..ask("", Ok(30)) },
            ],
        ),
        (
            "a dear call takes more of each",
            |api| {
                api.rate = Some(limit("", 100, SECOND, 100));
                api.more = vec![limit("b", 10, SECOND, 5)];
            },
            vec![Asked { cost: 5, ..ask("", Ok(0)) }, Asked { cost: 1, ..ask("", Ok(126)) }],
        ),
        (
            "each value has its own, and waiting for one costs the others nothing",
            |api| {
                api.rate = Some(limit("", 100, SECOND, 100));
                api.more = vec![Rate { per: per("v"), ..limit("v", 1, SECOND, 1) }];
            },
            vec![
                ask("a", Ok(0)),
                ask("a", own(1028)),
                ask("b", Ok(0)),
                ask("a", own(1028)),
                ask("c", Ok(0)),
                Asked { after: 1027, ..ask("a", Ok(3)) },
            ],
        ),
        (
            "who cannot wait gets a turn, each another one",
            |api| api.more = vec![Rate { per: per("v"), ..limit("v", 1, SECOND, 1) }],
            vec![
                ask("a", Ok(0)),
                Asked { patience: 0, ..ask("a", own(1030)) },
                Asked { patience: 0, ..ask("a", own(2035)) },
                Asked { patience: 0, ..ask("a", own(3040)) },
                ask("b", Ok(0)),
                Asked { after: 1031, patience: 0, ..ask("a", Ok(0)) },
            ],
        ),
        (
            "a limit with a name counts only what has a cost of its name",
            |api| {
                api.rate = Some(limit("", 100, SECOND, 100));
                api.more = vec![Rate { name: Some("tokens".into()), ..limit("t", 100, SECOND, 50) }];
            },
            vec![
                Asked { tokens: Some(40), ..ask("", Ok(0)) },
                Asked { tokens: Some(40), patience: 2000, ..ask("", Err((324, Reason::Rate))) },
                ask("", Ok(0)),
                // More than the burst: all of it, and the rest is owed.
                Asked { after: 600, tokens: Some(100), ..ask("", Ok(0)) },
                Asked { after: 600, tokens: Some(1), patience: 2000, ..ask("", Ok(0)) },
            ],
        ),
        (
            "an owner's own limit beside one for all",
            |api| {
                api.rate = Some(limit("", 100, SECOND, 100));
                api.more = vec![Rate { per_owner: true, ..limit("o", 1, SECOND, 1) }];
            },
            vec![
                ask("", Ok(0)),
                ask("", Err((1028, Reason::OwnerRate))),
                Asked { owner: "other", ..ask("", Ok(0)) },
            ],
        ),
        (
            "never more than the limit in any period, with a burst inside it",
            |api| {
                api.more =
                    vec![Rate { window: Window::Sliding, ..limit("s", 11, Duration::from_secs(10), 1) }];
            },
            vec![ask("", Ok(0)), ask("", Err((1030, Reason::Rate))), Asked { after: 1100, ..ask("", Ok(0)) }],
        ),
    ]
}

/// Runs the table.
pub async fn all(scene: &dyn Fn(fn(&mut Dependency)) -> Scene) {
    let mut wrong = Vec::new();
    for (case, set, asked) in table() {
        let scene = scene(set);
        fill(&scene).await;
        for (index, asked) in asked.into_iter().enumerate() {
            scene.clock.advance(Duration::from_millis(asked.after));
            let decision = decide(&scene, &asked, u64::try_from(index).unwrap() + 1).await;
            let found = match decision {
                Decision::Granted { wait, .. } => Ok(wait),
                Decision::Denied(Denied { retry_after, reason, .. }) => Err((retry_after, reason)),
                Decision::Unreserved { .. } => panic!("{case}: no limit by the calendar"),
            };
            #[allow(clippy::cast_precision_loss)]
            let is = |found: f64, expected: u64| (found / 1e3 - expected as f64).abs() < 2.5;
            let fits = match (found, asked.expected) {
                (Ok(found), Ok(expected)) => is(found, expected),
                (Err((found, reason)), Err((expected, wanted))) => is(found, expected) && reason == wanted,
                _ => false,
            };
            if !fits {
                wrong.push(format!("{case}, ask {index}: {found:?} and not {:?} ms", asked.expected));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn decide(scene: &Scene, asked: &Asked, token: u64) -> Decision {
    let values = scene.dependency.more.iter().map(|rate| rate.per.as_ref().map(|_| asked.value.to_owned()));
    let named = asked.tokens.map(|tokens| ("tokens".to_owned(), tokens)).into_iter().collect();
    let corrected = asked.tokens.map(|_| token);
    let spend = Spend { cost: asked.cost, named, values: values.collect(), corrected };
    let cold = scene.limiter.cold_wait_us();
    let limits = CallLimits::of_call(&scene.dependency, asked.owner, cold, &spend, scene.clock.now());
    #[allow(clippy::cast_precision_loss)]
    let patience_us = asked.patience as f64 * 1e3;
    let ask = Ask { cost: asked.cost, token, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us };
    scene.limiter.acquire(&limits, &ask).await
}

/// Makes the dependency's state known, and lets everything fill.
async fn fill(scene: &Scene) {
    let asked = Asked { value: "first", owner: "first", tokens: Some(1), ..ask("", Ok(0)) };
    decide(scene, &asked, 1_000_000).await;
    scene.pass(60.0);
}

/// What a call takes of `tokens` is corrected when its answer is there: what it did not take can be used at once.
pub async fn what_was_not_taken_is_returned(scene: &Scene) {
    fill(scene).await;
    let asked = |tokens| Asked { tokens: Some(tokens), patience: 2000, ..ask("", Ok(0)) };
    let waits = |decision| match decision {
        Decision::Granted { wait, .. } => wait,
        Decision::Denied(denied) => denied.retry_after,
        Decision::Unreserved { .. } => panic!("no limit by the calendar"),
    };
    for (actual, expected) in [(1000, 925_000.0), (100, 20_000.0), (1500, 1_430_000.0)] {
        assert!(waits(decide(scene, &asked(1000), 7).await) < 1.0);
        let spend = Spend { named: vec![("tokens".into(), 1000)], corrected: Some(7), ..Spend::of(1) };
        let cold = scene.limiter.cold_wait_us();
        let limits = CallLimits::of_call(&scene.dependency, "acme", cold, &spend, scene.clock.now());
        scene.limiter.correct(&limits, &[actual]).await;
        let wait = waits(decide(scene, &asked(900), 8).await);
        assert!((wait - expected).abs() < 30_000.0, "{actual}: {wait}");
        scene.pass(60.0);
    }
}

/// A period of the calendar is used as far as it was reserved, up to the limit, and then the next one.
pub async fn a_period_is_used_as_it_is_reserved(scene: &Scene) {
    let minute = |scene: &Scene| scene.clock.now().millis() % 60_000;
    let rest = u64::try_from(61_000 - minute(scene)).unwrap();
    scene.clock.advance(Duration::from_millis(rest));
    let calls = ask("", Ok(0));
    let mut token = 1;
    for (reserved, granted, used_up) in [(3, 3, false), (2, 2, true)] {
        assert_eq!(decide(scene, &calls, token).await, Decision::Unreserved { meter: 0 });
        deposit(scene, reserved).await;
        for _ in 0..granted {
            token += 1;
            assert!(matches!(decide(scene, &calls, token).await, Decision::Granted { .. }), "{token}");
        }
        if used_up {
            refused_until_the_next_minute(scene, token).await;
        }
    }
    scene.pass(60.0);
    assert_eq!(decide(scene, &calls, 99).await, Decision::Unreserved { meter: 0 }, "the next minute");
    deposit(scene, 0).await;
    refused_until_the_next_minute(scene, 100).await;
}

async fn deposit(scene: &Scene, amount: u32) {
    let cold = scene.limiter.cold_wait_us();
    let limits = CallLimits::of_call(&scene.dependency, "acme", cold, &Spend::of(1), scene.clock.now());
    assert!(scene.limiter.deposit(&limits, 0, amount).await);
}

async fn refused_until_the_next_minute(scene: &Scene, token: u64) {
    let decision = decide(scene, &ask("", Ok(0)), token).await;
    let Decision::Denied(denied) = decision else { panic!("{decision:?}") };
    assert!((denied.retry_after - 59.1e6).abs() < 1e5 && !denied.row_only, "{denied:?}");
}

/// The limits of the cases above.
pub fn tokens(api: &mut Dependency) {
    api.more =
        vec![Rate { name: Some("tokens".into()), ..limit("t", 60_000, Duration::from_secs(60), 1000) }];
}

/// Five a minute, by the calendar.
pub fn calendar(api: &mut Dependency) {
    let window = Window::Calendar { zone: chrono_tz::Tz::UTC, spread: false };
    api.more = vec![Rate { window, ..limit("c", 5, Duration::from_secs(60), 1) }];
}
