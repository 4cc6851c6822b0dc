//! What operators' pages show, looked at once for everybody who has such a page open.

use std::sync::Arc;

use bytes::Bytes;
use penstock_flow::context::last_answer::LastAnswer;

/// The event that shows a page anew, or why there is none.
pub(crate) type Shown = Result<Bytes, String>;

/// The pages as they were shown last. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct OperatorPages(Arc<Pages>);

#[derive(Default)]
struct Pages {
    limits: LastAnswer<Shown>,
    operations: LastAnswer<Shown>,
}

impl OperatorPages {
    /// The page of limits.
    pub fn limits(&self) -> &LastAnswer<Shown> {
        &self.0.limits
    }

    /// The page of operations.
    pub fn operations(&self) -> &LastAnswer<Shown> {
        &self.0.operations
    }
}
