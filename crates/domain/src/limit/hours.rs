//! Hours in which a dependency may be called.

use chrono::{DateTime, Datelike as _, Days, NaiveDate, Utc};
use chrono_tz::Tz;

use super::calendar::begin;
use crate::time::Timestamp;

/// On some days of the week, from one time of the day to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    /// From Monday on.
    pub days: [bool; 7],
    /// Seconds since midnight.
    pub from: u64,
    /// Seconds since midnight; not above `from`: of the next day.
    pub to: u64,
    /// Whose clock shows them.
    pub zone: Tz,
}

impl Hours {
    /// When calls may be made again; none: they may be made now.
    pub fn closed_until(&self, now: Timestamp) -> Option<Timestamp> {
        let today =
            DateTime::<Utc>::from_timestamp_millis(now.millis())?.with_timezone(&self.zone).date_naive();
        let first = today.checked_sub_days(Days::new(1))?;
        let mut opens = None;
        // A week ahead has every day; the day before may last until now.
        for day in first.iter_days().take(9).filter(|day| self.is_open_on(*day)) {
            let (from, to) = self.of(day);
            if now < from {
                opens = Some(from);
                break;
            }
            if now < to {
                return None;
            }
        }
        opens
    }

    fn is_open_on(&self, day: NaiveDate) -> bool {
        self.days.get(day.weekday().num_days_from_monday() as usize).copied().unwrap_or_default()
    }

    fn of(&self, day: NaiveDate) -> (Timestamp, Timestamp) {
        let next = if self.to <= self.from { day + Days::new(1) } else { day };
        (begin(self.zone, day, self.from), begin(self.zone, next, self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis())
    }

    #[test]
    fn outside_it_is_known_when_they_begin() {
        let weekdays = [true, true, true, true, true, false, false];
        let hours = |days, from: u64, to: u64| Hours {
            days,
            from: from * 3600,
            to: to * 3600,
            zone: "Europe/Berlin".parse().unwrap(),
        };
        let office = hours(weekdays, 8, 20);
        let night = hours([true; 7], 22, 6);
        let friday_night = hours([false, false, false, false, true, false, false], 22, 6);
        // The 6th of March 2026 is a Friday.
        for (hours, now, until) in [
            (&office, "2026-03-06T07:00:00Z", None),
            (&office, "2026-03-06T06:59:59Z", Some("2026-03-06T07:00:00Z")),
            (&office, "2026-03-06T18:59:59Z", None),
            (&office, "2026-03-06T19:00:00Z", Some("2026-03-09T07:00:00Z")),
            // The clocks were changed over the weekend.
            (&office, "2026-03-27T20:00:00Z", Some("2026-03-30T06:00:00Z")),
            (&night, "2026-03-06T12:00:00Z", Some("2026-03-06T21:00:00Z")),
            (&night, "2026-03-06T23:00:00Z", None),
            (&night, "2026-03-07T04:59:59Z", None),
            (&night, "2026-03-07T05:00:00Z", Some("2026-03-07T21:00:00Z")),
            (&friday_night, "2026-03-07T04:59:59Z", None),
            (&friday_night, "2026-03-07T05:00:00Z", Some("2026-03-13T21:00:00Z")),
        ] {
            assert_eq!(hours.closed_until(at(now)), until.map(at), "{hours:?} {now}");
        }
    }
}
