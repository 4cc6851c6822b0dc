//! The audit log, for admin keys.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use penstock_domain::time::Timestamp;
use penstock_store::operations::AuditEntry;
use penstock_store::owners::KeyRole;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::batches::page_size;
use crate::problem::Problem;
use crate::query::Query;
use crate::refusals;
use crate::state::ApiState;

/// A cursor counts so many entries at the most: more are never that close together.
const MOST_SEEN: u32 = 100_000;

/// Entries stand in the order in which they were committed; their times may differ from it by what a transaction takes.
const OUT_OF_ORDER: Duration = Duration::from_secs(10);

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
pub struct AuditPage {
    /// The entries, newest first.
    #[schema(value_type = Vec<Object>)]
    pub data: Vec<AuditEntry>,
    /// Gives the next page; none behind the last.
    pub next_cursor: Option<String>,
}

/// Which entries to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// About this batch.
    batch: Option<String>,
    /// Before this moment (RFC 3339).
    #[param(value_type = Option<String>)]
    before: Option<Timestamp>,
    /// At most so many, 1 to 1000; 100 without it.
    limit: Option<u32>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// Who did what, newest first. For admin keys.
#[utoipa::path(get, operation_id = "list_audit", path = "/v2/audit", tag = "operations", params(AuditQuery),
    responses((status = 200, description = "As it is now", body = AuditPage), refusals::Asked, refusals::ForAdmins,
        refusals::Named), security(("key" = [])))]
pub async fn list(
    caller: Caller,
    state: web::Data<ApiState>,
    Query(query): Query<AuditQuery>,
) -> Result<HttpResponse, Problem> {
    if caller.role != KeyRole::Admin {
        return Err(Problem::forbidden("the audit log is for admin keys"));
    }
    let batch =
        query.batch.as_deref().map(str::parse).transpose().map_err(|_| Problem::not_found("such batch"))?;
    let limit = page_size(query.limit, 100)? as usize;
    let place = match &query.cursor {
        Some(cursor) => Place::read(cursor)?,
        None => Place { before: query.before, seen: 0 },
    };
    let wanted = u32::try_from(place.seen + limit + 1).unwrap_or(u32::MAX);
    let mut entries = state.engines.store.audit_log(batch, place.before, wanted).await?;
    let more = entries.len() > place.seen + limit;
    entries.truncate(place.seen + limit);
    let next = more.then(|| place.behind(&entries));
    let data = entries.split_off(place.seen.min(entries.len()));
    Ok(HttpResponse::Ok().json(AuditPage { data, next_cursor: next.map(|place| place.to_string()) }))
}

/// Where a page begins. The store pages by time, and several entries share a millisecond: a cursor is a time behind
/// the page's last entry, and how many entries before that time were shown already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    before: Option<Timestamp>,
    seen: usize,
}

impl Place {
    fn read(cursor: &str) -> Result<Self, Problem> {
        let bad = || Problem::bad_request("bad_cursor", "`cursor` is not one that a page gave");
        let (before, seen) = cursor.split_once('_').ok_or_else(bad)?;
        let before = Timestamp::from_millis(before.parse().map_err(|_| bad())?);
        let seen: u32 = seen.parse().ok().filter(|seen| *seen <= MOST_SEEN).ok_or_else(bad)?;
        Ok(Self { before: Some(before), seen: seen as usize })
    }

    /// The place behind entries of which all that stand before this place were shown. An entry that is written between
    /// two pages may repeat another; none is left out.
    fn behind(self, shown: &[AuditEntry]) -> Self {
        let before = shown.last().map(|entry| entry.at + OUT_OF_ORDER);
        let before = self.before.into_iter().chain(before).min();
        let seen = shown.iter().filter(|entry| before.is_none_or(|before| entry.at < before)).count();
        Self { before, seen }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.before.unwrap_or_default().millis(), self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every entry is shown once, also those of one millisecond and those whose times are out of order.
    #[test]
    fn pages_show_every_entry_once() {
        let entry = |number: usize, at: i64| AuditEntry {
            at: Timestamp::from_millis(at),
            actor: number.to_string(),
            action: "batch.create".into(),
            batch: None,
            detail: None,
        };
        // Newest first by commit; times repeat, and go back and forth by up to 4 s.
        let log: Vec<AuditEntry> = (0..500_usize)
            .map(|number| {
                entry(number, 10_000_000 - (number as i64 / 40) * 7_000 + (number as i64 % 3) * 2_000)
            })
            .collect();
        for limit in [1, 3, 40, 499, 1000] {
            let mut place = Place { before: None, seen: 0 };
            let mut shown = Vec::new();
            loop {
                let mut page: Vec<AuditEntry> =
                    log.iter().filter(|entry| place.before.is_none_or(|at| entry.at < at)).cloned().collect();
                let more = page.len() > place.seen + limit;
                page.truncate(place.seen + limit);
                shown.extend(page[place.seen..].iter().map(|entry| entry.actor.clone()));
                if !more {
                    break;
                }
                place = Place::read(&place.behind(&page).to_string()).unwrap();
            }
            assert_eq!(shown, log.iter().map(|entry| entry.actor.clone()).collect::<Vec<_>>(), "{limit}");
        }
        assert!(Place::read("5").is_err() && Place::read("x_1").is_err() && Place::read("5_-1").is_err());
    }
}
