use super::*;
use crate::reported_windows::ReportedWindows;

/// What all workers share, and one worker's budgets.
struct Worker<'a> {
    budgets: Budgets,
    shared: &'a Mutex<ReportedWindows>,
    epoch: Instant,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Mutex<ReportedWindows>, epoch: Instant) -> Self {
        Self { budgets: Budgets::default(), shared, epoch }
    }

    /// Takes a call, and asks for a part of a window for it.
    fn take(&self, key: &str) -> Result<(), Duration> {
        loop {
            match self.budgets.take(key) {
                Ok(_) => return Ok(()),
                Err(NotNow::Wait(wait) | NotNow::Unavailable(wait)) => return Err(wait),
                Err(NotNow::Ask(asked)) => {
                    let now = self.epoch.elapsed().as_secs_f64() * 1e3;
                    let part = self.shared.lock().unwrap().take(now, &asked.ask);
                    self.budgets.received(key, &asked, Some(part));
                }
            }
        }
    }

    fn call(&self, end: End) {
        self.take("api").unwrap();
        self.budgets.ended("api", end);
    }
}

/// An API with a quota for each window, which begins at fixed times.
struct Api {
    quota: u32,
    window: Duration,
    began: Instant,
    counted: (u128, u32),
    refused: u32,
    used: u32,
    /// Whether it cuts fractions of a second off, and does not round them up.
    cuts: bool,
}

impl Api {
    fn new(quota: u32, seconds: u64) -> Self {
        let window = Duration::from_secs(seconds);
        Self { quota, window, began: Instant::now(), counted: (0, 0), refused: 0, used: 0, cuts: false }
    }

    fn call(&mut self, tells_quota: bool) -> End {
        let elapsed = self.began.elapsed();
        let number = elapsed.as_millis() / self.window.as_millis();
        if self.counted.0 != number {
            self.counted = (number, 0);
        }
        if self.counted.1 < self.quota {
            self.counted.1 += 1;
            self.used += 1;
        } else {
            self.refused += 1;
            return End::Refused(None);
        }
        if self.cuts && self.left_of_window() < Duration::from_secs(1) {
            return End::Silent;
        }
        End::Reported(Budget {
            left: f64::from(self.quota - self.counted.1),
            reset: Duration::from_secs(match self.left_of_window() {
                left if self.cuts => left.as_secs(),
                left => left.as_secs_f64().ceil() as u64,
            }),
            quota: tells_quota.then_some(f64::from(self.quota)),
        })
    }

    fn left_of_window(&self) -> Duration {
        let elapsed = self.began.elapsed();
        let number = elapsed.as_millis() / self.window.as_millis();
        self.window * u32::try_from(number + 1).unwrap() - elapsed
    }
}

