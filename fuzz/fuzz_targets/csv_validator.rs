//! `cargo fuzz run csv_validator`: no bytes make the validator panic, and no cut of them changes what it says.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use penstock_domain::csv::{Column, Limits, NoReferences, Refused, Schema, Validator};

fn outcome(bytes: &[u8], pieces: usize) -> String {
    let limits = Limits { max_field_chars: 64, max_record_bytes: 256, max_rows: 50 };
    let columns = vec![Column::named("a"), Column::named("b")];
    let mut validator = Validator::new(Arc::new(Schema { columns, ordered: false, limits }), Arc::new(NoReferences));
    for piece in bytes.chunks(pieces) {
        if let Err(limit) = validator.push(piece) {
            return validator.error_of(&limit).code.to_owned();
        }
    }
    match validator.finish() {
        Ok(validated) => format!("{} rows", validated.rows),
        Err(Refused::Errors(rejected)) => format!("{:?}", rejected.errors),
        Err(Refused::Limit(error)) => error.code.to_owned(),
    }
}

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(outcome(bytes, 1), outcome(bytes, 7));
});
