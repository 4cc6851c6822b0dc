//! Keys of sign-ins to the console, and tickets that sign in once.

use std::sync::Arc;

use penstock_domain::time::Timestamp;
use penstock_store::Store;
use penstock_store::operations::AuditEntry;
use penstock_store::owners::{ApiKeyRecord, KeyRole, Owner, Scopes};

use crate::fixture::{START, unique};

/// However many processes take a ticket at once, one of them has it.
pub async fn a_ticket_is_used_once_whichever_process_takes_it(store: &Arc<dyn Store>) {
    let end = Timestamp::from_millis(START.millis() + 1000);
    let takes = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.use_ticket("a ticket", end).await.unwrap() })
    });
    let mut used = 0;
    for take in takes.collect::<Vec<_>>() {
        used += u32::from(take.await.unwrap());
    }
    assert_eq!(used, 1);
    assert!(store.use_ticket("another", end).await.unwrap());
    store.drop_tickets(START).await.unwrap();
    assert!(!store.use_ticket("another", end).await.unwrap(), "it has not ended");
    assert_eq!(store.drop_tickets(Timestamp::from_millis(end.millis() + 1)).await.unwrap(), 2);
}

fn key(owner: &Owner, name: &str, created_at: Timestamp) -> ApiKeyRecord {
    ApiKeyRecord {
        id: format!("key{}", unique()),
        owner: owner.name.clone(),
        owner_seq: owner.seq,
        name: Some(name.to_owned()),
        sign_in: true,
        role: KeyRole::Client,
        scopes: Scopes::CLIENT,
        pipelines: None,
        hash: Vec::new(),
        mac: Some(vec![1; 32]),
        created_at,
        expires_at: Some(START),
        last_used_at: None,
        revoked_at: None,
    }
}

/// Of a person's sign-ins only the newest keys stay; those of others, and keys that were made otherwise, do not count.
pub async fn a_person_has_so_many_keys_of_sign_ins_and_no_more(store: &Arc<dyn Store>) {
    let owner = store.ensure_owner(&format!("signs-in-{}", unique()), START).await.unwrap();
    let another = store.ensure_owner(&format!("signs-in-{}", unique()), START).await.unwrap();
    let at = |after: i64| Timestamp::from_millis(START.millis() + after);
    let own: Vec<ApiKeyRecord> = (0..5).map(|after| key(&owner, "Ann", at(after))).collect();
    let mut others = vec![key(&owner, "Bob", START), key(&another, "Ann", START)];
    others.push(ApiKeyRecord { sign_in: false, ..key(&owner, "Ann", START) });
    for key in own.iter().chain(&others) {
        store.create_key(key).await.unwrap();
    }
    assert_eq!(store.delete_sign_ins_beyond(owner.seq, "Ann", 5).await.unwrap(), 0);
    assert_eq!(store.delete_sign_ins_beyond(owner.seq, "Ann", 2).await.unwrap(), 3);
    for (index, key) in own.iter().chain(&others).enumerate() {
        assert_eq!(store.key(&key.id).await.unwrap().is_some(), index > 2, "{index}");
        store.revoke_key(&key.id, START).await.unwrap();
    }
}

/// Keys of sign-ins are deleted after their end, others never; the audit log names who did something as long as the key is there.
pub async fn keys_of_sign_ins_are_deleted_and_named_until_then(store: &Arc<dyn Store>) {
    let owner = store.ensure_owner(&format!("signs-in-{}", unique()), START).await.unwrap();
    let mut ids = Vec::new();
    for sign_in in [true, false] {
        let key = ApiKeyRecord { sign_in, ..key(&owner, "Ann", START) };
        store.create_key(&key).await.unwrap();
        let (actor, action) = (format!("key:{}", key.id), "console.sign_in".to_owned());
        let entry = AuditEntry { id: 0, at: START, actor, action, batch: None, detail: None };
        store.audit(&entry).await.unwrap();
        ids.push(key.id);
    }
    let found = store.key(&ids[0]).await.unwrap().expect("it is there");
    assert_eq!((found.name.as_deref(), found.sign_in), (Some("Ann"), true));
    assert_eq!(store.audit_log(None, None, 1).await.unwrap()[0].who(), format!("Ann ({})", owner.name));
    assert_eq!(store.delete_sign_ins(START).await.unwrap(), 0, "it ended then, and not before");
    assert_eq!(store.delete_sign_ins(Timestamp::from_millis(START.millis() + 1)).await.unwrap(), 1);
    assert!(store.key(&ids[0]).await.unwrap().is_none());
    assert!(store.key(&ids[1]).await.unwrap().is_some());
    let log = store.audit_log(None, None, 2).await.unwrap();
    assert_eq!(log[1].who(), format!("key:{}", ids[0]), "what was done is still known");
}
