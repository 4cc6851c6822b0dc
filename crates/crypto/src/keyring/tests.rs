use super::*;
use ring::rand::SystemRandom;

fn keyring(ids: &[(&str, u8)]) -> Keyring {
    Keyring::parse(&entries(ids)).unwrap()
}

/// Keys that begin with a byte of their own.
fn entries(ids: &[(&str, u8)]) -> String {
    let key = |first: u8| {
        let at = |at: usize| (at as u8).wrapping_mul(at as u8).wrapping_mul(5).wrapping_add(at as u8 ^ first);
        STANDARD.encode(std::array::from_fn::<u8, KEY_LEN, _>(at))
    };
    ids.iter().map(|(id, first)| format!("{id}:{}", key(*first))).collect::<Vec<_>>().join(",")
}

#[test]
fn the_first_seals_and_any_opens() {
    let random = SystemRandom::new();
    let sealed = keyring(&[("a", 1)]).seal_small("t", "r", "c", b"x", &random).unwrap();
    let both = keyring(&[("b", 2), ("a", 1)]);
    assert_eq!(both.open_small("t", "r", "c", &sealed).unwrap(), b"x");
    let again = both.seal_small("t", "r", "c", b"x", &random).unwrap();
    assert_eq!(Keyring::small_key_id(&again), Ok("b"));
    let new = keyring(&[("b", 2)]);
    assert_eq!(new.open_small("t", "r", "c", &again).unwrap(), b"x");
    assert_eq!(new.open_small("t", "r", "c", &sealed), Err(OpenError::UnknownKey("a".into())));
}

#[test]
fn a_key_of_before_epochs_opens_for_its_batch() {
    let (ring, batch) = (keyring(&[("a", 1)]), Uuid::from_u128(5));
    let mut bytes = Vec::new();
    let nonce = aead::nonce(&SystemRandom::new()).unwrap();
    aead::seal_into(&ring.entries[0].wrap, nonce, &wrap_ad(batch, "a"), &[7; KEY_LEN], &mut bytes).unwrap();
    let wrapped = WrappedKey { key_id: "a".into(), bytes };
    assert_eq!(ring.unwrap_earlier(batch, &wrapped).unwrap().secret(), &[7; KEY_LEN]);
    assert_eq!(ring.unwrap_earlier(Uuid::from_u128(6), &wrapped).unwrap_err(), OpenError::Rejected);
}

#[test]
fn faults_are_named_and_keys_never_shown() {
    let good = entries(&[("a", 1)]).split_off(2);
    for (keys, error) in [
        (String::new(), KeyringError::Empty),
        ("nokey".into(), KeyringError::Shape(1)),
        (format!("a:{good},b c:{good}"), KeyringError::Name(2)),
        ("a:short".into(), KeyringError::Key("a".into())),
        (format!("a:{good},a:{good}"), KeyringError::Duplicate("a".into())),
    ] {
        let found = Keyring::parse(&keys).unwrap_err();
        assert_eq!(found, error);
        assert!(!found.to_string().contains(&good));
    }
    assert_eq!(format!("{:?}", keyring(&[("a", 1), ("b", 2)])), r#"["a", "b"]"#);
}

const DRAWN: [u8; 16] = *b"\x8a\x01\xf7\x3c\x55\xde\x90\x1b\x62\xc4\x0f\xa8\x77\x2d\xe1\x49";

#[test]
fn a_key_that_nobody_drew_is_refused() {
    for key in [
        [0; KEY_LEN],
        [0xff; KEY_LEN],
        *b"01234567890123456789012345678901",
        *b"changemechangemechangemechangeme",
        std::array::from_fn(|at| at as u8),
        std::array::from_fn(|at| 200 - 3 * at as u8),
        // Four counters in turn.
        std::array::from_fn(|at| (at % 4 * 60 + at / 4) as u8),
        std::array::from_fn(|at| DRAWN[at % 16]),
        std::array::from_fn(|at| DRAWN[at.min(31 - at)]),
    ] {
        let found =
            Keyring::parse(&format!("{},k:{}", entries(&[("a", 1)]), STANDARD.encode(key))).unwrap_err();
        assert_eq!(found, KeyringError::NotRandom("k".into()));
    }
    for _ in 0..1000 {
        let entry = Keyring::new_entry("k", &SystemRandom::new()).unwrap();
        assert!(Keyring::parse(&entry).is_ok());
    }
}

#[test]
fn a_program_without_a_keyring_seals_and_opens_nothing() {
    let (none, one) = (Keyring::none(), keyring(&[("a", 1)]));
    let random = SystemRandom::new();
    assert_eq!((none.active_id(), none.ids().count()), ("", 0));
    assert_eq!(none.new_epoch(1, &random).unwrap_err(), OpenError::NoKey);
    assert_eq!(none.seal_small("t", "r", "c", b"x", &random).unwrap_err(), OpenError::NoKey);
    let sealed = one.seal_small("t", "r", "c", b"x", &random).unwrap();
    assert_eq!(none.open_small("t", "r", "c", &sealed), Err(OpenError::UnknownKey("a".into())));
    let current = CurrentKeyring::new(none);
    current.replace(Arc::new(one));
    assert_eq!(current.get().open_small("t", "r", "c", &sealed).unwrap(), b"x");
}

#[test]
fn small_secrets_belong_to_their_place() {
    let keyring = keyring(&[("a", 1)]);
    let sealed = keyring.seal_small("owners", "7", "secret", b"whsec", &SystemRandom::new()).unwrap();
    assert_eq!(keyring.open_small("owners", "7", "secret", &sealed).unwrap(), b"whsec");
    assert_eq!(keyring.open_small("owners", "8", "secret", &sealed), Err(OpenError::Rejected));
    assert_eq!(Keyring::small_key_id(&sealed).unwrap(), "a");
}

#[test]
fn fingerprints_depend_on_key_and_content_and_not_on_the_pieces() {
    let keyring = keyring(&[("a", 1), ("b", 2)]);
    let print = |id: &str, pieces: &[&[u8]]| {
        let mut fingerprint = keyring.fingerprint(id).unwrap();
        pieces.iter().for_each(|piece| fingerprint.update(piece));
        fingerprint.finish()
    };
    assert_eq!(print("a", &[b"abc"]), print("a", &[b"a", b"bc"]));
    assert_ne!(print("a", &[b"abc"]), print("b", &[b"abc"]));
    assert_ne!(print("a", &[b"abc"]), print("a", &[b"abd"]));
    assert!(keyring.fingerprint("c").is_none());
}
