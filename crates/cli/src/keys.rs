//! `penstock keys …`, and the keyring's rotation.

use std::time::Duration;

use clap::Subcommand;
use penstock_app::StartError;
use penstock_app::startup::keyring_error;
use penstock_crypto::{ApiKey, Keyring};
use penstock_flow::rotation::{self, KeyNeed};
use penstock_store::owners::{ApiKeyRecord, KeyRole};
use serde_json::json;

use crate::open::{Opened, operator_name, owner_name, said};
use crate::output::Output;

#[derive(Subcommand)]
pub enum Command {
    /// Makes a key, and the owner if there is none. The key is shown once
    Create {
        /// Whose it is
        #[arg(long, value_parser = owner_name)]
        owner: String,
        /// Sees every owner's batches, and the audit log; commands only its own owner's
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
    /// Makes a new key for the keyring, and says what is to be done with it, and how far a rotation has come
    Rotate,
}

pub async fn run(opened: &Opened, command: Command, out: Output) -> Result<bool, StartError> {
    let engines = &opened.chosen.engines;
    let store = &engines.store;
    let now = engines.clock.now();
    match command {
        Command::Create { owner, admin } => {
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
            let role = if admin { "an admin" } else { "a client" };
            opened.audit_done("key.create", format!("{} ({role} of {})", record.id, record.owner)).await;
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
            if done {
                opened.audit_done("key.revoke", id.clone()).await;
            }
            out.say(&json!({ "id": id, "revoked": done }), || {
                if done { format!("{id} is revoked") } else { format!("there is no valid key {id}") }
            });
            Ok(done)
        }
        Command::Rotate => rotate(opened, out).await,
    }
}

/// Brings a new file's schema up, so that the first command on one machine needs no other.
async fn prepare(opened: &Opened) -> Result<(), StartError> {
    let store = &opened.chosen.engines.store;
    if opened.chosen.embedded && store.engine().await.map_err(said)?.schema == 0 {
        rotation::migrate(&opened.chosen.engines, &operator_name())
            .await
            .map_err(|error| keyring_error(&error))?;
    }
    store.check_schema().await.map_err(said)?;
    rotation::claim_keyring(&opened.chosen.engines).await.map_err(|error| keyring_error(&error))
}

/// The keyring is a setting, not a thing of ours: a new key is made and the steps are said, in the order in which no
/// process meets a key that it does not have.
async fn rotate(opened: &Opened, out: Output) -> Result<bool, StartError> {
    let engines = &opened.chosen.engines;
    let active = engines.keyring.get().active_id().to_owned();
    let needs = rotation::needs(engines).await.map_err(said)?;
    let left: u64 = needs.iter().filter(|need| need.key_id != active).map(all_of).sum();
    let at = engines.clock.now().to_string();
    let id = format!("k{}", at.chars().filter(char::is_ascii_digit).take(12).collect::<String>());
    let entry = Keyring::new_entry(&id, engines.random.as_ref()).map_err(said)?;
    let value = json!({ "active": active, "needs": needs, "left": left, "new": entry });
    out.say(&value, || {
        format!(
            "`{active}` seals; {left} things are still under other keys.\n\n\
             A new key, shown once: {entry}\n\n\
             1. put it LAST in PENSTOCK_ENCRYPTION_KEYS (with `penstock dev`: in DATA/encryption.keys), and restart all services: \
             every one can open it, none seals with it yet\n\
             2. put it FIRST, and restart all services\n\
             3. `penstock crypto rewrap`, or wait for the workers, which do the same every ten minutes\n\
             4. drop the old key when `penstock doctor` says that nothing needs it, and restart"
        )
    });
    Ok(true)
}

/// Everything that needs a key.
pub fn all_of(need: &KeyNeed) -> u64 {
    need.data_keys + need.secrets + need.definitions + need.promises
}

/// `penstock crypto rewrap`.
pub async fn rewrap(opened: &Opened, out: Output) -> Result<bool, StartError> {
    let engines = &opened.chosen.engines;
    let done = rotation::rewrap(engines, Duration::ZERO, &operator_name()).await.map_err(said)?;
    let keyring = engines.keyring.get();
    let active = keyring.active_id();
    let value = json!({
        "rewrapped": done.data_keys,
        "secrets": done.secrets,
        "definitions": done.definitions,
        "epochs": done.epochs,
        "unreadable": done.unreadable,
        "active": active,
    });
    out.say(&value, || {
        let mut text = format!(
            "{} data keys, {} secrets and {} definitions are now under `{active}`; {} epochs were dropped",
            done.data_keys, done.secrets, done.definitions, done.epochs
        );
        if done.unreadable > 0 {
            text += &format!(
                "\n{} things cannot be opened, and stay as they are: the log names them",
                done.unreadable
            );
        }
        text
    });
    Ok(done.unreadable == 0)
}
