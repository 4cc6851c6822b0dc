//! Sealed streams that can be opened from any chunk on: STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: *Online
//! Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance*, 2015), as age and Tink use it.
//!
//! Header: 8 bytes of magic, 7 bytes of random prefix, 1 byte zero. Then chunks of 64 KiB of plaintext, each with its
//! tag. A chunk's nonce is prefix, number (32 bits) and whether it is the last: chunks cannot be moved, dropped or cut
//! off unnoticed. The last chunk may be short, and is empty only in an empty stream.

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use ring::rand::SecureRandom;
use uuid::Uuid;

use crate::OpenError;
use crate::aead::TAG_LEN;
use crate::data_key::DataKey;

const MAGIC: &[u8; 8] = b"PNSTOCK1";
const PREFIX_LEN: usize = 7;

/// Bytes of plaintext in a chunk.
const CHUNK: usize = 64 * 1024;

/// Bytes of a full chunk, sealed.
const SEALED_CHUNK: usize = CHUNK + TAG_LEN;

/// Where things lie in a sealed stream.
pub struct StreamLayout;

/// The chunk that holds an offset of the plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPosition {
    /// Its number, from 0.
    pub chunk: u32,
    /// Where it begins in the sealed stream.
    pub sealed_offset: u64,
    /// Plain bytes of it that lie before the offset.
    pub skip: usize,
}

impl StreamLayout {
    /// Bytes before the first chunk.
    pub const HEADER_LEN: usize = MAGIC.len() + PREFIX_LEN + 1;

    /// The chunk from which a stream is opened to read on from an offset. An offset between two chunks belongs to the
    /// first of them: it may be the end of the stream, and only the last chunk shows that nothing was cut off after it.
    pub fn locate(plain_offset: u64) -> ChunkPosition {
        let chunk = (plain_offset.saturating_sub(1) / CHUNK as u64).min(u64::from(u32::MAX));
        ChunkPosition {
            chunk: u32::try_from(chunk).unwrap_or(u32::MAX),
            sealed_offset: Self::HEADER_LEN as u64 + chunk * SEALED_CHUNK as u64,
            skip: usize::try_from(plain_offset - chunk * CHUNK as u64).unwrap_or(usize::MAX),
        }
    }

    /// Bytes of a sealed stream of this many plain ones.
    pub fn sealed_len(plain: u64) -> u64 {
        let chunks = plain.div_ceil(CHUNK as u64).max(1);
        Self::HEADER_LEN as u64 + plain + chunks * TAG_LEN as u64
    }
}

fn nonce(prefix: &[u8; PREFIX_LEN], chunk: u32, last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..PREFIX_LEN].copy_from_slice(prefix);
    nonce[PREFIX_LEN..NONCE_LEN - 1].copy_from_slice(&chunk.to_be_bytes());
    nonce[NONCE_LEN - 1] = u8::from(last);
    Nonce::assume_unique_for_key(nonce)
}

fn ad(batch: Uuid) -> [u8; 21] {
    let mut ad = *b"file/................";
    ad[5..].copy_from_slice(batch.as_bytes());
    ad
}

/// Seals a stream as it comes.
pub struct StreamSealer {
    cipher: LessSafeKey,
    ad: [u8; 21],
    prefix: [u8; PREFIX_LEN],
    chunk: u32,
    buffer: Vec<u8>,
}

impl StreamSealer {
    /// Begins a stream; the second part is its header, which goes first.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new(
        key: &DataKey,
        batch: Uuid,
        random: &dyn SecureRandom,
    ) -> Result<(Self, [u8; StreamLayout::HEADER_LEN]), OpenError> {
        let mut prefix = [0; PREFIX_LEN];
        random.fill(&mut prefix).map_err(|_| OpenError::NoRandomness)?;
        let mut header = [0; StreamLayout::HEADER_LEN];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        header[MAGIC.len()..MAGIC.len() + PREFIX_LEN].copy_from_slice(&prefix);
        let sealer = Self { cipher: key.file_cipher(), ad: ad(batch), prefix, chunk: 0, buffer: Vec::new() };
        Ok((sealer, header))
    }

    /// Takes plain bytes and appends the chunks that became full. A full chunk waits for the next byte: it may be
    /// the last.
    pub fn push(&mut self, mut plain: &[u8], out: &mut Vec<u8>) {
        while !plain.is_empty() {
            if self.buffer.len() == CHUNK {
                self.seal(false, out);
            }
            let room = (CHUNK - self.buffer.len()).min(plain.len());
            self.buffer.extend_from_slice(&plain[..room]);
            plain = &plain[room..];
        }
    }

    /// Appends the last chunk.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.seal(true, out);
    }

    fn seal(&mut self, last: bool, out: &mut Vec<u8>) {
        let nonce = nonce(&self.prefix, self.chunk, last);
        // Another number would repeat a nonce. Every limit on uploads is far below 256 TiB.
        self.chunk = self.chunk.checked_add(1).expect("a stream has less than 2^32 chunks");
        let tag = self.cipher.seal_in_place_separate_tag(nonce, Aad::from(self.ad), &mut self.buffer);
        let tag = tag.expect("GCM seals 64 KiB");
        out.extend_from_slice(&self.buffer);
        out.extend_from_slice(tag.as_ref());
        self.buffer.clear();
    }
}

/// Opens a stream from any chunk on.
pub struct StreamOpener {
    cipher: LessSafeKey,
    ad: [u8; 21],
    prefix: [u8; PREFIX_LEN],
    chunk: u32,
    buffer: Vec<u8>,
}

