//! Short tokens: a few bytes and a tag (HMAC-SHA256, cut to 80 bits), as letters and digits that begin with a letter. No
//! spreadsheet takes such a cell for a number, a date or a formula. Who holds one can read what it says and change none of it.

use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use ring::hmac;

use crate::aead::{self, KEY_LEN};

/// Bytes of a tag. It can only be guessed by asking, and what is asked is answered by an upload.
const TAG: usize = 10;

/// What a token begins with: a letter, whatever follows.
const FIRST: char = 'r';

/// Writes and reads short tokens of one purpose, for one owner.
pub struct ShortTokens {
    key: hmac::Key,
    owner: Vec<u8>,
}

impl ShortTokens {
    /// Under a secret that outlives the keyring's keys. A token of another purpose or owner is none of theirs.
    pub fn new(secret: &[u8; KEY_LEN], purpose: &str, owner: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &aead::derive(secret, purpose));
        Self { key, owner: owner.as_bytes().to_vec() }
    }

    /// A token that says this. The same each time.
    pub fn write(&self, payload: &[u8]) -> String {
        let mut bytes = payload.to_vec();
        bytes.extend_from_slice(&self.tag(payload));
        let mut token = String::from(FIRST);
        BASE32.encode_append(&bytes, &mut token);
        token
    }

    /// What a token says; none when it was not written here, or was changed.
    pub fn read(&self, token: &str) -> Option<Vec<u8>> {
        let mut bytes =
            BASE32.decode(token.strip_prefix([FIRST, FIRST.to_ascii_uppercase()])?.as_bytes()).ok()?;
        let tag = bytes.split_off(bytes.len().checked_sub(TAG)?);
        // Nobody learns a tag by how long this takes: a guess is an upload.
        (self.tag(&bytes) == tag.as_slice()).then_some(bytes)
    }

    fn tag(&self, payload: &[u8]) -> [u8; TAG] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(self.owner.len() as u64).to_be_bytes());
        context.update(&self.owner);
        context.update(payload);
        let whole = context.sign();
        let mut tag = [0; TAG];
        tag.copy_from_slice(&whole.as_ref()[..TAG]);
        tag
    }
}

impl std::fmt::Debug for ShortTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShortTokens").finish_non_exhaustive()
    }
}

/// RFC 4648's base32 in lower case, without padding; read in either case.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.translate.from.push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    specification.translate.to.push_str("abcdefghijklmnopqrstuvwxyz");
    specification.encoding().expect("32 different symbols")
});

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(secret: u8, purpose: &str, owner: &str) -> ShortTokens {
        ShortTokens::new(&[secret; KEY_LEN], purpose, owner)
    }

    #[test]
    fn what_was_written_is_read_by_who_wrote_it() {
        let own = tokens(1, "row-reference", "acme");
        for payload in [&b""[..], b"\0", b"seven", &[255; 40]] {
            let token = own.write(payload);
            assert!(
                token.starts_with('r') && token.bytes().all(|byte| byte.is_ascii_alphanumeric()),
                "{token}"
            );
            assert_eq!(own.read(&token).as_deref(), Some(payload));
            assert_eq!(own.read(&token.to_uppercase()).as_deref(), Some(payload));
            assert_eq!(own.write(payload), token);
            for other in [
                tokens(2, "row-reference", "acme"),
                tokens(1, "else", "acme"),
                tokens(1, "row-reference", "rival"),
            ] {
                assert_eq!(other.read(&token), None);
            }
        }
    }

    #[test]
    fn what_was_changed_is_none() {
        let own = tokens(1, "row-reference", "acme");
        let token = own.write(b"seven");
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'q' { b'p' } else { b'q' };
            assert_eq!(own.read(std::str::from_utf8(&changed).unwrap()), None, "{at}");
        }
        for text in
            ["", "r", "7", "=1+1", "raaaa", &token[1..], &token[..token.len() - 1], &format!("{token}a")]
        {
            assert_eq!(own.read(text), None, "{text}");
        }
    }
}
