//! Owners' values, and tokens that one worker renews.

use std::sync::Arc;
use std::time::Duration;

use penstock_store::Store;
use penstock_store::credentials::{OwnerValue, SealedTokens};
use uuid::Uuid;

use crate::fixture::START;

/// A variable and a secret of one name are two values, and each owner has its own.
pub async fn owners_values_are_their_own(store: &Arc<dyn Store>) {
    let one = store.ensure_owner("values-one", START).await.unwrap().seq;
    let two = store.ensure_owner("values-two", START).await.unwrap().seq;
    let value = |owner, secret, name: &str, sealed: &[u8]| OwnerValue {
        owner,
        secret,
        name: name.to_owned(),
        sealed: sealed.to_vec(),
    };
    let shop = value(one, false, "shop", b"1");
    let (token, theirs) = (value(one, true, "shop", b"2"), value(two, false, "shop", b"3"));
    for value in [&shop, &token, &theirs] {
        store.set_owner_value(value).await.unwrap();
    }
    assert_eq!(store.owner_values(one).await.unwrap(), [shop.clone(), token.clone()]);
    let all = store.all_owner_values().await.unwrap();
    assert!([&shop, &token, &theirs].iter().all(|value| all.contains(value)), "{all:?}");
    let new = value(one, false, "shop", b"4");
    store.set_owner_value(&new).await.unwrap();
    let resealed = value(one, false, "shop", b"5");
    assert!(!store.reseal_owner_value(&resealed, b"1").await.unwrap(), "it was replaced since");
    assert!(store.reseal_owner_value(&resealed, b"4").await.unwrap());
    assert!(store.unset_owner_value(one, true, "shop").await.unwrap());
    assert!(!store.unset_owner_value(one, true, "shop").await.unwrap(), "once");
    assert_eq!(store.owner_values(one).await.unwrap(), [resealed]);
    assert_eq!(store.owner_values(two).await.unwrap(), [theirs]);
}

/// One worker renews a version; who comes late, or renews an older one, is refused.
pub async fn tokens_are_renewed_by_one_at_a_time(store: &Arc<dyn Store>) {
    let name = Uuid::from_u128(77);
    let (now, until) = (START, START + Duration::from_secs(60));
    assert_eq!(store.tokens(name).await.unwrap(), None);
    let mut begun = 0;
    let tries: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.begin_renewal(name, 0, now, until).await.unwrap() })
        })
        .collect();
    for one in tries {
        begun += u32::from(one.await.unwrap());
    }
    assert_eq!(begun, 1);
    assert!(store.end_renewal(name, 0, Some(b"first")).await.unwrap());
    assert!(!store.end_renewal(name, 0, Some(b"late")).await.unwrap(), "there is a newer version");
    let first = SealedTokens { version: 1, sealed: Some(b"first".to_vec()) };
    assert_eq!(store.tokens(name).await.unwrap(), Some(first.clone()));
    assert!(!store.begin_renewal(name, 0, now, until).await.unwrap(), "it was renewed");
    // A renewal without tokens leaves what there was; one whose worker is gone ends by itself.
    assert!(store.begin_renewal(name, 1, now, until).await.unwrap());
    assert!(store.end_renewal(name, 1, None).await.unwrap());
    assert_eq!(store.tokens(name).await.unwrap(), Some(first));
    assert!(store.begin_renewal(name, 1, now, until).await.unwrap());
    assert!(!store.begin_renewal(name, 1, now, until).await.unwrap());
    assert!(store.begin_renewal(name, 1, until, until + Duration::from_secs(60)).await.unwrap());
    assert!(store.all_tokens().await.unwrap().contains(&(name, b"first".to_vec())));
    assert!(!store.reseal_tokens(name, b"other", b"x").await.unwrap());
    assert!(store.reseal_tokens(name, b"first", b"again").await.unwrap());
}
