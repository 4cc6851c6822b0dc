//! `penstock keys …`, and the keyring's rotation.

use std::time::Duration;

use clap::Subcommand;
use penstock_app::StartError;
use penstock_app::owner_name::owner_name;
use penstock_app::settings::parse_span;
use penstock_app::startup::keyring_error;
use penstock_crypto::Keyring;
use penstock_domain::time::Timestamp;
use penstock_flow::context::api_keys;
use penstock_flow::context::api_keys::Grant;
use penstock_flow::context::installation;
use penstock_flow::operate::rotation;
use penstock_flow::operate::rotation::KeyNeed;
use penstock_store::owners::{ApiKeyRecord, KeyRole, Scope};
use serde_json::json;

use crate::open::{Opened, operator_name, said};
use crate::output::Output;

#[derive(Subcommand)]
pub enum Command {
    /// Creates a key, and its owner if needed. The key is shown once
    Create {
        /// The owner
        #[arg(long, value_parser = owner_name)]
        owner: String,
        /// Its name, for people: lists and the audit log show it
        #[arg(long, value_parser = key_name)]
        name: Option<String>,
        /// Reads every owner's batches and the audit log; commands only its own owner's
        #[arg(long)]
        admin: bool,
        /// What the key may do, separated by commas: read, upload, command, admin
        #[arg(long, value_delimiter = ',', value_parser = scope, default_value = "read,upload,command")]
        scopes: Vec<Scope>,
        /// The pipelines that the key may use, separated by commas (default: all)
        #[arg(long, value_delimiter = ',', num_args = 1)]
        pipeline: Option<Vec<String>>,
        /// The key expires after this time: 12h, 90d
        #[arg(long, value_parser = parse_span)]
        expires_in: Option<Duration>,
    },
    /// Lists keys, without their secrets
    List,
    /// Revokes a key
    Revoke {
        /// The key's id
        id: String,
    },
    /// Creates a new key for the keyring and shows the next steps and the progress of a rotation
    Rotate,
}

/// A key's line in the list.
fn cells(key: &ApiKeyRecord, now: Timestamp) -> Vec<String> {
    let state = match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {at}"),
        (None, Some(at)) if at <= now => format!("expired {at}"),
        (None, Some(at)) => format!("until {at}"),
        (None, None) => String::new(),
    };
    let used = key.last_used_at.map_or("never".to_owned(), |at| at.to_string());
    let role = if key.role == KeyRole::Admin { "admin" } else { "client" };
    let name = key.name.clone().unwrap_or_default();
    let (id, owner, created) = (key.id.clone(), key.owner.clone(), key.created_at.to_string());
    vec![id, owner, name, role.into(), granted(key), created, used, state]
}

pub async fn run(opened: &Opened, command: Command, out: Output) -> Result<bool, StartError> {
    let services = &opened.chosen.services;
    let store = &services.store;
    let now = services.clock.now();
    match command {
        Command::Create { owner, name, admin, scopes, pipeline, expires_in } => {
            let owner = store.ensure_owner(&owner, now).await.map_err(said)?;
            let scopes = scopes.into_iter().chain(admin.then_some(Scope::Admin)).collect();
            let expires_at = expires_in.map(|time| now + time);
            let grant = Grant { name, sign_in: false, scopes, pipelines: pipeline, expires_at };
            let (key, record) = api_keys::create(services, &owner, grant).await.map_err(said)?;
            let role = if record.role == KeyRole::Admin { "an admin" } else { "a client" };
            let what = format!("{} ({role} of {}): {}", record.id, record.owner, granted(&record));
            opened.audit_done("key.create", what).await;
            let shown = json!({
                "id": record.id, "owner": record.owner, "name": record.name, "key": key.reveal(), "scopes": record.scopes,
                "pipelines": record.pipelines, "expires_at": record.expires_at,
            });
            out.say(&shown, || format!("{}\n(shown once; its id is {})", key.reveal(), record.id));
            Ok(true)
        }
        Command::List => {
            let keys = store.keys().await.map_err(said)?;
            let rows: Vec<Vec<String>> = keys.iter().map(|key| cells(key, now)).collect();
            out.table(&keys, &["ID", "OWNER", "NAME", "ROLE", "MAY", "CREATED", "LAST USED", ""], &rows);
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

/// `read, upload (invite)`: scopes, and pipelines unless it is for all.
fn granted(key: &ApiKeyRecord) -> String {
    let scopes = key.scopes.iter().map(Scope::name).collect::<Vec<_>>().join(", ");
    key.pipelines.as_ref().map_or(scopes.clone(), |pipelines| format!("{scopes} ({})", pipelines.join(", ")))
}

fn key_name(text: &str) -> Result<String, String> {
    const MOST: usize = 100;
    let name = text.trim();
    if name.is_empty() || name.chars().count() > MOST || name.chars().any(char::is_control) {
        return Err("a key's name has 1 to 100 characters and no control characters".to_owned());
    }
    Ok(name.to_owned())
}

fn scope(text: &str) -> Result<Scope, String> {
    let found = Scope::ALL.into_iter().find(|scope| scope.name() == text);
    found.ok_or_else(|| format!("invalid scope `{text}`: use read, upload, command or admin"))
}

/// Brings a new file's schema up, so that the first command on one machine needs no other.
pub async fn prepare(opened: &Opened) -> Result<(), StartError> {
    let store = &opened.chosen.services.store;
    if opened.chosen.embedded && store.engine().await.map_err(said)?.schema == 0 {
        rotation::migrate(&opened.chosen.services, &operator_name())
            .await
            .map_err(|error| keyring_error(&error))?;
    }
    store.check_schema().await.map_err(said)?;
    installation::claim_keyring(&opened.chosen.services).await.map_err(|error| keyring_error(&error))
}

/// The keyring is a setting, not a thing of ours: a new key is made and the steps are said, in the order in which no
/// process meets a key that it does not have.
async fn rotate(opened: &Opened, out: Output) -> Result<bool, StartError> {
    let services = &opened.chosen.services;
    let active = services.keyring.get().active_id().to_owned();
    let needs = rotation::needs(services).await.map_err(said)?;
    let left: u64 = needs.iter().filter(|need| need.key_id != active).map(KeyNeed::all).sum();
    let at = services.clock.now().to_string();
    let id = format!("k{}", at.chars().filter(char::is_ascii_digit).take(12).collect::<String>());
    let entry = Keyring::new_entry(&id, services.random.as_ref()).map_err(said)?;
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

/// `penstock crypto rewrap`.
pub async fn rewrap(opened: &Opened, out: Output) -> Result<bool, StartError> {
    let services = &opened.chosen.services;
    let done = rotation::rewrap(services, Duration::ZERO, &operator_name()).await.map_err(said)?;
    let keyring = services.keyring.get();
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
