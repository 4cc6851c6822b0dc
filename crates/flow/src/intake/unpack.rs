//! Files that are compressed with gzip, unpacked as they come, with bounds against files that unpack to far more than any table.

use std::io::Write as _;

use flate2::write::GzDecoder;

/// Bytes that are unpacked at a time: deflate makes at most 1,032 of each, so that a step takes half a mebibyte of memory at most.
const STEP: usize = 256;

/// What any file may unpack to, however small it is.
const FREE_BYTES: u64 = 32 * 1024 * 1024;

/// Beyond that, how many times its own size: tables of one repeated line stay below it.
const MOST_RATIO: u64 = 250;

/// The first bytes of a gzip file (RFC 1952, section 2.3.1).
const MAGIC: [u8; 2] = [0x1F, 0x8B];

/// Why a compressed file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It is cut or changed.
    #[error("the compressed file is cut or damaged: compress it again, or upload it as it is")]
    Broken,
    /// It unpacks to too much.
    #[error("the compressed file unpacks to more than {MOST_RATIO} times its size: upload it as it is")]
    Bomb,
}

impl UnpackError {
    /// Its code in the list of a file's errors.
    pub fn code(self) -> &'static str {
        match self {
            Self::Broken => "broken_gzip",
            Self::Bomb => "gzip_ratio",
        }
    }
}

/// Unpacks one layer of gzip. What is not compressed is passed on as it is.
pub struct Unpack(State);

enum State {
    /// The first byte was gzip's first, or none came yet.
    Beginning {
        first: bool,
    },
    Plain,
    Gzip(Box<Gzip>),
}

/// The plain bytes of a step.
#[derive(Debug)]
pub enum Plain<'a> {
    /// They are those that came.
    Same(&'a [u8]),
    /// They were unpacked.
    Unpacked(Vec<u8>),
}

impl Unpack {
    /// Whether what came is compressed.
    pub fn is_packed(&self) -> bool {
        matches!(self.0, State::Gzip(_))
    }
}

impl Plain<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Same(bytes) => bytes,
            Self::Unpacked(bytes) => bytes,
        }
    }
}

impl Default for Unpack {
    /// At the start of a file, whose first bytes tell whether it is compressed.
    fn default() -> Self {
        Self(State::Beginning { first: false })
    }
}

impl Unpack {
    /// At the start of what is compressed for certain.
    pub fn gzip() -> Self {
        Self(State::Gzip(Box::default()))
    }

    /// The plain bytes of the first of these bytes, which are taken off; call it until none are left.
    ///
    /// # Errors
    /// When they cannot be unpacked.
    pub fn step<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Plain<'a>, UnpackError> {
        if let State::Beginning { first } = &mut self.0 {
            let seen = std::mem::take(first);
            let held: &[u8] = if seen { &MAGIC[..1] } else { &[] };
            match (seen, &bytes[..]) {
                (false, &[]) => return Ok(Plain::Same(&[])),
                (false, &[one]) if one == MAGIC[0] => {
                    *first = true;
                    *bytes = &[];
                    return Ok(Plain::Same(&[]));
                }
                (false, &[one, two, ..]) if [one, two] == MAGIC => self.0 = State::Gzip(Box::default()),
                (true, &[two, ..]) if two == MAGIC[1] => {
                    self.0 = State::Gzip(Box::default());
                    return self.unpack(held).map(Plain::Unpacked);
                }
                (true, &[]) => {
                    *first = true;
                    return Ok(Plain::Same(&[]));
                }
                (true, _) => {
                    self.0 = State::Plain;
                    return Ok(Plain::Unpacked(held.to_vec()));
                }
                (false, _) => self.0 = State::Plain,
            }
        }
        let whole = *bytes;
        let step = if matches!(self.0, State::Gzip(_)) { whole.len().min(STEP) } else { whole.len() };
        *bytes = &whole[step..];
        match self.0 {
            State::Gzip(_) => self.unpack(&whole[..step]).map(Plain::Unpacked),
            State::Beginning { .. } | State::Plain => Ok(Plain::Same(whole)),
        }
    }

    fn unpack(&mut self, packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
        match &mut self.0 {
            State::Gzip(gzip) => gzip.unpack(packed),
            State::Beginning { .. } | State::Plain => Ok(packed.to_vec()),
        }
    }

    /// The file is at its end: its last plain bytes.
    ///
    /// # Errors
    /// When it was cut.
    pub fn finish(&mut self) -> Result<Vec<u8>, UnpackError> {
        match &mut self.0 {
            State::Beginning { first: true } => Ok(MAGIC[..1].to_vec()),
            State::Beginning { first: false } | State::Plain => Ok(Vec::new()),
            State::Gzip(gzip) => gzip.finish(),
        }
    }
}

struct Gzip {
    decoder: GzDecoder<Vec<u8>>,
    between: Between,
    packed: u64,
    unpacked: u64,
}

