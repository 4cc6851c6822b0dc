//! Periods of a calendar: from one midnight, full hour or Monday to the next, in a time zone.
//!
//! A day has the hours that it has there: 23 or 25 when the clocks change. Periods that divide an hour are as long as they say, at
//! multiples of their length since the last full hour that the clocks there show.

use std::time::Duration;

use chrono::{
    DateTime, Datelike as _, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone as _,
    Timelike as _, Utc,
};
use chrono_tz::Tz;

use crate::time::Timestamp;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A period's first moment, and the first one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment of the next one.
    pub until: Timestamp,
}

/// Whether a calendar has such periods: a minute, an hour, a day, a week, and multiples that divide an hour or a day.
pub fn is_period(length: Duration) -> bool {
    let seconds = length.as_secs();
    if length.subsec_nanos() != 0 {
        return false;
    }
    // What divides an hour divides a day.
    seconds == 7 * DAY || seconds != 0 && seconds.is_multiple_of(60) && DAY.is_multiple_of(seconds)
}

/// The period of a calendar in which a moment is. `length` is one for which [`is_period`] holds.
pub fn period_at(length: Duration, zone: Tz, now: Timestamp) -> Period {
    let Some(utc) = DateTime::<Utc>::from_timestamp_millis(now.millis()) else {
        return Period { from: now, until: now + length };
    };
    let local = utc.with_timezone(&zone);
    let seconds = length.as_secs().max(1);
    if HOUR.is_multiple_of(seconds) {
        let passed = (u64::from(local.minute()) * 60 + u64::from(local.second())) % seconds;
        let whole = now.millis().div_euclid(1000) * 1000;
        let from = Timestamp::from_millis(whole - i64::try_from(passed).unwrap_or(0) * 1000);
        return Period { from, until: from + length };
    }
    let date = local.date_naive();
    if seconds == 7 * DAY {
        let monday = date - Days::new(u64::from(date.weekday().num_days_from_monday()));
        return Period { from: begin(zone, monday, 0), until: begin(zone, monday + Days::new(7), 0) };
    }
    // Of the days around, for an hour that there is not on a day begins later than it would.
    let days = [date - Days::new(1), date, date + Days::new(1), date + Days::new(2)];
    let parts = (DAY / seconds).max(1);
    let mut begins: Vec<Timestamp> =
        days.iter().flat_map(|day| (0..parts).map(|part| begin(zone, *day, part * seconds))).collect();
    begins.sort_unstable();
    begins.dedup();
    let next = begins.partition_point(|begin| *begin <= now);
    match (begins.get(next.wrapping_sub(1)), begins.get(next)) {
        (Some(from), Some(until)) => Period { from: *from, until: *until },
        _ => Period { from: now, until: now + length },
    }
}

/// The first moment at which the clocks of a zone show that time of a day or a later one.
pub fn begin(zone: Tz, date: NaiveDate, seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(0);
    let mut local: NaiveDateTime = date.and_time(NaiveTime::MIN) + TimeDelta::seconds(seconds);
    // Where clocks are set forward, what they leave out is a few hours at most; a zone once left out a whole day.
    for _ in 0..=4 * 25 {
        if let Some(found) = zone.from_local_datetime(&local).earliest() {
            return Timestamp::from_millis(found.timestamp_millis());
        }
        local += TimeDelta::minutes(15);
    }
    Timestamp::from_millis(local.and_utc().timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis())
    }

    fn zone(name: &str) -> Tz {
        name.parse().unwrap()
    }

    #[test]
    fn periods_are_those_that_a_calendar_has() {
        let seconds = |seconds| is_period(Duration::from_secs(seconds));
        for good in
            [60, 120, 300, 900, 1800, 3600, 5400, 45 * 60, 2 * 3600, 6 * 3600, 12 * 3600, 86_400, 7 * 86_400]
        {
            assert!(seconds(good), "{good}");
        }
        for bad in [0, 1, 30, 90, 7 * 60, 5 * 3600, 2 * 86_400, 14 * 86_400, 30 * 86_400] {
            assert!(!seconds(bad), "{bad}");
        }
        assert!(!is_period(Duration::from_millis(60_500)));
    }

    #[test]
    fn a_period_begins_and_ends_where_the_calendar_there_says() {
        let minute = 60;
        let hour = 3600;
        let day = 86_400;
        for (length, name, now, from, until) in [
            (minute, "UTC", "2026-03-01T10:20:30.5Z", "2026-03-01T10:20:00Z", "2026-03-01T10:21:00Z"),
            (15 * minute, "UTC", "2026-03-01T10:20:30Z", "2026-03-01T10:15:00Z", "2026-03-01T10:30:00Z"),
            (90 * minute, "UTC", "2026-03-01T10:20:30Z", "2026-03-01T09:00:00Z", "2026-03-01T10:30:00Z"),
            (45 * minute, "UTC", "2026-03-01T01:00:00Z", "2026-03-01T00:45:00Z", "2026-03-01T01:30:00Z"),
            // Half an hour ahead of the full ones of UTC.
            (hour, "Asia/Kolkata", "2026-03-01T10:40:00Z", "2026-03-01T10:30:00Z", "2026-03-01T11:30:00Z"),
            (day, "UTC", "2026-03-01T10:20:30Z", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"),
            (
                day,
                "America/Los_Angeles",
                "2026-03-01T07:59:59Z",
                "2026-02-28T08:00:00Z",
                "2026-03-01T08:00:00Z",
            ),
            // Days of 23 and of 25 hours.
            (day, "Europe/Berlin", "2026-03-29T10:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            (day, "Europe/Berlin", "2026-10-25T10:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            // An hour that comes twice, and a part of a day that has one more.
            (hour, "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"),
            (hour, "Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"),
            (
                6 * hour,
                "Europe/Berlin",
                "2026-10-25T01:30:00Z",
                "2026-10-24T22:00:00Z",
                "2026-10-25T05:00:00Z",
            ),
            // Midnight is left out: the day begins at one.
            (day, "Africa/Cairo", "2026-04-24T10:00:00Z", "2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"),
            (7 * day, "UTC", "2026-03-01T10:00:00Z", "2026-02-23T00:00:00Z", "2026-03-02T00:00:00Z"),
            (
                7 * day,
                "Europe/Berlin",
                "2026-03-29T22:30:00Z",
                "2026-03-29T22:00:00Z",
                "2026-04-05T22:00:00Z",
            ),
        ] {
            let found = period_at(Duration::from_secs(length), zone(name), at(now));
            assert_eq!(found, Period { from: at(from), until: at(until) }, "{length} s, {name}, {now}");
        }
    }

    #[test]
    fn periods_follow_each_other_without_a_gap() {
        for name in
            ["UTC", "Europe/Berlin", "Africa/Cairo", "Australia/Lord_Howe", "America/Havana", "Pacific/Apia"]
        {
            for length in [1800, 3600, 5400, 2 * 3600, 12 * 3600, 86_400, 7 * 86_400] {
                let length = Duration::from_secs(length);
                let mut now = at("2026-01-01T00:00:00Z");
                let end = at("2027-01-01T00:00:00Z");
                while now < end {
                    let period = period_at(length, zone(name), now);
                    assert!(
                        period.from <= now && now < period.until,
                        "{name}, {length:?}, {now:?}: {period:?}"
                    );
                    let next = period_at(length, zone(name), period.until);
                    let gap = length.as_secs() > HOUR || name != "Australia/Lord_Howe";
                    assert!(next.from == period.until || !gap, "{name}, {length:?}: {period:?}, {next:?}");
                    now = period.until;
                }
            }
        }
    }
}
