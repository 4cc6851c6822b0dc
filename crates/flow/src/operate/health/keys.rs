//! The keyring: whether it is this database's, and what each key is needed for.

use crate::context::findings::Findings;
use crate::context::installation;
use crate::context::services::Services;
use crate::operate::rotation::{self, KeyNeed};

pub(super) async fn keys(services: &Services, findings: &mut Findings) {
    let needs = match rotation::needs(services).await {
        Ok(needs) => needs,
        Err(error) => return findings.fail("keys", error.to_string()),
    };
    let keyring = services.keyring.get();
    let active = keyring.active_id();
    if let Err(error) = installation::check_keyring(services, &keyring).await {
        return findings
            .fail("keys", format!("PENSTOCK_ENCRYPTION_KEYS is not the keyring of this database: {error}"));
    }
    if let Some(need) = needs.iter().find(|need| !keyring.contains(&need.key_id)) {
        return findings.fail(
            "keys",
            format!(
                "{} data keys, {} secrets, {} definitions and {} promises need the key `{}`, which PENSTOCK_ENCRYPTION_KEYS lacks: put it back",
                need.data_keys, need.secrets, need.definitions, need.promises, need.key_id
            ),
        );
    }
    let unneeded: Vec<&str> = keyring
        .ids()
        .filter(|id| *id != active && !needs.iter().any(|need| need.key_id == *id && need.all() > 0))
        .collect();
    let left: u64 = needs.iter().filter(|need| need.key_id != active).map(KeyNeed::all).sum();
    let found = match (unneeded.is_empty(), left) {
        (false, _) => format!("`{active}` seals; nothing needs {} any more", unneeded.join(", ")),
        (true, 0) => format!("`{active}` seals, and all that is sealed is under it"),
        (true, left) => {
            format!("`{active}` seals; {left} things are under other keys (`penstock crypto rewrap`)")
        }
    };
    findings.ok("keys", found);
}
