//! The disk, where this machine keeps something itself.

use std::path::Path;

use penstock_flow::operate::health::Findings;
use url::Url;

use crate::open::Opened;

/// Less free disk than this is worth a word.
const LITTLE_DISK: u64 = 1024 * 1024 * 1024;

/// Where this machine keeps something itself.
pub(super) fn disk(opened: &Opened, findings: &mut Findings) {
    let settings = &opened.settings;
    let file = settings.database_url.as_deref().and_then(|url| url.strip_prefix("sqlite://"));
    let files = settings.object_store_url.as_deref().and_then(|url| Url::parse(url).ok());
    let folder = files.filter(|url| url.scheme() == "file").and_then(|url| url.to_file_path().ok());
    let places = [("disk (rows)", file.map(Path::new)), ("disk (files)", folder.as_deref())];
    for (what, place) in places.into_iter().filter_map(|(what, place)| Some((what, place?))) {
        // The file may not be there yet; its folder is.
        let there = place.ancestors().find(|path| path.exists()).unwrap_or(place);
        match fs4::available_space(there) {
            Err(error) => findings.fail(what, format!("{}: {error}", place.display())),
            Ok(free) if free < LITTLE_DISK => findings
                .warn(what, format!("{} MiB are free at {}: make room", free / 1024 / 1024, place.display())),
            Ok(free) => {
                findings.ok(what, format!("{} GiB are free", free / 1024 / 1024 / 1024));
            }
        }
    }
}
