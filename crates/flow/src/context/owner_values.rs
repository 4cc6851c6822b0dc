//! What each owner has of its own at a vendor: variables and secrets, sealed in the database.

use penstock_crypto::Keyring;
use penstock_domain::ids::OwnerSeq;
use penstock_domain::pipeline::OwnerView;
use penstock_store::credentials::OwnerValue;

use crate::context::error::FlowError;
use crate::context::services::Services;

const TABLE: &str = "owner_values";
const WHAT: &str = "a value of an owner";

/// Characters of a name.
const MOST_NAME: usize = 64;

/// Bytes of a value.
const MOST_BYTES: usize = 64 * 1024;

/// Why a value cannot be set; none: it can.
pub fn fault(name: &str, value: &str) -> Option<&'static str> {
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = name.bytes().all(letters) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    if !good || name.len() > MOST_NAME {
        Some("a name has 1 to 64 letters, digits and `_`, and does not begin with a digit")
    } else if value.is_empty() {
        Some("a value is not empty; `owners unset` deletes one")
    } else if value.len() > MOST_BYTES {
        Some("a value has at most 64 KiB")
    } else {
        None
    }
}

/// Each value is bound to its owner, its kind and its name.
fn column(secret: bool, name: &str) -> String {
    format!("{}/{name}", if secret { "secret" } else { "var" })
}

/// Sets a value of an owner.
///
/// # Errors
/// When the database fails, or there is no keyring.
pub async fn set(
    services: &Services,
    owner: OwnerSeq,
    secret: bool,
    name: &str,
    value: &str,
) -> Result<(), FlowError> {
    let (place, column) = (owner.0.to_string(), column(secret, name));
    let keyring = services.keyring.get();
    let sealed = keyring.seal_small(TABLE, &place, &column, value.as_bytes(), services.random.as_ref());
    let sealed = sealed.map_err(|source| FlowError::Sealed { what: WHAT, source })?;
    let value = OwnerValue { owner, secret, name: name.to_owned(), sealed };
    Ok(services.store.set_owner_value(&value).await?)
}

fn open(services: &Services, value: &OwnerValue) -> Result<String, FlowError> {
    let (place, column) = (value.owner.0.to_string(), column(value.secret, &value.name));
    let plain = services.keyring.get().open_small(TABLE, &place, &column, &value.sealed);
    let plain = plain.map_err(|source| FlowError::Sealed { what: WHAT, source })?;
    String::from_utf8(plain).map_err(|_| FlowError::Inconsistent(format!("{WHAT} is not text")))
}

/// An owner's values as templates read them.
///
/// # Errors
/// When the database fails, or the keyring lacks their key.
pub async fn view(services: &Services, owner: OwnerSeq, name: &str) -> Result<OwnerView, FlowError> {
    let mut view = OwnerView { name: name.to_owned(), ..OwnerView::default() };
    for value in services.store.owner_values(owner).await? {
        let plain = open(services, &value)?;
        let values = if value.secret { &mut view.secrets } else { &mut view.vars };
        values.insert(value.name, plain);
    }
    Ok(view)
}

/// Seals values under the keyring's active key; how many were under another.
///
/// # Errors
/// When the database fails or the keyring lacks their key.
pub(crate) async fn reseal(services: &Services) -> Result<u64, FlowError> {
    let keyring = services.keyring.get();
    let sealed_by = |source| FlowError::Sealed { what: WHAT, source };
    let mut done = 0;
    for value in services.store.all_owner_values().await? {
        if Keyring::small_key_id(&value.sealed).map_err(sealed_by)? == keyring.active_id() {
            continue;
        }
        let plain = open(services, &value)?;
        let (place, column) = (value.owner.0.to_string(), column(value.secret, &value.name));
        let random = services.random.as_ref();
        let sealed =
            keyring.seal_small(TABLE, &place, &column, plain.as_bytes(), random).map_err(sealed_by)?;
        let after = OwnerValue { sealed, ..value.clone() };
        done += u64::from(services.store.reseal_owner_value(&after, &value.sealed).await?);
    }
    Ok(done)
}
