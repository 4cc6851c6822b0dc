//! Owners' values, and tokens that endpoints replace.

use async_trait::async_trait;
use penstock_domain::ids::OwnerSeq;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::credentials::{Credentials, OwnerValue, SealedTokens};
use uuid::Uuid;

use crate::{Row, SqlStore, sql};

fn value(row: &Row) -> StoreResult<OwnerValue> {
    let c = row.of("owner_values");
    Ok(OwnerValue {
        owner: OwnerSeq(c.i64("owner")?),
        secret: c.i64("secret")? != 0,
        name: c.text("name")?,
        sealed: c.bytes("sealed")?,
    })
}

#[async_trait]
impl Credentials for SqlStore {
    async fn owner_values(&self, owner: OwnerSeq) -> StoreResult<Vec<OwnerValue>> {
        let statement = sql(
            "owner_value_list_of_owner",
            "SELECT owner, secret, name, sealed FROM owner_values WHERE owner = $1 ORDER BY secret, name",
        );
        self.db.fetch(statement.bind(owner)).await?.iter().map(value).collect()
    }

    async fn all_owner_values(&self) -> StoreResult<Vec<OwnerValue>> {
        let statement = sql(
            "owner_value_list",
            "SELECT owner, secret, name, sealed FROM owner_values ORDER BY owner, secret, name",
        );
        self.db.fetch(statement).await?.iter().map(value).collect()
    }

    async fn set_owner_value(&self, value: &OwnerValue) -> StoreResult<()> {
        let statement = sql(
            "owner_value_set",
            "INSERT INTO owner_values (owner, secret, name, sealed) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (owner, secret, name) DO UPDATE SET sealed = excluded.sealed",
        );
        let statement = statement.bind(value.owner).bind(i64::from(value.secret));
        self.db.execute(statement.bind(&value.name).bind(&value.sealed)).await.map(|_| ())
    }

    async fn reseal_owner_value(&self, value: &OwnerValue, before: &[u8]) -> StoreResult<bool> {
        let statement = sql(
            "owner_value_reseal_if_unchanged",
            "UPDATE owner_values SET sealed = $4 WHERE owner = $1 AND secret = $2 AND name = $3 AND sealed = $5",
        );
        let statement = statement.bind(value.owner).bind(i64::from(value.secret));
        Ok(self.db.execute(statement.bind(&value.name).bind(&value.sealed).bind(before)).await? == 1)
    }

    async fn unset_owner_value(&self, owner: OwnerSeq, secret: bool, name: &str) -> StoreResult<bool> {
        let statement = sql(
            "owner_value_delete",
            "DELETE FROM owner_values WHERE owner = $1 AND secret = $2 AND name = $3",
        );
        Ok(self.db.execute(statement.bind(owner).bind(i64::from(secret)).bind(name)).await? == 1)
    }

    async fn tokens(&self, name: Uuid) -> StoreResult<Option<SealedTokens>> {
        let statement = sql("token_get", "SELECT version, sealed FROM tokens WHERE name = $1");
        let row = self.db.fetch_optional(statement.bind(name.to_string())).await?;
        let tokens = |row: &Row| {
            let c = row.of("tokens");
            Ok(SealedTokens { version: c.i64("version")?, sealed: c.opt_bytes("sealed")? })
        };
        row.as_ref().map(tokens).transpose()
    }

    async fn begin_renewal(
        &self,
        name: Uuid,
        version: i64,
        now: Timestamp,
        until: Timestamp,
    ) -> StoreResult<bool> {
        let name = name.to_string();
        let first = sql(
            "token_insert_if_new",
            "INSERT INTO tokens (name, version, renewing_until) VALUES ($1, 0, 0) ON CONFLICT DO NOTHING",
        );
        self.db.execute(first.bind(&name)).await?;
        let statement = sql(
            "token_begin_renewal_if_current",
            "UPDATE tokens SET renewing_until = $3 WHERE name = $1 AND version = $2 AND renewing_until <= $4",
        );
        Ok(self.db.execute(statement.bind(&name).bind(version).bind(until).bind(now)).await? == 1)
    }

    async fn end_renewal(&self, name: Uuid, version: i64, sealed: Option<&[u8]>) -> StoreResult<bool> {
        let statement = sql(
            "token_end_renewal_if_current",
            "UPDATE tokens SET renewing_until = 0, sealed = coalesce($3, sealed), \
             version = version + CASE WHEN $3 IS NULL THEN 0 ELSE 1 END WHERE name = $1 AND version = $2",
        );
        Ok(self.db.execute(statement.bind(name.to_string()).bind(version).bind(sealed)).await? == 1)
    }

    async fn all_tokens(&self) -> StoreResult<Vec<(Uuid, Vec<u8>)>> {
        let statement =
            sql("token_list", "SELECT name, sealed FROM tokens WHERE sealed IS NOT NULL ORDER BY name");
        let tokens = |row: &Row| {
            let c = row.of("tokens");
            let name = c.text("name")?.parse().map_err(|_| c.inconsistent("name"))?;
            Ok((name, c.bytes("sealed")?))
        };
        self.db.fetch(statement).await?.iter().map(tokens).collect()
    }

    async fn reseal_tokens(&self, name: Uuid, before: &[u8], sealed: &[u8]) -> StoreResult<bool> {
        let statement =
            sql("token_reseal_if_unchanged", "UPDATE tokens SET sealed = $3 WHERE name = $1 AND sealed = $2");
        Ok(self.db.execute(statement.bind(name.to_string()).bind(before).bind(sealed)).await? == 1)
    }
}
