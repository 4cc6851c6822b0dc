//! What of the limits of dependencies has to outlive a limiter.

use async_trait::async_trait;
use penstock_domain::time::Timestamp;
use penstock_store::limits::{LimitChange, LimitPeriod, LimitSetting, LimitUse, Limits};
use penstock_store::{StoreError, StoreResult};

use crate::{Row, SqlStore, sql};

/// Another process may reserve what was left between two looks at it.
const TRIES: u32 = 3;

fn setting(row: &Row) -> StoreResult<LimitSetting> {
    let c = row.of("limit_settings");
    Ok(LimitSetting {
        dependency: c.text("dependency")?,
        limit: c.opt_u32("rate_limit")?,
        concurrency: c.opt_u32("concurrency")?,
        paused: c.flag("paused")?,
        changed_at: c.time("changed_at")?,
    })
}

#[async_trait]
impl Limits for SqlStore {
    async fn reserve_period(&self, period: &LimitPeriod, amount: u32, most: u32) -> StoreResult<u32> {
        let mut amount = amount.min(most);
        for _ in 0..TRIES {
            if amount == 0 {
                break;
            }
            let reserve = sql(
                "limit_period_reserve_if_left",
                "INSERT INTO limit_periods (limit_id, member, ends_at, reserved) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (limit_id, member, ends_at) DO UPDATE SET reserved = limit_periods.reserved + excluded.reserved \
                 WHERE limit_periods.reserved + excluded.reserved <= $5 RETURNING reserved",
            );
            let reserve = reserve.bind(&period.limit).bind(&period.member).bind(period.ends_at);
            if self.db.write_optional(reserve.bind(amount).bind(most)).await?.is_some() {
                return Ok(amount);
            }
            amount = amount.min(most.saturating_sub(self.reserved_of(period).await?));
        }
        Ok(0)
    }

    async fn use_limits(&self, dependency: &str, until: Timestamp) -> StoreResult<Option<Timestamp>> {
        // What an installation called before this was recorded is recorded for all dependencies alike, under no name.
        let before = sql(
            "limit_use_last",
            "SELECT max(used_until) AS used_until FROM limit_uses WHERE dependency IN ($1, '')",
        );
        let before = self.db.fetch_optional(before.bind(dependency)).await?;
        let record = sql(
            "limit_use_extend",
            "INSERT INTO limit_uses (dependency, used_until) VALUES ($1, $2) \
             ON CONFLICT (dependency) DO UPDATE SET used_until = excluded.used_until \
             WHERE excluded.used_until > limit_uses.used_until",
        );
        self.db.execute(record.bind(dependency).bind(until)).await?;
        before.map_or(Ok(None), |row| row.of("limit_uses").opt_time("used_until"))
    }

    async fn limit_settings(&self) -> StoreResult<Vec<LimitSetting>> {
        let statement = sql(
            "limit_setting_list",
            "SELECT dependency, rate_limit, concurrency, paused, changed_at FROM limit_settings ORDER BY dependency",
        );
        self.db.fetch(statement).await?.iter().map(setting).collect()
    }

    async fn change_limits(
        &self,
        dependency: &str,
        change: &LimitChange,
        now: Timestamp,
    ) -> StoreResult<LimitSetting> {
        let statement = sql(
            "limit_setting_change",
            "INSERT INTO limit_settings (dependency, rate_limit, concurrency, paused, changed_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (dependency) DO UPDATE SET rate_limit = coalesce($2, limit_settings.rate_limit), \
             concurrency = coalesce($3, limit_settings.concurrency), \
             paused = CASE WHEN $6 THEN excluded.paused ELSE limit_settings.paused END, changed_at = excluded.changed_at \
             RETURNING dependency, rate_limit, concurrency, paused, changed_at",
        );
        let statement = statement.bind(dependency).bind(change.limit).bind(change.concurrency);
        let statement = statement.bind(change.paused.unwrap_or_default()).bind(now);
        let row = self.db.write_optional(statement.bind(change.paused.is_some())).await?;
        setting(&row.ok_or(StoreError::NotFound { what: "this dependency" })?)
    }

    async fn reset_limits(&self, dependency: &str) -> StoreResult<bool> {
        let statement = sql("limit_setting_delete", "DELETE FROM limit_settings WHERE dependency = $1");
        Ok(self.db.execute(statement.bind(dependency)).await? > 0)
    }

    async fn add_limit_use(&self, used: &LimitUse) -> StoreResult<()> {
        let statement = sql(
            "limit_use_add",
            "INSERT INTO calls_by_minute (dependency, minute, calls, throttled) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (dependency, minute) DO UPDATE SET calls = calls_by_minute.calls + excluded.calls, \
             throttled = calls_by_minute.throttled + excluded.throttled",
        );
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let statement = statement.bind(&used.dependency).bind(used.minute);
        self.db.execute(statement.bind(whole(used.calls)).bind(whole(used.throttled))).await.map(|_| ())
    }

    async fn limit_use(&self, since: Timestamp) -> StoreResult<Vec<LimitUse>> {
        let statement = sql(
            "limit_use_list",
            "SELECT dependency, minute, calls, throttled FROM calls_by_minute WHERE minute >= $1 ORDER BY minute, dependency",
        );
        let used = |row: &Row| {
            let c = row.of("calls_by_minute");
            let count = |name| c.i64(name).map(|count| u64::try_from(count).unwrap_or_default());
            let (calls, throttled) = (count("calls")?, count("throttled")?);
            Ok(LimitUse { dependency: c.text("dependency")?, minute: c.time("minute")?, calls, throttled })
        };
        self.db.fetch(statement.bind(since)).await?.iter().map(used).collect()
    }

    async fn drop_limit_use(&self, before: Timestamp) -> StoreResult<u64> {
        let statement = sql("limit_use_delete_if_old", "DELETE FROM calls_by_minute WHERE minute < $1");
        self.db.execute(statement.bind(before)).await
    }

    async fn drop_periods(&self, ended_before: Timestamp) -> StoreResult<u64> {
        let statement = sql("limit_period_delete_if_ended", "DELETE FROM limit_periods WHERE ends_at < $1");
        self.db.execute(statement.bind(ended_before)).await
    }
}

impl SqlStore {
    async fn reserved_of(&self, period: &LimitPeriod) -> StoreResult<u32> {
        let statement = sql(
            "limit_period_get",
            "SELECT reserved FROM limit_periods WHERE limit_id = $1 AND member = $2 AND ends_at = $3",
        );
        let statement = statement.bind(&period.limit).bind(&period.member).bind(period.ends_at);
        let row = self.db.fetch_optional(statement).await?;
        row.map_or(Ok(0), |row| row.of("limit_periods").u32("reserved"))
    }
}
