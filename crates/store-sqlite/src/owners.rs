//! Owners, keys and secrets.

use async_trait::async_trait;
use penstock_domain::ids::OwnerSeq;
use penstock_domain::time::Timestamp;
use penstock_store::decode::Columns as _;
use penstock_store::owners::{ApiKeyRecord, CallbackSecrets, KeyRole, Owner, Owners, Scope, Scopes};
use penstock_store::{StoreError, StoreResult};
use sqlx::sqlite::SqliteRow;

use crate::SqliteStore;
use crate::convert::{Columns, opt_ms};
use crate::error::store_error;

fn owner(row: &SqliteRow) -> StoreResult<Owner> {
    let c = Columns::of("owners", row);
    Ok(Owner {
        seq: OwnerSeq(c.i64("seq")?),
        name: c.text("name")?,
        rows: c.opt_u32("rows")?,
        weight: c.u32("weight")?,
        created_at: c.time("created_at")?,
    })
}

fn key(row: &SqliteRow) -> StoreResult<ApiKeyRecord> {
    let c = Columns::of("api_keys", row);
    let role = c.code("role", KeyRole::from_code)?;
    let scopes = c.code("scopes", Scopes::from_code)?;
    let pipelines = c.opt_text("pipelines")?;
    Ok(ApiKeyRecord {
        id: c.text("id")?,
        owner: c.text("owner_name")?,
        owner_seq: OwnerSeq(c.i64("owner")?),
        role,
        scopes: if role == KeyRole::Admin { scopes.with(Scope::Admin) } else { scopes },
        pipelines: pipelines
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|_| c.inconsistent("pipelines"))?,
        hash: c.bytes("hash")?,
        mac: c.opt_bytes("mac")?,
        expires_at: c.opt_time("expires_at")?,
        last_used_at: c.opt_time("last_used_at")?,
        created_at: c.time("created_at")?,
        revoked_at: c.opt_time("revoked_at")?,
    })
}

#[async_trait]
impl Owners for SqliteStore {
    async fn ensure_owner(&self, name: &str, now: Timestamp) -> StoreResult<Owner> {
        let row = sqlx::query(
            "/* penstock:ensure_owner */ INSERT INTO owners (name, created_at) VALUES (?, ?) \
             ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING seq, name, rows, weight, created_at",
        )
        .bind(name)
        .bind(now.millis())
        .fetch_one(&self.writer)
        .await
        .map_err(store_error("ensure_owner"))?;
        owner(&row)
    }

    async fn owners(&self) -> StoreResult<Vec<Owner>> {
        let rows = sqlx::query(
            "/* penstock:owners */ SELECT seq, name, rows, weight, created_at FROM owners ORDER BY name",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("owners"))?;
        rows.iter().map(owner).collect()
    }

    async fn set_owner(
        &self,
        name: &str,
        rows: Option<Option<u32>>,
        weight: Option<u32>,
    ) -> StoreResult<Owner> {
        let row = sqlx::query(
            "/* penstock:set_owner */ UPDATE owners SET rows = CASE WHEN ?1 THEN ?2 ELSE rows END, \
             weight = coalesce(?3, weight) WHERE name = ?4 RETURNING seq, name, rows, weight, created_at",
        )
        .bind(rows.is_some())
        .bind(rows.flatten())
        .bind(weight)
        .bind(name)
        .fetch_optional(&self.writer)
        .await
        .map_err(store_error("set_owner"))?;
        owner(&row.ok_or(StoreError::NotFound { what: "this owner" })?)
    }

    async fn create_key(&self, key: &ApiKeyRecord) -> StoreResult<()> {
        sqlx::query(
            "/* penstock:create_key */ INSERT INTO api_keys (id, owner, role, scopes, pipelines, hash, mac, created_at, expires_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )
        .bind(&key.id)
        .bind(key.owner_seq.0)
        .bind(key.role.code())
        .bind(key.scopes.code())
        .bind(key.pipelines.as_ref().map(|pipelines| serde_json::json!(pipelines).to_string()))
        .bind(&key.hash)
        .bind(&key.mac)
        .bind(key.created_at.millis())
        .bind(opt_ms(key.expires_at))
        .execute(&self.writer)
        .await
        .map_err(store_error("create_key"))?;
        Ok(())
    }

    async fn key(&self, id: &str) -> StoreResult<Option<ApiKeyRecord>> {
        let row = sqlx::query(
            "/* penstock:key */ SELECT k.id, k.owner, k.role, k.scopes, k.pipelines, k.hash, k.mac, k.created_at, k.expires_at, k.last_used_at, k.revoked_at, o.name AS owner_name FROM api_keys k JOIN owners o ON o.seq = k.owner \
             WHERE k.id = ?",
        )
        .bind(id)
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error("key"))?;
        row.as_ref().map(key).transpose()
    }

