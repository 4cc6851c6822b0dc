//! A series of keys, each of which seals for a time. What lies under an older one can be opened until that one is dropped.

use ring::rand::SecureRandom;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::OpenError;
use crate::aead::KEY_LEN;
use crate::data_key::{Ad, DataKey};

/// A key's number, when it begins, its bytes.
const KEY_BYTES: usize = 4 + 8 + KEY_LEN;

/// Keys, the oldest first.
#[derive(Debug, Default)]
pub struct KeySeries {
    keys: Vec<SeriesKey>,
}

#[derive(Debug)]
struct SeriesKey {
    id: u32,
    /// From when on it seals, in milliseconds since 1970.
    since: i64,
    key: DataKey,
}

impl KeySeries {
    /// Reads [`KeySeries::to_bytes`].
    ///
    /// # Errors
    /// When that is something else.
    pub fn read(bytes: Vec<u8>) -> Result<Self, OpenError> {
        let bytes = Zeroizing::new(bytes);
        let (keys, rest) = bytes.as_chunks::<KEY_BYTES>();
        if !rest.is_empty() {
            return Err(OpenError::Malformed);
        }
        let key = |bytes: &[u8; KEY_BYTES]| {
            let (id, rest) = bytes.split_first_chunk().ok_or(OpenError::Malformed)?;
            let (since, secret) = rest.split_first_chunk().ok_or(OpenError::Malformed)?;
            let (id, since) = (u32::from_be_bytes(*id), i64::from_be_bytes(*since));
            Ok(SeriesKey { id, since, key: DataKey::of(secret)? })
        };
        Ok(Self { keys: keys.iter().map(key).collect::<Result<_, OpenError>>()? })
    }

    /// All of its keys, in the clear: to be sealed.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.keys.len() * KEY_BYTES));
        for SeriesKey { id, since, key } in &self.keys {
            bytes.extend_from_slice(&id.to_be_bytes());
            bytes.extend_from_slice(&since.to_be_bytes());
            bytes.extend_from_slice(key.secret());
        }
        bytes
    }

    /// When its newest key begins, in milliseconds since 1970; none: it has no key.
    pub fn newest_since(&self) -> Option<i64> {
        self.keys.last().map(|key| key.since)
    }

    /// Adds a key that seals from then on, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn begin(&mut self, since: i64, random: &dyn SecureRandom) -> Result<(), OpenError> {
        let id = self.keys.last().map_or(0, |key| key.id.wrapping_add(1));
        self.keys.push(SeriesKey { id, since, key: DataKey::generate(random)? });
        Ok(())
    }

    /// Drops keys that have sealed nothing since then: what lies under them cannot be opened any more.
    pub fn drop_before(&mut self, since: i64) {
        let kept = self.keys.windows(2).position(|pair| pair[1].since >= since);
        let dropped = kept.unwrap_or(self.keys.len().saturating_sub(1));
        self.keys.drain(..dropped);
    }

    /// Seals a value for its place under the key of that time; none: there is no key.
    pub fn seal(&self, now: i64, table: &str, column: &str, plain: &[u8]) -> Option<Vec<u8>> {
        let of_now = self.keys.iter().rev().find(|key| key.since <= now);
        let SeriesKey { id, key, .. } = of_now.or(self.keys.first())?;
        let mut sealed = id.to_be_bytes().to_vec();
        key.seal_into(Ad { table, batch: Uuid::nil(), row: *id, column }, plain, &mut sealed);
        Some(sealed)
    }

    /// Opens [`KeySeries::seal`].
    ///
    /// # Errors
    /// When its key was dropped, it was sealed for another place, or changed since.
    pub fn open(&self, table: &str, column: &str, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (id, sealed) = sealed.split_first_chunk().ok_or(OpenError::Malformed)?;
        let id = u32::from_be_bytes(*id);
        let found = self.keys.iter().find(|key| key.id == id);
        let SeriesKey { key, .. } = found.ok_or(OpenError::Rejected)?;
        key.open(Ad { table, batch: Uuid::nil(), row: id, column }, sealed)
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;

    #[test]
    fn each_key_seals_in_its_time_and_opens_until_it_is_dropped() {
        let mut series = KeySeries::default();
        assert!(series.seal(0, "t", "c", b"x").is_none());
        series.begin(100, &SystemRandom::new()).unwrap();
        let first = series.seal(50, "t", "c", b"one").unwrap();
        series.begin(200, &SystemRandom::new()).unwrap();
        let again = series.seal(199, "t", "c", b"two").unwrap();
        let second = series.seal(200, "t", "c", b"three").unwrap();
        assert_eq!(first[..4], again[..4], "a key that begins later is known before it is used");
        assert_ne!(first[..4], second[..4]);
        let mut read = KeySeries::read(series.to_bytes().to_vec()).unwrap();
        for (sealed, plain) in [(&first, "one"), (&again, "two"), (&second, "three")] {
            assert_eq!(read.open("t", "c", sealed).unwrap(), plain.as_bytes());
            assert!(read.open("t", "d", sealed).is_err(), "it is of its place");
        }
        read.drop_before(200);
        assert!(read.open("t", "c", &first).is_ok(), "it was the present one at that time");
        read.drop_before(201);
        assert!(read.open("t", "c", &first).is_err() && read.open("t", "c", &second).is_ok());
        read.drop_before(i64::MAX);
        assert_eq!(read.newest_since(), Some(200), "the newest one stays");
        assert!(KeySeries::read(b"something else".to_vec()).is_err());
    }
}
