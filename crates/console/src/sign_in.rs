//! The form to sign in with.

use askama::Template;

use crate::layout::Page;

/// The page.
#[derive(Template)]
#[template(path = "sign-in.html")]
pub struct SignIn {
    /// Its frame.
    pub page: Page,
    /// What the form carries against forged ones.
    pub csrf: String,
    /// Where to go afterwards.
    pub to: String,
    /// Why somebody could not sign in.
    pub refused: Option<String>,
}
