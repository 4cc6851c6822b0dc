//! What goes through the queue.

use penstock_domain::ids::{BatchSeq, RowRef};
use serde::{Deserialize, Serialize};

use crate::Lane;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A file waits for its extraction.
    #[serde(rename = "x")]
    Extract {
        /// Whose.
        #[serde(rename = "b")]
        batch: BatchSeq,
    },
    /// Rows were released.
    #[serde(rename = "r")]
    Rows(Packet),
    /// Rows of which a worker died: they run alone.
    #[serde(rename = "s")]
    Suspects(Suspects),
}

impl Message {
    /// The lane that it goes through.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Extract { .. } => Lane::Extractions,
            Self::Rows(packet) => Lane::Rows(packet.pipeline.clone()),
            Self::Suspects(_) => Lane::Suspects,
        }
    }

    /// The rows that it is about; a file has none yet.
    pub fn rows(&self) -> Vec<RowRef> {
        match self {
            Self::Extract { .. } => Vec::new(),
            Self::Rows(packet) => packet.iter().map(|(row, _)| row).collect(),
            Self::Suspects(suspects) => suspects.iter().map(|(row, _)| row).collect(),
        }
    }
}

/// Rows of any pipelines, each with the number of workers that died while they held it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspects {
    /// Batch, number, deaths.
    #[serde(rename = "r")]
    rows: Vec<(i64, u32, u16)>,
}

impl Suspects {
    /// The rows, each with its deaths.
    pub fn iter(&self) -> impl Iterator<Item = (RowRef, u16)> {
        self.rows
            .iter()
            .map(|(batch, number, deaths)| (RowRef { batch: BatchSeq(*batch), number: *number }, *deaths))
    }
}

impl FromIterator<(RowRef, u16)> for Suspects {
    fn from_iter<T: IntoIterator<Item = (RowRef, u16)>>(rows: T) -> Self {
        Self { rows: rows.into_iter().map(|(row, deaths)| (row.batch.0, row.number, deaths)).collect() }
    }
}

/// Rows of one pipeline, in the order of their start times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// The pipeline.
    #[serde(rename = "p")]
    pipeline: String,
    /// Milliseconds since the epoch, to which delays are added.
    #[serde(rename = "t")]
    base: i64,
    /// Batch, number, delay in milliseconds.
    #[serde(rename = "r")]
    rows: Vec<(i64, u32, u32)>,
}

impl Packet {
    /// An empty packet.
    pub fn new(pipeline: &str, base_ms: i64) -> Self {
        Self { pipeline: pipeline.to_owned(), base: base_ms, rows: Vec::new() }
    }

    /// The pipeline of its rows.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Adds a row that may start this many milliseconds after the packet's base.
    pub fn push(&mut self, row: RowRef, delay_ms: u32) {
        self.rows.push((row.batch.0, row.number, delay_ms));
    }

    /// When it was made, in milliseconds since the epoch: delays are added to it.
    pub fn base_ms(&self) -> i64 {
        self.base
    }

    /// The rows, each with the time at which it may start, in milliseconds since the epoch.
    pub fn iter(&self) -> impl Iterator<Item = (RowRef, i64)> {
        self.rows.iter().map(|(batch, number, delay)| {
            (RowRef { batch: BatchSeq(*batch), number: *number }, self.base + i64::from(*delay))
        })
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_small_and_comes_back() {
        let mut packet = Packet::new("invite", 1_800_000_000_000);
        for number in 1..=200 {
            packet.push(RowRef { batch: BatchSeq(7), number }, number * 10);
        }
        let message = Message::Rows(packet);
        let text = serde_json::to_string(&message).unwrap();
        assert!(text.len() < 200 * 16, "{} bytes", text.len());
        assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message);
    }
}
