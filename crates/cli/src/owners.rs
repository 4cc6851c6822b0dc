//! `penstock owners …`.

use clap::Subcommand;
use penstock_app::StartError;
use penstock_app::owner_name::owner_name;
use penstock_flow::callbacks::secrets::rotate_secret;
use serde_json::json;

use crate::open::{Opened, said};
use crate::output::Output;
use crate::owner_values;

#[derive(Subcommand)]
pub enum Command {
    /// Lists owners
    List,
    /// Sets an owner's quota, weight, variables and secrets
    Set {
        /// Its name
        #[arg(value_parser = owner_name)]
        name: String,
        /// The most rows in flight; 0 restores the default
        #[arg(long, required_unless_present_any = ["weight", "var", "secret"])]
        rows: Option<u32>,
        /// Its weight where owners share a run's cap
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
        weight: Option<u32>,
        /// A variable that a dependency reads as `owner.vars.NAME`
        #[arg(long, value_name = "NAME=VALUE")]
        var: Vec<String>,
        /// A secret that a dependency reads as `owner.secrets.NAME`; without `=VALUE` its value is a line of standard input
        #[arg(long, value_name = "NAME[=VALUE]")]
        secret: Vec<String>,
    },
    /// Deletes variables and secrets of an owner
    Unset {
        /// Its name
        #[arg(value_parser = owner_name)]
        name: String,
        /// A variable
        #[arg(long, value_name = "NAME", required_unless_present = "secret")]
        var: Vec<String>,
        /// A secret
        #[arg(long, value_name = "NAME")]
        secret: Vec<String>,
    },
    /// Lists the variables of an owner, and the names of its secrets
    Values {
        /// Its name
        #[arg(value_parser = owner_name)]
        name: String,
    },
    /// Creates a new callback secret for an owner; the previous one also signs for a day
    RotateSecret {
        /// Its name
        #[arg(value_parser = owner_name)]
        name: String,
    },
}

pub async fn run(opened: &Opened, command: Command, out: Output) -> Result<bool, StartError> {
    let services = &opened.chosen.services;
    match command {
        Command::List => {
            let owners = services.store.owners().await.map_err(said)?;
            let rows: Vec<Vec<String>> = owners
                .iter()
                .map(|owner| {
                    let quota = owner.rows.map_or("default".to_owned(), |rows| rows.to_string());
                    vec![owner.name.clone(), quota, owner.weight.to_string(), owner.created_at.to_string()]
                })
                .collect();
            out.table(&owners, &["OWNER", "ROWS", "WEIGHT", "CREATED"], &rows);
        }
        Command::Set { name, rows, weight, var, secret } => {
            if !var.is_empty() || !secret.is_empty() {
                owner_values::set(opened, &name, &var, &secret, &out).await?;
                if rows.is_none() && weight.is_none() {
                    return Ok(true);
                }
            }
            let rows = rows.map(|rows| (rows > 0).then_some(rows));
            let owner = services.store.set_owner(&name, rows, weight).await.map_err(said)?;
            let quota = owner.rows.map_or("default".to_owned(), |rows| rows.to_string());
            opened.audit_done("owner.set", format!("{name}: rows {quota}, weight {}", owner.weight)).await;
            out.say(&owner, || {
                let quota = owner.rows.map_or("the default quota".to_owned(), |rows| format!("{rows} rows"));
                format!("{}: {quota}, weight {}", owner.name, owner.weight)
            });
        }
        Command::Unset { name, var, secret } => {
            return owner_values::unset(opened, &name, &var, &secret, &out).await;
        }
        Command::Values { name } => owner_values::list(opened, &name, &out).await?,
        Command::RotateSecret { name } => {
            let owners = services.store.owners().await.map_err(said)?;
            let owner = owners.into_iter().find(|owner| owner.name == name);
            let owner = owner.ok_or_else(|| StartError::new(format!("there is no owner {name}")))?;
            let secret = rotate_secret(services, owner.seq).await.map_err(said)?;
            opened.audit_done("owner.rotate_secret", name.clone()).await;
            out.say(&json!({ "owner": name, "secret": secret }), || {
                format!("{secret}\n(shown once; the secret before signs too for 24 hours)")
            });
        }
    }
    Ok(true)
}
