//! Owners, keys and secrets.

use async_trait::async_trait;
use penstock_domain::ids::OwnerSeq;
use penstock_domain::time::Timestamp;
use penstock_store::owners::{ApiKeyRecord, CallbackSecrets, KeyRole, Owner, Owners, Scope, Scopes};
use penstock_store::{StoreError, StoreResult};

use crate::{Row, SqlStore, sql};

fn owner(row: &Row) -> StoreResult<Owner> {
    let c = row.of("owners");
    Ok(Owner {
        seq: OwnerSeq(c.i64("seq")?),
        name: c.text("name")?,
        rows: c.opt_u32("rows")?,
        weight: c.u32("weight")?,
        created_at: c.time("created_at")?,
    })
}

fn key(row: &Row) -> StoreResult<ApiKeyRecord> {
    let c = row.of("api_keys");
    let role = c.code("role", KeyRole::from_code)?;
    let scopes = c.code("scopes", Scopes::from_code)?;
    let pipelines = c.opt_text("pipelines")?;
    Ok(ApiKeyRecord {
        id: c.text("id")?,
        owner: c.text("owner_name")?,
        owner_seq: OwnerSeq(c.i64("owner")?),
        name: c.opt_text("name")?,
        sign_in: c.flag("sign_in")?,
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

fn secrets(row: &Row) -> StoreResult<CallbackSecrets> {
    let c = row.of("owners");
    Ok(CallbackSecrets {
        current: c.opt_bytes("secret")?,
        previous: c.opt_bytes("previous_secret")?,
        previous_until: c.opt_time("previous_until")?,
    })
}

#[async_trait]
impl Owners for SqlStore {
    async fn ensure_owner(&self, name: &str, now: Timestamp) -> StoreResult<Owner> {
        let statement = sql(
            "owner_insert_if_new",
            "INSERT INTO owners (name, created_at) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING seq, name, rows, weight, created_at",
        );
        let row = self.db.write_optional(statement.bind(name).bind(now)).await?;
        owner(&row.ok_or(StoreError::NotFound { what: "this owner" })?)
    }

    async fn owners(&self) -> StoreResult<Vec<Owner>> {
        let statement =
            sql("owner_list", "SELECT seq, name, rows, weight, created_at FROM owners ORDER BY name");
        self.db.fetch(statement).await?.iter().map(owner).collect()
    }

    async fn set_owner(
        &self,
        name: &str,
        rows: Option<Option<u32>>,
        weight: Option<u32>,
    ) -> StoreResult<Owner> {
        let statement = sql(
            "owner_set",
            "UPDATE owners SET rows = CASE WHEN $1 THEN $2 ELSE rows END, \
             weight = coalesce($3, weight) WHERE name = $4 RETURNING seq, name, rows, weight, created_at",
        );
        let statement = statement.bind(rows.is_some()).bind(rows.flatten()).bind(weight).bind(name);
        let row = self.db.write_optional(statement).await?;
        owner(&row.ok_or(StoreError::NotFound { what: "this owner" })?)
    }

    async fn create_key(&self, key: &ApiKeyRecord) -> StoreResult<()> {
        let statement = sql(
            "api_key_insert",
            "INSERT INTO api_keys (id, owner, role, scopes, pipelines, hash, mac, created_at, expires_at, name, \
             sign_in) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        );
        let statement = statement
            .bind(&key.id)
            .bind(key.owner_seq)
            .bind(key.role.code())
            .bind(key.scopes.code())
            .bind(key.pipelines.as_ref().map(|pipelines| serde_json::json!(pipelines).to_string()))
            .bind(&key.hash)
            .bind(&key.mac)
            .bind(key.created_at)
            .bind(key.expires_at)
            .bind(&key.name)
            .bind(key.sign_in);
        self.db.execute(statement).await.map(|_| ())
    }

    async fn key(&self, id: &str) -> StoreResult<Option<ApiKeyRecord>> {
        let statement = sql(
            "api_key_get",
            "SELECT k.id, k.owner, k.role, k.scopes, k.pipelines, k.hash, k.mac, k.created_at, k.expires_at, \
             k.last_used_at, k.revoked_at, k.name, k.sign_in, o.name AS owner_name FROM api_keys k JOIN owners o ON o.seq = k.owner \
             WHERE k.id = $1",
        );
        self.db.fetch_optional(statement.bind(id)).await?.as_ref().map(key).transpose()
    }

    async fn keys(&self) -> StoreResult<Vec<ApiKeyRecord>> {
        let statement = sql(
            "api_key_list",
            "SELECT k.id, k.owner, k.role, k.scopes, k.pipelines, k.hash, k.mac, k.created_at, k.expires_at, \
             k.last_used_at, k.revoked_at, k.name, k.sign_in, o.name AS owner_name FROM api_keys k JOIN owners o ON o.seq = k.owner \
             ORDER BY k.created_at DESC, k.id",
        );
        self.db.fetch(statement).await?.iter().map(key).collect()
    }

    async fn touch_key(&self, id: &str, now: Timestamp) -> StoreResult<()> {
        let statement = sql(
            "api_key_set_used_if_later",
            "UPDATE api_keys SET last_used_at = $1 WHERE id = $2 AND coalesce(last_used_at, 0) < $1",
        );
        self.db.execute(statement.bind(now).bind(id)).await.map(|_| ())
    }

    async fn set_key_mac(&self, id: &str, mac: &[u8]) -> StoreResult<bool> {
        let statement =
            sql("api_key_set_mac_if_none", "UPDATE api_keys SET mac = $1 WHERE id = $2 AND mac IS NULL");
        Ok(self.db.execute(statement.bind(mac).bind(id)).await? == 1)
    }

    async fn revoke_key(&self, id: &str, now: Timestamp) -> StoreResult<bool> {
        let statement = sql(
            "api_key_revoke_if_valid",
            "UPDATE api_keys SET revoked_at = $1, mac = $3, hash = $3 WHERE id = $2 AND revoked_at IS NULL",
        );
        Ok(self.db.execute(statement.bind(now).bind(id).bind(b"".as_slice())).await? == 1)
    }

    async fn delete_sign_ins(&self, ended_before: Timestamp) -> StoreResult<u64> {
        let statement =
            sql("api_key_delete_if_of_sign_in", "DELETE FROM api_keys WHERE sign_in AND expires_at < $1");
        self.db.execute(statement.bind(ended_before)).await
    }

    async fn delete_sign_ins_beyond(&self, owner: OwnerSeq, name: &str, newest: u32) -> StoreResult<u64> {
        let statement = sql(
            "api_key_delete_if_of_sign_in_and_older",
            "DELETE FROM api_keys WHERE sign_in AND owner = $1 AND name = $2 AND id NOT IN (SELECT id FROM api_keys \
             WHERE sign_in AND owner = $1 AND name = $2 ORDER BY created_at DESC, id DESC LIMIT $3)",
        );
        self.db.execute(statement.bind(owner).bind(name).bind(i64::from(newest))).await
    }

    async fn use_ticket(&self, number: &str, ends_at: Timestamp) -> StoreResult<bool> {
        let statement = sql(
            "ticket_insert_if_new",
            "INSERT INTO used_tickets (number, ends_at) VALUES ($1, $2) ON CONFLICT (number) DO NOTHING",
        );
        Ok(self.db.execute(statement.bind(number).bind(ends_at)).await? == 1)
    }

    async fn drop_tickets(&self, now: Timestamp) -> StoreResult<u64> {
        let statement = sql("ticket_delete_if_ended", "DELETE FROM used_tickets WHERE ends_at < $1");
        self.db.execute(statement.bind(now)).await
    }

    async fn callback_secrets(&self, owner: OwnerSeq) -> StoreResult<CallbackSecrets> {
        let statement = sql(
            "owner_get_secrets",
            "SELECT secret, previous_secret, previous_until FROM owners WHERE seq = $1",
        );
        let row = self.db.fetch_optional(statement.bind(owner)).await?;
        secrets(&row.ok_or(StoreError::NotFound { what: "this owner" })?)
    }

    async fn all_callback_secrets(&self) -> StoreResult<Vec<(OwnerSeq, CallbackSecrets)>> {
        let statement = sql(
            "owner_list_secrets",
            "SELECT seq, secret, previous_secret, previous_until FROM owners WHERE secret IS NOT NULL ORDER BY seq",
        );
        let rows = self.db.fetch(statement).await?;
        rows.iter().map(|row| Ok((OwnerSeq(row.of("owners").i64("seq")?), secrets(row)?))).collect()
    }

    async fn set_callback_secrets(
        &self,
        owner: OwnerSeq,
        expected: Option<&[u8]>,
        secrets: &CallbackSecrets,
    ) -> StoreResult<bool> {
        let statement = sql(
            "owner_set_secrets_if_unchanged",
            "UPDATE owners SET secret = $1, previous_secret = $2, previous_until = $3 \
             WHERE seq = $4 AND secret IS NOT DISTINCT FROM $5",
        );
        let statement = statement
            .bind(&secrets.current)
            .bind(&secrets.previous)
            .bind(secrets.previous_until)
            .bind(owner)
            .bind(expected);
        Ok(self.db.execute(statement).await? == 1)
    }
}
