//! The frame of every page.

use penstock_domain::time::Timestamp;

use crate::assets;

/// The entries of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nav {
    /// Batches, one of them, its rows.
    Batches,
    /// The upload.
    Upload,
    /// Pipelines, and one of them.
    Pipelines,
    /// Limits, for admin keys.
    Limits,
    /// Operations, for admin keys.
    Operations,
    /// None of them.
    None,
}

/// An entry as it is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Which page it leads to.
    pub nav: Nav,
    /// Its text.
    pub label: &'static str,
    /// Its address.
    pub href: &'static str,
}

const ENTRIES: [Entry; 5] = [
    Entry { nav: Nav::Batches, label: "Batches", href: "/console/batches" },
    Entry { nav: Nav::Upload, label: "Upload", href: "/console/upload" },
    Entry { nav: Nav::Pipelines, label: "Pipelines", href: "/console/pipelines" },
    Entry { nav: Nav::Limits, label: "Limits", href: "/console/limits" },
    Entry { nav: Nav::Operations, label: "Operations", href: "/console/operations" },
];

/// Who looks at a page.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// The owner's name.
    pub owner: String,
    /// Whether the key is an admin's.
    pub admin: bool,
    /// Whether it may see what is the operator's: an admin key for all pipelines.
    pub operates: bool,
    /// Whether the key may upload.
    pub uploads: bool,
    /// What every form carries.
    pub csrf: String,
}

/// What the frame of a page needs.
#[derive(Clone, Debug)]
pub struct Page {
    /// The page's title, which is also its heading.
    pub title: String,
    /// Where it belongs in the navigation.
    pub nav: Nav,
    /// Who looks; none before somebody has signed in.
    pub viewer: Option<Viewer>,
    /// What was just done, in a sentence.
    pub done: Option<String>,
    /// Now: times are shown relative to it.
    pub now: Timestamp,
}

impl Page {
    /// A page for somebody.
    pub fn new(title: impl Into<String>, nav: Nav, viewer: Option<Viewer>, now: Timestamp) -> Self {
        Self { title: title.into(), nav, viewer, done: None, now }
    }

    /// The entries that are for the viewer.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let operates = self.viewer.as_ref().is_some_and(|viewer| viewer.operates);
        let (shown, uploads) = (self.viewer.is_some(), self.uploads());
        ENTRIES.into_iter().filter(move |entry| match entry.nav {
            Nav::Limits | Nav::Operations => operates,
            Nav::Upload => uploads,
            _ => shown,
        })
    }

    /// Whether the viewer may upload.
    pub fn uploads(&self) -> bool {
        self.viewer.as_ref().is_some_and(|viewer| viewer.uploads)
    }

    /// The token of its forms.
    pub fn csrf(&self) -> &str {
        self.viewer.as_ref().map_or("", |viewer| &viewer.csrf)
    }

    /// The style sheet's address.
    pub fn style(&self) -> String {
        assets::style().url()
    }

    /// The module's address.
    pub fn module(&self) -> String {
        assets::module().url()
    }

    /// The icon's address.
    pub fn icon(&self) -> String {
        assets::icon().url()
    }
}
