//! The link by which whoever has it reads the errors of a refused upload.

use penstock_flow::intake::error_file::ErrorFile;

use crate::auth::Caller;
use crate::downloads::{self, url_of};
use crate::error_files::OF_UPLOAD;
use crate::problem::Problem;
use crate::state::ApiState;

/// The link to a refused upload's errors, which its answer has. None when it cannot be made: the answer is the same without it.
pub(crate) async fn url(caller: &Caller, state: &ApiState, list: ErrorFile) -> Option<String> {
    let url = async {
        let link = downloads::link(caller, state, list.id, OF_UPLOAD.into(), list.expires_at).await?;
        url_of(state, &link)
    };
    url.await.inspect_err(not_linked).ok()
}

fn not_linked(problem: &Problem) {
    tracing::warn!(reason = problem.detail, "the errors of a refused file are not linked");
}