    async fn keys(&self) -> StoreResult<Vec<ApiKeyRecord>> {
        let rows = sqlx::query(
            "/* penstock:keys */ SELECT k.id, k.owner, k.role, k.scopes, k.pipelines, k.hash, k.mac, k.created_at, k.expires_at, k.last_used_at, k.revoked_at, o.name AS owner_name FROM api_keys k JOIN owners o ON o.seq = k.owner \
             ORDER BY k.created_at DESC, k.id",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("keys"))?;
        rows.iter().map(key).collect()
    }

    async fn touch_key(&self, id: &str, now: Timestamp) -> StoreResult<()> {
        sqlx::query("/* penstock:touch_key */ UPDATE api_keys SET last_used_at = ?1 WHERE id = ?2 AND coalesce(last_used_at, 0) < ?1")
            .bind(now.millis())
            .bind(id)
            .execute(&self.writer)
            .await
            .map_err(store_error("touch_key"))?;
        Ok(())
    }

    async fn set_key_mac(&self, id: &str, mac: &[u8]) -> StoreResult<bool> {
        let done = sqlx::query(
            "/* penstock:set_key_mac */ UPDATE api_keys SET mac = ?1 WHERE id = ?2 AND mac IS NULL",
        )
        .bind(mac)
        .bind(id)
        .execute(&self.writer)
        .await
        .map_err(store_error("set_key_mac"))?;
        Ok(done.rows_affected() == 1)
    }

    async fn revoke_key(&self, id: &str, now: Timestamp) -> StoreResult<bool> {
        let done = sqlx::query(
            "/* penstock:revoke_key */ UPDATE api_keys SET revoked_at = ?, mac = x'', hash = x'' WHERE id = ? AND revoked_at IS NULL",
        )
        .bind(now.millis())
        .bind(id)
        .execute(&self.writer)
        .await
        .map_err(store_error("revoke_key"))?;
        Ok(done.rows_affected() == 1)
    }

    async fn callback_secrets(&self, owner: OwnerSeq) -> StoreResult<CallbackSecrets> {
        let row = sqlx::query("/* penstock:callback_secrets */ SELECT secret, previous_secret, previous_until FROM owners WHERE seq = ?")
            .bind(owner.0)
            .fetch_optional(&self.readers)
            .await
            .map_err(store_error("callback_secrets"))?
            .ok_or(StoreError::NotFound { what: "this owner" })?;
        secrets(&row)
    }

    async fn all_callback_secrets(&self) -> StoreResult<Vec<(OwnerSeq, CallbackSecrets)>> {
        let rows = sqlx::query(
            "/* penstock:all_callback_secrets */ SELECT seq, secret, previous_secret, previous_until FROM owners WHERE secret IS NOT NULL ORDER BY seq",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("all_callback_secrets"))?;
        rows.iter().map(|row| Ok((OwnerSeq(Columns::of("owners", row).i64("seq")?), secrets(row)?))).collect()
    }

    async fn set_callback_secrets(
        &self,
        owner: OwnerSeq,
        expected: Option<&[u8]>,
        secrets: &CallbackSecrets,
    ) -> StoreResult<bool> {
        let done = sqlx::query(
            "/* penstock:set_callback_secrets */ UPDATE owners SET secret = ?, previous_secret = ?, previous_until = ? \
             WHERE seq = ? AND secret IS ?",
        )
        .bind(&secrets.current)
        .bind(&secrets.previous)
        .bind(opt_ms(secrets.previous_until))
        .bind(owner.0)
        .bind(expected)
        .execute(&self.writer)
        .await
        .map_err(store_error("set_callback_secrets"))?;
        Ok(done.rows_affected() == 1)
    }
}

fn secrets(row: &SqliteRow) -> StoreResult<CallbackSecrets> {
    let c = Columns::of("owners", row);
    Ok(CallbackSecrets {
        current: c.opt_bytes("secret")?,
        previous: c.opt_bytes("previous_secret")?,
        previous_until: c.opt_time("previous_until")?,
    })
}