impl StreamOpener {
    /// Reads a stream's header.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(key: &DataKey, batch: Uuid, header: &[u8]) -> Result<Self, OpenError> {
        if header.len() != StreamLayout::HEADER_LEN || &header[..MAGIC.len()] != MAGIC {
            return Err(OpenError::Malformed);
        }
        let mut prefix = [0; PREFIX_LEN];
        prefix.copy_from_slice(&header[MAGIC.len()..MAGIC.len() + PREFIX_LEN]);
        Ok(Self { cipher: key.file_cipher(), ad: ad(batch), prefix, chunk: 0, buffer: Vec::new() })
    }

    /// The next bytes are those of chunk `number`, not of the first one.
    pub fn at_chunk(&mut self, number: u32) {
        self.chunk = number;
        self.buffer.clear();
    }

    /// Takes sealed bytes and appends what can be opened.
    ///
    /// # Errors
    /// When a chunk was changed, moved or belongs to another stream; nothing of it is appended.
    pub fn push(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        while !sealed.is_empty() {
            if self.buffer.len() == SEALED_CHUNK {
                self.open(false, out)?;
            }
            let room = (SEALED_CHUNK - self.buffer.len()).min(sealed.len());
            self.buffer.extend_from_slice(&sealed[..room]);
            sealed = &sealed[room..];
        }
        Ok(())
    }

    /// The stream is at its end: appends the last chunk.
    ///
    /// # Errors
    /// When what came last was not sealed as the last chunk: the stream was cut.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), OpenError> {
        if self.buffer.len() < TAG_LEN {
            return Err(OpenError::Truncated);
        }
        self.open(true, out)
    }

    fn open(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), OpenError> {
        let nonce = nonce(&self.prefix, self.chunk, last);
        let failure = if last { OpenError::Truncated } else { OpenError::Rejected };
        let plain =
            self.cipher.open_in_place(nonce, Aad::from(self.ad), &mut self.buffer).map_err(|_| failure)?;
        out.extend_from_slice(plain);
        self.chunk += 1;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ring::rand::SystemRandom;

    const BATCH: Uuid = Uuid::from_u128(3);

    fn key() -> DataKey {
        DataKey::new([7; 32])
    }

    fn seal(plain: &[u8], pieces: usize) -> Vec<u8> {
        let (mut sealer, header) = StreamSealer::new(&key(), BATCH, &SystemRandom::new()).unwrap();
        let mut out = header.to_vec();
        plain.chunks(pieces.max(1)).for_each(|piece| sealer.push(piece, &mut out));
        sealer.finish(&mut out);
        out
    }

    fn open_from(sealed: &[u8], offset: u64, pieces: usize) -> Result<Vec<u8>, OpenError> {
        let mut opener = StreamOpener::new(&key(), BATCH, &sealed[..StreamLayout::HEADER_LEN])?;
        let place = StreamLayout::locate(offset);
        opener.at_chunk(place.chunk);
        let mut out = Vec::new();
        for piece in sealed[usize::try_from(place.sealed_offset).unwrap().min(sealed.len())..].chunks(pieces)
        {
            opener.push(piece, &mut out)?;
        }
        opener.finish(&mut out)?;
        Ok(out[place.skip..].to_vec())
    }

    fn plain(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn every_length_around_a_chunk_comes_back() {
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5] {
            let plain = plain(len);
            let sealed = seal(&plain, 1000);
            assert_eq!(sealed.len() as u64, StreamLayout::sealed_len(len as u64), "{len}");
            assert_eq!(open_from(&sealed, 0, 777).unwrap(), plain, "{len}");
        }
    }

    #[test]
    fn a_stream_that_was_cut_moved_or_changed_does_not_open() {
        let sealed = seal(&plain(3 * CHUNK), 4096);
        let at = |chunk: usize| StreamLayout::HEADER_LEN + chunk * SEALED_CHUNK;
        assert_eq!(open_from(&sealed[..at(2)], 0, 4096), Err(OpenError::Truncated));
        assert_eq!(open_from(&sealed[..at(0)], 0, 4096), Err(OpenError::Truncated));
        assert!(open_from(&sealed[..sealed.len() - 1], 0, 4096).is_err());
        let mut longer = sealed.clone();
        longer.push(0);
        assert!(open_from(&longer, 0, 4096).is_err());
        let mut swapped = sealed.clone();
        swapped.copy_within(at(1)..at(2), at(0));
        assert_eq!(open_from(&swapped, 0, 4096), Err(OpenError::Rejected));
        for byte in [10, at(0) + 5, at(2) + 70_000 - CHUNK, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[byte] ^= 1;
            assert!(open_from(&changed, 0, 4096).is_err(), "byte {byte}");
        }
        let mut other = StreamOpener::new(&key(), Uuid::from_u128(4), &sealed[..16]).unwrap();
        assert!(other.push(&sealed[16..], &mut Vec::new()).is_err());
    }

    #[test]
    fn it_opens_from_offsets_between_chunks_and_at_the_end() {
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK] {
            let plain = plain(len);
            let sealed = seal(&plain, 4096);
            for offset in [0, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, len].into_iter().filter(|at| *at <= len)
            {
                let opened = open_from(&sealed, offset as u64, 777);
                assert_eq!(opened.as_deref(), Ok(&plain[offset..]), "{offset} of {len}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn it_opens_from_any_offset(len in 0_usize..4 * CHUNK, share in 0.0_f64..=1.0, pieces in 1_usize..100_000) {
            let plain = plain(len);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let offset = (len as f64 * share) as usize;
            let sealed = seal(&plain, pieces);
            prop_assert_eq!(open_from(&sealed, offset as u64, pieces).unwrap(), &plain[offset..]);
        }
    }
}
