//! What pages load: embedded, and named by what is in it, so that a browser may keep it for a year.

use std::sync::LazyLock;

use ring::digest::{SHA256, digest};

/// A file that pages load.
#[derive(Debug)]
pub struct Asset {
    /// The name by which pages ask for it: with a fingerprint of its bytes.
    pub file: String,
    /// Its content type.
    pub content_type: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}

/// Where assets are, with a slash at the end.
pub const FOLDER: &str = "/console/assets/";

static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("console", "css", "text/css; charset=utf-8", include_bytes!("../assets/console.css"))
});
static MODULE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("console", "js", "text/javascript; charset=utf-8", include_bytes!("../assets/console.js"))
});
static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_bytes!("../assets/icon.svg")));

impl Asset {
    fn new(name: &str, ending: &str, content_type: &'static str, bytes: &'static [u8]) -> Self {
        let print: String =
            digest(&SHA256, bytes).as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { file: format!("{name}-{print}.{ending}"), content_type, bytes }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("{FOLDER}{}", self.file)
    }
}

/// The style sheet.
pub fn style() -> &'static Asset {
    &STYLE
}

/// The ES module.
pub fn module() -> &'static Asset {
    &MODULE
}

/// The icon.
pub fn icon() -> &'static Asset {
    &ICON
}

/// All of them.
pub fn all() -> [&'static Asset; 3] {
    [style(), module(), icon()]
}
