//! The request of a step, from the row's values and the outputs of earlier steps.

use penstock_domain::outcome::{code, sentence};
use penstock_domain::pipeline::{Dependency, RenderedRequest, RowValues, Step, Target};
use penstock_store::work::Settled;

use crate::worker::progress::Progress;
use crate::worker::row::problem::Problem;
use crate::worker::row::task::{RowTask, StepAt};

impl RowTask<'_> {
    /// Whether the step is not called for this row: then it is done, with the outputs of its `otherwise`.
    ///
    /// # Errors
    /// How the row fails when its values do not say.
    pub(super) fn skipped(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        progress: &mut Progress,
    ) -> Result<bool, Box<Settled>> {
        match at.step.skipped(&self.context(row, progress)) {
            Ok(None) => Ok(false),
            Ok(Some(outputs)) => {
                self.finish_step(at, outputs, progress);
                Ok(true)
            }
            Err(error) => {
                let problem = Problem::new(code::TEMPLATE_ERROR, error.to_string());
                Err(Box::new(self.failed(at, problem, progress)))
            }
        }
    }

    /// The step's request.
    ///
    /// # Errors
    /// How the row fails when its values make no request.
    pub(super) fn render(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        progress: &mut Progress,
    ) -> Result<RenderedRequest, Box<Settled>> {
        let context = self.context(row, progress);
        match at.step.request(&context) {
            Ok(request) => match forbidden(at.step, &request.target, self.dependency(at)) {
                None => Ok(request),
                Some((code, message)) => {
                    Err(Box::new(self.failed(at, Problem::new(code, message), progress)))
                }
            },
            Err(error) => Err(Box::new(self.failed(
                at,
                Problem::new(code::TEMPLATE_ERROR, error.to_string()),
                progress,
            ))),
        }
    }
}

/// Why nobody may be called there: a code and a message. The URL itself is an answer's, and is not shown.
pub(super) fn forbidden(
    step: &Step,
    target: &Target,
    dependency: &Dependency,
) -> Option<(&'static str, String)> {
    let why = match target {
        Target::Path(_) | Target::AtOrigin(_) => return None,
        Target::Url(url) if dependency.admits(url) => return None,
        Target::Url(_) => "its scheme, host or port is another one",
        Target::Forbidden(why) => why,
    };
    let sentence = sentence(code::FORBIDDEN_URL);
    Some((code::FORBIDDEN_URL, format!("step `{}`, url: {sentence}: {why}", step.name)))
}
