//! COPY in its binary format (PostgreSQL manual, COPY, "Binary Format"): rows of `row_data`.

use penstock_store::extraction::NewRow;

/// The signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Bytes that are sent at a time.
pub const PIECE: usize = 256 * 1024;

/// Begins a stream.
pub fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(HEADER);
}

/// Appends a row: batch, number, line, payload.
pub fn row(batch: i64, row: &NewRow, out: &mut Vec<u8>) {
    out.extend_from_slice(&4_i16.to_be_bytes());
    field(&batch.to_be_bytes(), out);
    field(&row.number.to_be_bytes(), out);
    field(&row.line.to_be_bytes(), out);
    field(&row.payload, out);
}

/// Ends a stream.
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i16).to_be_bytes());
}

fn field(bytes: &[u8], out: &mut Vec<u8>) {
    // A record has at most some MiB, far below the format's 2 GiB.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}