/// Where the next byte stands. A file may be several compressed ones after another, and zeros may fill its last block, as tapes and tar have it.
#[derive(Clone, Copy, PartialEq)]
enum Between {
    /// In a compressed file.
    No,
    /// After one.
    Ended,
    /// After zeros that follow one: no other may come.
    Padding,
}

impl Default for Gzip {
    fn default() -> Self {
        Self { decoder: GzDecoder::new(Vec::new()), between: Between::No, packed: 0, unpacked: 0 }
    }
}

impl Gzip {
    fn unpack(&mut self, packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
        self.packed += packed.len() as u64;
        let (mut rest, mut plain) = (packed, Vec::new());
        while !rest.is_empty() {
            if self.between != Between::No {
                let zeros = rest.iter().take_while(|byte| **byte == 0).count();
                if zeros > 0 {
                    self.between = Between::Padding;
                }
                rest = &rest[zeros..];
                match (rest, self.between) {
                    ([], _) => break,
                    (_, Between::Padding) => return Err(UnpackError::Broken),
                    _ => {}
                }
                plain.extend(self.given()?);
                self.decoder = GzDecoder::new(Vec::new());
                self.between = Between::No;
            }
            match self.decoder.write(rest).map_err(|_| UnpackError::Broken)? {
                0 => {
                    self.decoder.try_finish().map_err(|_| UnpackError::Broken)?;
                    self.between = Between::Ended;
                }
                taken => rest = &rest[taken..],
            }
        }
        let last = self.given()?;
        if plain.is_empty() {
            return Ok(last);
        }
        plain.extend(last);
        Ok(plain)
    }

    fn finish(&mut self) -> Result<Vec<u8>, UnpackError> {
        if self.between == Between::No {
            self.decoder.try_finish().map_err(|_| UnpackError::Broken)?;
        }
        self.given()
    }

    fn given(&mut self) -> Result<Vec<u8>, UnpackError> {
        let plain = std::mem::take(self.decoder.get_mut());
        self.unpacked += plain.len() as u64;
        if self.unpacked > FREE_BYTES.max(self.packed.saturating_mul(MOST_RATIO)) {
            return Err(UnpackError::Bomb);
        }
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(file: &[u8], pieces: usize) -> Result<Vec<u8>, UnpackError> {
        let (mut unpack, mut plain) = (Unpack::default(), Vec::new());
        for mut piece in file.chunks(pieces) {
            while !piece.is_empty() {
                let step = unpack.step(&mut piece)?;
                // What the step before had begun may end with this one.
                assert!(step.bytes().len() <= 2 * STEP * 1032 || matches!(step, Plain::Same(_)));
                plain.extend_from_slice(step.bytes());
            }
        }
        plain.extend(unpack.finish()?);
        Ok(plain)
    }

    #[test]
    fn what_is_compressed_is_unpacked_and_everything_else_is_as_it_is() {
        let text = "a,b\n1,2\n".repeat(5000);
        let two = [packed(b"a,b\n"), packed(b"1,2\n")].concat();
        for pieces in [1, 2, 3, 1000, 1 << 20] {
            assert_eq!(unpacked(&packed(text.as_bytes()), pieces).unwrap(), text.as_bytes());
            assert_eq!(unpacked(&two, pieces).unwrap(), b"a,b\n1,2\n", "files one after the other");
            let padded = [two.as_slice(), &[0; 3000]].concat();
            assert_eq!(unpacked(&padded, pieces).unwrap(), b"a,b\n1,2\n", "zeros up to the end of a block");
            for plain in [&b""[..], b"a", b"\x1F", b"\x1Fab", b"\x1Ea", b"a\x1F\x8B"] {
                assert_eq!(unpacked(plain, pieces).unwrap(), plain);
            }
        }
    }

    #[test]
    fn what_is_cut_or_changed_is_refused() {
        let whole = packed(&b"a,b\n1,2\n".repeat(500));
        for end in [3, 10, whole.len() / 2, whole.len() - 1] {
            assert_eq!(unpacked(&whole[..end], 7), Err(UnpackError::Broken), "{end}");
        }
        let mut changed = whole.clone();
        let last = changed.len() - 6;
        changed[last] ^= 1;
        assert_eq!(unpacked(&changed, 1000), Err(UnpackError::Broken));
        for more in [&b"and more"[..], b"\0and more", b"\0\x1F\x8B"] {
            for pieces in [1, 1000] {
                assert_eq!(
                    unpacked(&[whole.as_slice(), more].concat(), pieces),
                    Err(UnpackError::Broken),
                    "{more:?}"
                );
            }
        }
        assert_eq!(unpacked(&[&whole[..whole.len() - 5], &[0; 64]].concat(), 1000), Err(UnpackError::Broken));
    }

    #[test]
    fn what_unpacks_to_far_more_than_it_is_ends_early() {
        let zeros = vec![b'0'; usize::try_from(2 * FREE_BYTES).unwrap()];
        // As small as it gets: about a thousandth.
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&zeros).unwrap();
        assert!(unpacked(&encoder.finish().unwrap(), 4096) == Err(UnpackError::Bomb), "it was unpacked");
    }
}
