//! `penstock keys …`, and the keyring's rotation.

use clap::Subcommand;
use penstock_app::StartError;
use penstock_crypto::ApiKey;
use penstock_store::owners::{ApiKeyRecord, KeyRole};
use serde_json::json;

use crate::open::{Opened, operator_name, said};
use crate::output::Output;

/// Owners' names have so many characters at the most.
const OWNER_CHARS: usize = 64;

#[derive(Subcommand)]
pub enum Command {
    /// Makes a key, and the owner if there is none. The key is shown once
    Create {
        /// Whose it is
        #[arg(long)]
        owner: String,
        /// Sees every owner's batches, and the audit log
        #[arg(long)]
        admin: bool,
    },
    /// Lists keys, without their secrets
    List,
    /// Revokes a key
    Revoke {
        /// The key's id
        id: String,
    },
    /// Says how to rotate the keyring, and how far it has come
    Rotate,
}

pub async fn run(opened: &Opened, command: Command, out: Output) -> Result<bool, StartError> {
    let engines = &opened.chosen.engines;
    let store = &engines.store;
    let now = engines.clock.now();
    match command {
        Command::Create { owner, admin } => {
            check_owner(&owner)?;
            prepare(opened).await?;
            let owner = store.ensure_owner(&owner, now).await.map_err(said)?;
            let key = ApiKey::generate(engines.random.as_ref()).map_err(said)?;
            let record = ApiKeyRecord {
                id: key.id().to_owned(),
                owner: owner.name.clone(),
                owner_seq: owner.seq,
                role: if admin { KeyRole::Admin } else { KeyRole::Client },
                hash: key.hash(),
                created_at: now,
                revoked_at: None,
            };
            store.create_key(&record).await.map_err(said)?;
            let shown = json!({ "id": record.id, "owner": record.owner, "key": key.reveal() });
            out.say(&shown, || format!("{}\n(shown once; its id is {})", key.reveal(), record.id));
            Ok(true)
        }
        Command::List => {
            let keys = store.keys().await.map_err(said)?;
            let rows: Vec<Vec<String>> = keys
                .iter()
                .map(|key| {
                    let role = if key.role == KeyRole::Admin { "admin" } else { "client" };
                    let revoked = key.revoked_at.map_or(String::new(), |at| format!("revoked {at}"));
                    vec![key.id.clone(), key.owner.clone(), role.into(), key.created_at.to_string(), revoked]
                })
                .collect();
            out.table(&keys, &["ID", "OWNER", "ROLE", "CREATED", ""], &rows);
            Ok(true)
        }
        Command::Revoke { id } => {
            let done = store.revoke_key(&id, now).await.map_err(said)?;
            out.say(&json!({ "id": id, "revoked": done }), || {
                if done { format!("{id} is revoked") } else { format!("there is no valid key {id}") }
            });
            Ok(done)
        }
        Command::Rotate => {
            let usage = store.key_usage().await.map_err(said)?;
            let active = engines.keyring.active_id().to_owned();
            let left: u64 = usage.iter().filter(|(id, _)| *id != active).map(|(_, count)| count).sum();
            out.say(&json!({ "active": active, "usage": usage, "left": left }), || {
                format!(
                    "{active} seals; {left} data keys are wrapped by other keys.\n\
                     To rotate: put a new key (`openssl rand -base64 32`) first in PENSTOCK_ENCRYPTION_KEYS, restart the \
                     services, run `penstock crypto rewrap`, and drop the old key when `penstock doctor` says that nothing needs it."
                )
            });
            Ok(true)
        }
    }
}

/// Brings a new file's schema up, so that the first command on one machine needs no other.
async fn prepare(opened: &Opened) -> Result<(), StartError> {
    let store = &opened.chosen.engines.store;
    if opened.chosen.local && store.engine().await.map_err(said)?.schema == 0 {
        store.migrate().await.map_err(said)?;
    }
    store.check_schema().await.map_err(said)
}

fn check_owner(name: &str) -> Result<(), StartError> {
    let good = !name.is_empty()
        && name.chars().count() <= OWNER_CHARS
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !name.starts_with('.');
    if good {
        Ok(())
    } else {
        Err(StartError::new("an owner's name has 1 to 64 letters, digits, `-`, `_` and `.`"))
    }
}

/// `penstock crypto rewrap`: costs by batches, not by rows, and disturbs nobody.
pub async fn rewrap(opened: &Opened, out: Output) -> Result<bool, StartError> {
    let engines = &opened.chosen.engines;
    let active = engines.keyring.active_id();
    let mut rewrapped = 0_u64;
    loop {
        let keys = engines.store.keys_to_rewrap(active, 500).await.map_err(said)?;
        let mut moved = 0;
        for (seq, id, old) in &keys {
            let wrapped =
                penstock_crypto::WrappedKey { key_id: old.key_id.clone(), bytes: old.wrapped.clone() };
            let new = engines.keyring.rewrap(id.0, &wrapped, engines.random.as_ref()).map_err(said)?;
            let Some(new) = new else { continue };
            let new = penstock_store::batches::SealedKey {
                key_id: new.key_id,
                wrapped: new.bytes,
                context: old.context.clone(),
            };
            if engines.store.rewrap_key(*seq, old, &new).await.map_err(said)? {
                moved += 1;
            }
        }
        rewrapped += moved;
        if moved == 0 {
            break;
        }
    }
    let mut secrets = 0_u64;
    for owner in engines.store.owners().await.map_err(said)? {
        secrets +=
            u64::from(penstock_flow::callbacks::reseal_secrets(engines, owner.seq).await.map_err(said)?);
    }
    let entry = penstock_store::operations::AuditEntry {
        at: engines.clock.now(),
        actor: operator_name(),
        action: "crypto.rewrap".into(),
        batch: None,
        detail: Some(format!("{rewrapped} data keys, {secrets} callback secrets")),
    };
    engines.store.audit(&entry).await.map_err(said)?;
    out.say(&json!({ "rewrapped": rewrapped, "secrets": secrets, "active": active }), || {
        format!("{rewrapped} data keys and {secrets} callback secrets are now under `{active}`")
    });
    Ok(true)
}
