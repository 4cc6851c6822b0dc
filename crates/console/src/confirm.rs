//! What asks back before something is done that cannot be undone.

use askama::Template;
use askama::filters::Safe;
use penstock_domain::time::Timestamp;

use crate::layout::Page;
use crate::show::moment;

/// The page; with the module, its form is shown as a dialog.
#[derive(Template)]
#[template(path = "confirm.html")]
pub struct Confirm {
    /// Its frame.
    pub page: Page,
    /// What will happen, in a sentence.
    pub warning: String,
    /// What has to be typed in, where something has.
    pub typed: Option<String>,
    /// Whether something else was typed in.
    pub mistyped: bool,
    /// The address that does it.
    pub action: String,
    /// The button that does it.
    pub verb: &'static str,
    /// Where to go when it is not done.
    pub back: String,
}

/// A link that was made to be handed on, shown once.
#[derive(Template)]
#[template(path = "handed.html")]
pub struct Handed {
    /// Its frame.
    pub page: Page,
    /// The link.
    pub url: String,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// Where to go back to.
    pub back: String,
}

impl Handed {
    fn until(&self) -> Safe<String> {
        moment(self.expires_at, self.page.now)
    }
}
