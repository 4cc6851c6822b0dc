//! The request of a step, from the row's values and the outputs of earlier steps.

use penstock_domain::outcome::code;
use penstock_domain::pipeline::{RenderedRequest, RowContext, RowValues};
use penstock_store::work::Settled;

use crate::worker::progress::Progress;
use crate::worker::row::problem::Problem;
use crate::worker::row::task::{RowTask, StepAt};

impl RowTask<'_> {
    /// The step's request.
    ///
    /// # Errors
    /// How the row fails when its values make no request.
    pub(super) fn render(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        progress: &mut Progress,
    ) -> Result<RenderedRequest, Settled> {
        let context = RowContext { values: row, steps: &progress.outputs };
        let rendered = at.step.request(&context);
        rendered
            .map_err(|error| self.failed(at, Problem::new(code::TEMPLATE_ERROR, error.to_string()), progress))
    }
}