/// Workers with so many calls under way each, for some windows; refusals and uses after the first. A refusal pauses all of them
/// until the window is over, as the limiter does.
async fn run(workers: usize, at_once: usize, tells_quota: bool, cuts: bool, windows: u32) -> (u32, f64) {
    // One worker knows after its first window; several have a minute.
    let learned = if workers == 1 { 1 } else { 6 };
    const TICK: Duration = Duration::from_millis(20);
    let mut api = Api { cuts, ..Api::new(60, 10) };
    let shared = Mutex::default();
    let budgets: Vec<Worker<'_>> = (0..workers).map(|_| Worker::new(&shared, api.began)).collect();
    // Calls under way end after five ticks.
    let mut flying: Vec<(usize, u32, End)> = Vec::new();
    let (mut used_first, mut paused_until) = (0, api.began);
    for tick in 0..windows * 500 {
        if tick == learned * 500 {
            (api.refused, used_first) = (0, api.used);
        }
        let (landed, rest): (Vec<_>, Vec<_>) = flying.drain(..).partition(|(_, at, _)| *at <= tick);
        flying = rest;
        for (worker, _, end) in landed {
            if matches!(end, End::Refused(_)) {
                paused_until = Instant::now() + api.left_of_window();
            }
            budgets[worker].budgets.ended("api", end);
        }
        for (worker, one) in budgets.iter().enumerate().filter(|_| Instant::now() >= paused_until) {
            let under_way = flying.iter().filter(|(of, ..)| *of == worker).count();
            for _ in under_way..at_once {
                if one.take("api").is_ok() {
                    flying.push((worker, tick + 5, api.call(tells_quota)));
                }
            }
        }
        tokio::time::advance(TICK).await;
    }
    (api.refused, f64::from(api.used - used_first) / f64::from((windows - learned) * api.quota))
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_used_and_nothing_is_refused() {
    for (workers, at_once, tells_quota) in [
        (1, 30, true),
        (1, 30, false),
        (1, 100, true),
        (4, 10, true),
        (2, 100, true),
        (4, 100, true),
        (7, 9, true),
        // More workers than a window has calls.
        (70, 1, true),
    ] {
        let (refused, used) = run(workers, at_once, tells_quota, false, 12).await;
        assert_eq!(refused, 0, "{workers} workers, {at_once} at once, quota told: {tells_quota}");
        assert!(used >= 0.9, "{workers} workers, {at_once} at once, quota told: {tells_quota}: {used}");
    }
}

/// What is told as 0 s is no end: such an answer tells nothing. The calls after it may be refused, and no more than those under way.
#[tokio::test(start_paused = true)]
async fn seconds_that_are_cut_off_lose_no_window() {
    for workers in [1, 4] {
        let (refused, used) = run(workers, 10, true, true, 12).await;
        assert!(used >= 0.9, "{workers} workers: {used}");
        assert!(refused <= 6 * 10 * u32::try_from(workers).unwrap(), "{workers} workers: {refused}");
    }
}

/// Workers take turns to be idle: what one of them knows of a window is of no importance to another one much later.
#[tokio::test(start_paused = true)]
async fn a_worker_that_was_idle_has_the_whole_quota() {
    let (shared, epoch) = (Mutex::default(), Instant::now());
    let workers = [Worker::new(&shared, epoch), Worker::new(&shared, epoch)];
    let mut api = Api::new(60, 10);
    let mut calls = |worker: usize, most: u32| {
        (0..most)
            .filter(|_| {
                let may = workers[worker].take("api").is_ok();
                if may {
                    workers[worker].budgets.ended("api", api.call(true));
                }
                may
            })
            .count()
    };
    assert_eq!(calls(0, 100), 60);
    tokio::time::advance(Duration::from_secs(50)).await;
    assert_eq!(calls(1, 5), 5);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(calls(1, 2), 2);
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(calls(0, 100), 60);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_made_takes_nothing() {
    let shared = Mutex::default();
    let budgets = Worker::new(&shared, Instant::now());
    budgets.call(End::Reported(Budget { left: 1.0, reset: Duration::from_secs(5), quota: None }));
    budgets.take("api").unwrap();
    budgets.budgets.give_back("api");
    drop(Taken::of(&budgets.budgets, "api").unwrap());
    let last = Taken::of(&budgets.budgets, "api").unwrap();
    assert!(budgets.take("api").is_err());
    last.ended(End::Silent);
    assert_eq!(budgets.take("api"), Err(Duration::from_secs(5)));
    assert_eq!(budgets.take("another"), Ok(()));
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(budgets.take("api"), Ok(()), "one call finds out what the next window has");
    assert!(budgets.take("api").is_err());
}

/// Calls that waited for a permit while nothing was known of the window do not all leave in what is left of it.
#[tokio::test(start_paused = true)]
async fn calls_that_have_not_left_are_taken_of_the_window_that_is_told() {
    let shared = Mutex::default();
    let worker = Worker::new(&shared, Instant::now());
    let take = || Taken::of(&worker.budgets, "api");
    let waiting: Vec<Taken<'_>> = (0..50).map(|_| take().unwrap()).collect();
    assert!(waiting.iter().all(|taken| !taken.is_outdated()));
    take().unwrap().ended(End::Reported(Budget {
        left: 20.0,
        reset: Duration::from_secs(5),
        quota: Some(60.0),
    }));
    assert!(waiting.iter().all(Taken::is_outdated));
    let mut leave = 0;
    for taken in waiting {
        drop(taken);
        leave += usize::from(worker.take("api").is_ok());
    }
    assert_eq!(leave, 20);
    tokio::time::advance(Duration::from_secs(5)).await;
    let next = (0..100).filter(|_| worker.take("api").is_ok()).count();
    assert_eq!(next, 40, "of 60, with those under way");
}

#[tokio::test(start_paused = true)]
async fn of_two_limits_the_shorter_one_holds_calls_up_until_its_own_end() {
    let reported = |left: f64, seconds: u64, quota: Option<f64>| {
        End::Reported(Budget { left, reset: Duration::from_secs(seconds), quota })
    };
    for quota in [None, Some(30.0)] {
        let shared = Mutex::default();
        let budgets = Worker::new(&shared, Instant::now());
        budgets.call(reported(40.0, 3000, None));
        budgets.call(reported(0.0, 3, quota));
        assert_eq!(budgets.take("api"), Err(Duration::from_secs(3)), "not for 3000 s");
        tokio::time::advance(Duration::from_secs(3)).await;
        budgets.call(reported(38.0, 2997, None));
        for left in 0..38 {
            budgets.call(reported(f64::from(37 - left), 2997, None));
        }
        assert_eq!(budgets.take("api"), Err(Duration::from_secs(2997)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_shorter_limit_that_is_whole_again_does_not_lead_past_a_longer_one() {
    let shared = Mutex::default();
    let budgets = Worker::new(&shared, Instant::now());
    let reported = |left: f64, seconds: u64, quota: Option<f64>| {
        End::Reported(Budget { left, reset: Duration::from_secs(seconds), quota })
    };
    budgets.call(reported(4.0, 3000, None));
    budgets.call(reported(0.0, 3, Some(30.0)));
    tokio::time::advance(Duration::from_secs(3)).await;
    let allowed = (0..30).filter(|_| budgets.take("api").is_ok()).count();
    assert_eq!(allowed, 3, "the longer one had 4 left before the second call");
    assert_eq!(budgets.take("api"), Err(Duration::from_secs(2997)));
}

#[tokio::test(start_paused = true)]
async fn an_api_that_tells_once_does_not_hold_calls_up_after_that() {
    let shared = Mutex::default();
    let budgets = Worker::new(&shared, Instant::now());
    budgets.call(End::Reported(Budget { left: 0.0, reset: Duration::from_secs(60), quota: None }));
    assert_eq!(budgets.take("api"), Err(Duration::from_secs(60)));
    tokio::time::advance(Duration::from_secs(60)).await;
    budgets.call(End::NoAnswer);
    assert_eq!(budgets.take("api"), Err(Duration::from_secs(60)), "one call finds out what the window has");
    tokio::time::advance(Duration::from_secs(60)).await;
    budgets.call(End::Silent);
    let allowed = (0..100).filter(|_| budgets.take("api").is_ok()).count();
    assert_eq!(allowed, 100, "the answer reported of no limit any more");
}

/// Who has heard nothing but refusals knows the window by them.
#[tokio::test(start_paused = true)]
async fn a_refusal_tells_who_knows_nothing() {
    let shared = Mutex::default();
    let budgets = Worker::new(&shared, Instant::now());
    budgets.call(End::Refused(None));
    assert_eq!(budgets.take("api"), Ok(()));
    let nothing = Budget { left: 0.0, reset: Duration::from_secs(7), quota: Some(100.0) };
    budgets.budgets.ended("api", End::Refused(Some(nothing)));
    assert_eq!(budgets.take("api"), Err(Duration::from_secs(7)));
}
