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
    /// Where else somebody can sign in.
    pub provider: Option<Provider>,
    /// Whether somebody has just signed out who had signed in there.
    pub signed_out: bool,
}

/// An OpenID Connect provider.
#[derive(Clone, Debug)]
pub struct Provider {
    /// What it is called.
    pub name: String,
    /// Where signing in begins.
    pub href: String,
    /// Where somebody ends the session at the provider too, once they have signed out here.
    pub end: Option<String>,
}
