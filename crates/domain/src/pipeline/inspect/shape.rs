//! What is known of an expression before there are rows.
#![allow(missing_docs, reason = "private to the loader")]

/// What is known of an expression.
#[derive(Clone, Copy, PartialEq)]
pub enum Shape {
    /// All of the row's values.
    Row,
    /// One of them.
    Text,
    /// The outputs of all earlier steps.
    Steps,
    /// The outputs of the one at that place.
    Step(usize),
    /// What came with the upload.
    Context,
    /// Whose the row is.
    Owner,
    /// The row's batch.
    Batch,
    /// The row's place in a bulk call.
    Item,
    /// JSON of which nothing is known but that nothing in it can be called.
    Data,
    /// A loop's own variable.
    Loop,
    /// Anything at all.
    Any,
}

impl Shape {
    /// What the members of such a thing are.
    pub fn member(self) -> Self {
        match self {
            Self::Row => Self::Text,
            Self::Text
            | Self::Data
            | Self::Context
            | Self::Owner
            | Self::Batch
            | Self::Item
            | Self::Steps
            | Self::Step(_) => Self::Data,
            Self::Loop | Self::Any => Self::Any,
        }
    }

    /// What is known of one or the other.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            _ if self == other => self,
            (Self::Text | Self::Data, Self::Text | Self::Data) => Self::Data,
            _ => Self::Any,
        }
    }
}
