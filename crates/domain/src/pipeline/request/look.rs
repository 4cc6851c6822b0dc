//! Where looks at the result of a step go.
#![allow(missing_docs, reason = "private to the loader")]

use super::TargetTemplate;
use super::load::Loader;
use crate::pipeline::call::Read;
use crate::pipeline::check::Source;
use crate::pipeline::definition::StepDefinition;
use crate::pipeline::names::Names;
use crate::pipeline::poll::PollDefinition;

/// Where looks of a step with `poll` go.
pub(in crate::pipeline) enum LookTarget {
    /// Where the request went.
    Request,
    /// Elsewhere.
    Own {
        target: TargetTemplate,
        /// Whether it reads the body of the request's answer.
        reads_body: bool,
    },
}

/// Where looks of a step with `poll` go; none when that is broken.
pub(in crate::pipeline) fn look_target(
    step: &StepDefinition,
    poll: &PollDefinition,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<LookTarget> {
    let mut loader = Loader { step, names, read, source, answer: true, reads_body: false };
    let target = match (&poll.path, &poll.url) {
        (None, None) => return Some(LookTarget::Request),
        (Some(path), None) => TargetTemplate::Path(loader.path(path)?),
        (None, Some(url)) => TargetTemplate::Url(loader.url(url)?),
        (Some(_), Some(url)) => {
            loader.wrong(
                url.referenced.line(),
                "`path` and `url` both say where looks go; remove one of the two",
            );
            return None;
        }
    };
    Some(LookTarget::Own { target, reads_body: loader.reads_body })
}
