//! The OpenID Connect provider that the console's tests sign in at: `oauth2-mock-server` of the npm registry, which Debian's Node
//! runs.

use std::path::PathBuf;

use crate::browser::fetch_package;
use crate::deploy::folder;
use crate::packages::{install_missing, on_path};

/// The packages by name, with SHA-512 as the registry states it. These need no others.
const PACKAGES: [(&str, &str, &str); 3] = [
    (
        "oauth2-mock-server",
        "https://registry.npmjs.org/oauth2-mock-server/-/oauth2-mock-server-9.3.0.tgz",
        "9ea7638807c34965962ab2e10fb0d20a0354917df9cf6fa1d6844712035d66a1701d70cd669f7c45527b0ace39bb718fa656dacd3786a01b0ef123dfbf918e23",
    ),
    (
        "jose",
        "https://registry.npmjs.org/jose/-/jose-6.2.12.tgz",
        "f4d88598911ec74b32d83939f23d94181487814b36ca917d7994aee0beaf8ce5f70e9f7a4b0d45dee2fe1fe0f5b31d368d965dcd44f41e0bc2cb9f42baf5dc5b",
    ),
    (
        "basic-auth",
        "https://registry.npmjs.org/basic-auth/-/basic-auth-3.0.0.tgz",
        "07add42ac489d9ab60892b8226fcc08e97c074563a9984f70b4bd91652d5ffcd51c36fd50ace93a76f54ce4a4a113077a80d9c1f0b94d4b8c19e1510d1690f2b",
    ),
];

/// Where the provider's modules lie once they were fetched.
///
/// # Errors
/// When Node cannot be installed, or a package cannot be fetched or is not what it was.
pub fn modules_path() -> Result<PathBuf, String> {
    if !on_path("node") {
        install_missing(&["nodejs"])?;
    }
    let folder = folder()?.join("oauth2-mock-server-9.3.0");
    for (name, url, sum) in PACKAGES {
        let home = folder.join("node_modules").join(name);
        if home.is_dir() {
            continue;
        }
        let fetched = folder.join(name);
        std::fs::create_dir_all(&fetched).map_err(|error| format!("{}: {error}", fetched.display()))?;
        fetch_package(url, sum, &fetched, "package")?;
        let modules = folder.join("node_modules");
        std::fs::create_dir_all(&modules).map_err(|error| format!("{}: {error}", modules.display()))?;
        std::fs::rename(fetched.join("package"), &home)
            .map_err(|error| format!("{}: {error}", home.display()))?;
    }
    Ok(folder)
}
