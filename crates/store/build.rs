//! Lists the migrations of each database as Rust: their names and their texts.
//!
//! sqlx's macro for it would build sqlx and SQLite a second time, for the machine that builds.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let migrations =
        Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../migrations");
    let mut code = String::new();
    for (database, name) in [("sqlite", "SQLITE"), ("postgres", "POSTGRES")] {
        let folder = migrations.join(database);
        println!("cargo::rerun-if-changed={}", folder.display());
        let mut files: Vec<PathBuf> =
            fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        files.retain(|file| file.extension().is_some_and(|ending| ending == "sql"));
        files.sort();
        let _ =
            writeln!(code, "/// The migrations of this database, in order.\npub const {name}: &[File] = &[");
        for file in files {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::canonicalize(&file)?;
            let _ = writeln!(code, "    File {{ name: {stem:?}, sql: include_str!({text:?}) }},");
        }
        code.push_str("];\n");
    }
    let out = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("migrations.rs"), code)
}
