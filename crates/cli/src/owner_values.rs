//! `penstock owners set --var … --secret …`, `unset` and `values`.

use std::io::BufRead as _;

use penstock_app::StartError;
use penstock_flow::context::owner_values;
use penstock_store::owners::Owner;
use serde_json::json;

use crate::open::{Opened, said};
use crate::output::Output;

/// Sets values of an owner, which is created if there is none of that name.
pub async fn set(
    opened: &Opened,
    name: &str,
    vars: &[String],
    secrets: &[String],
    out: &Output,
) -> Result<(), StartError> {
    let services = &opened.chosen.services;
    let mut values = Vec::new();
    for var in vars {
        let wrong = || StartError::misuse(format!("--var {var}: write NAME=VALUE."));
        let (key, value) = var.split_once('=').ok_or_else(wrong)?;
        values.push((false, key.to_owned(), value.to_owned()));
    }
    for secret in secrets {
        let (key, value) = match secret.split_once('=') {
            Some((key, value)) => (key, value.to_owned()),
            None => (secret.as_str(), line_of_input()?),
        };
        values.push((true, key.to_owned(), value));
    }
    for (secret, key, value) in &values {
        // Values stay out of the text, and what was typed for a secret may be the secret.
        if let Some(fault) = owner_values::fault(key, value) {
            let which = if *secret { "a secret".to_owned() } else { format!("the variable `{key}`") };
            return Err(StartError::misuse(format!("{which} cannot be set: {fault}.")));
        }
    }
    let owner = services.store.ensure_owner(name, services.clock.now()).await.map_err(said)?;
    for (secret, key, value) in &values {
        owner_values::set(services, owner.seq, *secret, key, value).await.map_err(said)?;
        let kind = if *secret { "secret" } else { "variable" };
        opened.audit_done("owner.set", format!("{name}: {kind} {key}")).await;
    }
    let names: Vec<&str> = values.iter().map(|(_, key, _)| key.as_str()).collect();
    out.say(&json!({ "owner": name, "set": names }), || format!("{name}: set {}", names.join(", ")));
    Ok(())
}

/// The next line of standard input.
fn line_of_input() -> Result<String, StartError> {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|error| StartError::new(format!("cannot read a secret from standard input: {error}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

async fn known(opened: &Opened, name: &str) -> Result<Owner, StartError> {
    let owners = opened.chosen.services.store.owners().await.map_err(said)?;
    let owner = owners.into_iter().find(|owner| owner.name == name);
    owner.ok_or_else(|| StartError::new(format!("there is no owner {name}")))
}

/// Deletes values of an owner; false when one of them was not there.
pub async fn unset(
    opened: &Opened,
    name: &str,
    vars: &[String],
    secrets: &[String],
    out: &Output,
) -> Result<bool, StartError> {
    let store = &opened.chosen.services.store;
    let owner = known(opened, name).await?;
    let mut all = true;
    for (secret, key) in vars.iter().map(|key| (false, key)).chain(secrets.iter().map(|key| (true, key))) {
        let done = store.unset_owner_value(owner.seq, secret, key).await.map_err(said)?;
        if done {
            let kind = if secret { "secret" } else { "variable" };
            opened.audit_done("owner.unset", format!("{name}: {kind} {key}")).await;
        }
        all &= done;
        out.say(&json!({ "owner": name, "name": key, "deleted": done }), || {
            if done { format!("{name}: deleted {key}") } else { format!("{name} has no {key}") }
        });
    }
    Ok(all)
}

/// Lists an owner's variables, and the names of its secrets.
pub async fn list(opened: &Opened, name: &str, out: &Output) -> Result<(), StartError> {
    let owner = known(opened, name).await?;
    let view = owner_values::view(&opened.chosen.services, owner.seq, name).await.map_err(said)?;
    let values: Vec<(&str, &String, &str)> = view
        .vars
        .iter()
        .map(|(key, value)| ("variable", key, value.as_str()))
        .chain(view.secrets.keys().map(|key| ("secret", key, "…")))
        .collect();
    let shown: Vec<_> = values
        .iter()
        .map(|(kind, key, value)| json!({ "kind": kind, "name": key, "value": value }))
        .collect();
    let rows: Vec<Vec<String>> = values
        .iter()
        .map(|(kind, key, value)| vec![(*kind).to_owned(), (*key).clone(), (*value).to_owned()])
        .collect();
    out.table(&shown, &["KIND", "NAME", "VALUE"], &rows);
    Ok(())
}
