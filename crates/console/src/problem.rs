//! What is shown when something cannot be.

use askama::Template;

use crate::layout::Page;

/// The page.
#[derive(Template)]
#[template(path = "problem.html")]
pub struct ProblemPage {
    /// Its frame.
    pub page: Page,
    /// What is wrong, in a sentence.
    pub detail: String,
    /// The kind of problem, for who reports it.
    pub code: String,
}
