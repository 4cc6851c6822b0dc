//! COPY in its binary format (PostgreSQL manual, COPY, "Binary Format"): rows of `row_data`.

use penstock_domain::ids::BatchSeq;
use penstock_store::extraction::NewRow;
use sqlx::PgConnection;

/// The signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Bytes that are sent at a time.
const PIECE: usize = 256 * 1024;

/// Stores a chunk of rows, in bounded pieces.
pub async fn rows(
    connection: &mut PgConnection,
    batch: BatchSeq,
    rows: &[NewRow],
) -> Result<(), sqlx::Error> {
    let mut sink = connection
        .copy_in_raw("COPY row_data (batch, number, line, payload) FROM STDIN WITH (FORMAT binary)")
        .await?;
    let mut piece = Vec::with_capacity(PIECE + 1024);
    piece.extend_from_slice(HEADER);
    for one in rows {
        row(batch.0, one, &mut piece);
        if piece.len() >= PIECE {
            sink.send(piece.as_slice()).await?;
            piece.clear();
        }
    }
    // The end.
    piece.extend_from_slice(&(-1_i16).to_be_bytes());
    sink.send(piece.as_slice()).await?;
    sink.finish().await?;
    Ok(())
}

/// Appends a row: batch, number, line, payload.
fn row(batch: i64, row: &NewRow, out: &mut Vec<u8>) {
    out.extend_from_slice(&4_i16.to_be_bytes());
    field(&batch.to_be_bytes(), out);
    field(&row.number.to_be_bytes(), out);
    field(&row.line.to_be_bytes(), out);
    field(&row.payload, out);
}

fn field(bytes: &[u8], out: &mut Vec<u8>) {
    // A record has at most some MiB, far below the format's 2 GiB.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}
