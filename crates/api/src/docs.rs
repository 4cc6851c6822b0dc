//! Swagger UI at `/docs/`, out of the archive in which it is published: most of it is sent as it is compressed there.
//!
//! The crate `utoipa-swagger-ui` unpacks that archive while it is built, and the unpacker and what it needs are a fifteenth of
//! all that a newcomer's first build compiles.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::LazyLock;

use actix_web::HttpResponse;
use flate2::read::DeflateDecoder;
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;

use crate::shared_answer::Shared;

/// What the page shows, instead of the pet shop that the archive's own file of that name shows.
const INITIALIZER: &str = r##"window.onload = () => {
  window.ui = SwaggerUIBundle({
    url: "/docs/openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
    plugins: [SwaggerUIBundle.plugins.DownloadUrl],
    layout: "StandaloneLayout"
  });
};
"##;

/// The head of a gzip member (RFC 1952, 2.3): deflate, no name, no time, any system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// `/docs`: its files are named relative to `/docs/`.
pub async fn redirect() -> HttpResponse {
    HttpResponse::TemporaryRedirect().insert_header(("location", "/docs/")).finish()
}

/// A file of the pages, by its name behind `/docs/`; none when there is no such file.
///
/// # Errors
/// When it cannot be unpacked, which is a fault of the archive.
pub fn page(name: &str) -> std::io::Result<Option<Shared>> {
    static FILES: LazyLock<HashMap<&str, File<'static>>> = LazyLock::new(|| files(SWAGGER_UI_VENDORED));
    let name = if name.is_empty() { "index.html" } else { name };
    if name == "swagger-initializer.js" {
        return Ok(Some(Shared::new(content_type(name), INITIALIZER)));
    }
    let Some(file) = FILES.get(name) else { return Ok(None) };
    if !file.deflated {
        return Ok(Some(Shared::new(content_type(name), file.bytes)));
    }
    Ok(Some(Shared::compressed(content_type(name), file.inflated()?, file.gzip())))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

/// A file of a ZIP archive.
struct File<'a> {
    deflated: bool,
    bytes: &'a [u8],
    crc: [u8; 4],
    size: [u8; 4],
}

impl File<'_> {
    fn gzip(&self) -> Vec<u8> {
        [&GZIP_HEAD, self.bytes, &self.crc, &self.size].concat()
    }

    fn inflated(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(u32::from_le_bytes(self.size) as usize);
        DeflateDecoder::new(self.bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// The files of an archive's folder `dist`, by name (APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16).
fn files(archive: &[u8]) -> HashMap<&str, File<'_>> {
    const DIRECTORY_END: &[u8] = b"PK\x05\x06";
    let mut files = HashMap::new();
    let end = archive.windows(4).rposition(|four| four == DIRECTORY_END);
    let Some(mut at) = end.and_then(|end| number(archive, end + 16, 4)) else { return files };
    while let Some((name, file, next)) = entry(archive, at) {
        if let Some(name) = name.split_once("/dist/").map(|(_, name)| name).filter(|name| !name.is_empty()) {
            files.entry(name).or_insert(file);
        }
        at = next;
    }
    files
}

/// An entry of the directory, what it is of, and where the next one is.
fn entry(archive: &[u8], at: usize) -> Option<(&str, File<'_>, usize)> {
    const ENTRY: &[u8] = b"PK\x01\x02";
    (archive.get(at..at + 4)? == ENTRY).then_some(())?;
    let [name, extra, comment] = [28, 30, 32].map(|place| number(archive, at + place, 2));
    let (name_end, data_length) = (at + 46 + name?, number(archive, at + 20, 4)?);
    let local = number(archive, at + 42, 4)?;
    let data = local + 30 + number(archive, local + 26, 2)? + number(archive, local + 28, 2)?;
    let file = File {
        deflated: number(archive, at + 10, 2)? == 8,
        bytes: archive.get(data..data + data_length)?,
        crc: archive.get(at + 16..at + 20)?.try_into().ok()?,
        size: archive.get(at + 24..at + 28)?.try_into().ok()?,
    };
    Some((std::str::from_utf8(archive.get(at + 46..name_end)?).ok()?, file, name_end + extra? + comment?))
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn every_file_that_the_page_loads_is_there_and_whole() {
        let files = files(SWAGGER_UI_VENDORED);
        let index = String::from_utf8(files["index.html"].inflated().unwrap()).unwrap();
        assert!(index.contains("swagger-ui-bundle.js"), "{index}");
        for name in ["swagger-ui.css", "index.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js"]
        {
            assert!(index.contains(name), "{name}: {index}");
            let file = &files[name];
            // gzip's own check of length and content.
            let mut read = Vec::new();
            GzDecoder::new(file.gzip().as_slice()).read_to_end(&mut read).unwrap();
            assert_eq!(read, file.inflated().unwrap());
            assert!(!read.is_empty(), "{name}");
        }
        assert!(index.contains("swagger-initializer.js") && !files["favicon-32x32.png"].deflated);
        assert!(files.len() < 20, "{:?}", files.keys());
    }

    #[test]
    fn what_is_no_archive_has_no_files() {
        for bytes in [&b""[..], b"PK\x05\x06", b"PK\x05\x06aaaaaaaaaaaa\xff\xff\xff\xffzz", &[0; 100]] {
            assert!(files(bytes).is_empty());
        }
    }
}
