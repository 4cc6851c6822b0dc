//! What tests of files share.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::sync::Arc;

use penstock_domain::csv::{
    ReferenceReader, Refused, Rejected, RowError, RowReference, Schema, Validated, Validator,
};

/// References without a tag: `r` and their bytes in hexadecimal digits.
#[derive(Debug)]
pub struct Untagged;

impl Untagged {
    pub fn write(reference: &RowReference) -> String {
        let digits: String = reference.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("r{digits}")
    }
}

impl ReferenceReader for Untagged {
    fn read(&self, text: &str) -> Option<RowReference> {
        let digits = text.strip_prefix('r')?;
        let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
        RowReference::from_bytes(&bytes?)
    }
}

/// The errors of a file: of one that passed a limit, that alone.
pub fn errors(refused: Refused) -> Vec<RowError> {
    match refused {
        Refused::Errors(rejected) => rejected.errors,
        Refused::Limit(rejected) => limit(rejected),
    }
}

/// All that is known of the errors of a file that is refused.
pub fn rejected(finished: Result<Validated, Refused>) -> Rejected {
    let (Refused::Errors(rejected) | Refused::Limit(rejected)) = finished.unwrap_err();
    rejected
}

/// The limit that was passed.
pub fn limit(rejected: Rejected) -> Vec<RowError> {
    rejected.errors.into_iter().take(1).collect()
}

/// A file that comes in pieces; its errors as `line column code`.
pub fn judge(schema: Schema, file: &[u8]) -> Result<Validated, Vec<String>> {
    let said =
        |error: RowError| format!("{} {} {}", error.line, error.column.unwrap_or_default(), error.code);
    let all = |errors: Vec<RowError>| errors.into_iter().map(said).collect();
    let mut validator = Validator::new(Arc::new(schema), Arc::new(Untagged));
    for piece in file.chunks(1021) {
        if let Err(passed) = validator.push(piece) {
            return Err(all(limit(validator.stopped(&passed))));
        }
    }
    validator.finish().map_err(|refused| all(errors(refused)))
}

/// The list of a refused file, and the rest of the refusal. What waits of the list is taken before the file is read on.
pub fn list(mut validator: Validator, file: &[u8], pieces: usize) -> (Vec<u8>, Rejected) {
    let mut listed = Vec::new();
    let mut take = |next: &mut dyn FnMut() -> Vec<u8>| {
        while let piece @ [_, ..] = next().as_slice() {
            listed.extend_from_slice(piece);
        }
    };
    for mut piece in file.chunks(pieces) {
        while !piece.is_empty() {
            match validator.push(piece) {
                Ok(taken) => piece = &piece[taken..],
                Err(limit) => {
                    let mut rejected = validator.stopped(&limit);
                    take(&mut || rejected.listing.next_piece());
                    return (listed, rejected);
                }
            }
            take(&mut || validator.next_piece());
        }
    }
    let mut rejected = rejected(validator.finish());
    take(&mut || rejected.listing.next_piece());
    (listed, rejected)
}
