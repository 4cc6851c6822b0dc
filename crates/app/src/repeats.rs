//! Lines that repeat: while a service is unavailable, everything that needs it fails and is tried again several times a second. Of
//! each such line one a minute is written, with how often it has repeated since.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};

/// A line that repeats is not written more often.
const EVERY: Duration = Duration::from_secs(60);

/// What a line states that repeats by itself: what failed is tried again, now or by the next run.
const TRIED_AGAIN: [&str; 6] = ["; will ", " again", "requeue", "in this run", "the sweep ", "calls wait"];

/// Lines that are remembered; errors may have any text.
const REMEMBERED: usize = 500;

struct Written {
    at: Instant,
    since: u64,
}

/// When lines were last written, and how often they have repeated since.
#[derive(Default)]
pub(crate) struct Repeats(Mutex<HashMap<String, Written>>);

impl Repeats {
    /// How often a line has repeated that is written now; none when it is not. `task` and `error` are fields of it: a background task that
    /// fails for another reason is another line. Warnings of libraries are about connections, of which there are many.
    pub(crate) fn due(&self, line: &Metadata<'_>, message: &str, task: bool, error: &str) -> Option<u64> {
        let ours = line.target().starts_with("penstock");
        let repeats = if ours {
            TRIED_AGAIN.iter().any(|words| message.contains(words))
        } else {
            *line.level() <= Level::WARN
        };
        if !repeats {
            return Some(0);
        }
        let place = (line.target(), line.line().unwrap_or_default());
        let key = format!("{}:{} {}", place.0, place.1, if task { error } else { "" });
        self.due_at(key, Instant::now())
    }

    fn due_at(&self, key: String, now: Instant) -> Option<u64> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() >= REMEMBERED {
            written.retain(|_, last| now.duration_since(last.at) < EVERY);
        }
        match written.get_mut(&key) {
            Some(last) if now.duration_since(last.at) < EVERY => {
                last.since += 1;
                None
            }
            Some(last) => Some(std::mem::replace(last, Written { at: now, since: 0 }).since),
            None => {
                written.insert(key, Written { at: now, since: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_a_minute_with_how_often_it_repeated() {
        let repeats = Repeats::default();
        let began = Instant::now();
        assert_eq!(repeats.due_at("a".to_owned(), began), Some(0));
        assert_eq!(repeats.due_at("b".to_owned(), began), Some(0), "another error");
        assert_eq!(repeats.due_at("a".to_owned(), began + EVERY / 2), None);
        assert_eq!(repeats.due_at("a".to_owned(), began + EVERY - Duration::from_millis(1)), None);
        assert_eq!(repeats.due_at("a".to_owned(), began + EVERY), Some(2));
        assert_eq!(repeats.due_at("a".to_owned(), began + EVERY * 3), Some(0));
        for number in 0..2 * REMEMBERED {
            repeats.due_at(number.to_string(), began + EVERY * 5 + EVERY * u32::try_from(number).unwrap());
        }
        assert!(repeats.0.lock().unwrap().len() <= REMEMBERED);
    }
}
