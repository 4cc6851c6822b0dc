//! Settings of Penstock itself, which definitions may not read.

/// Variables by which Penstock itself is set up. Some hold its own secrets, so `${NAME}` reads none of them.
const OWN_PREFIXES: [&str; 6] =
    ["PENSTOCK_", "DATABASE_URL", "REDIS_URL", "OBJECT_STORE_URL", "OTEL_", "PGSSL"];

/// What the clients of object stores read, by the schemes of their URLs: Penstock's own where its object store is of that kind, which
/// only the program knows.
const OBJECT_STORE_PREFIXES: [(&str, &str); 4] =
    [("s3", "AWS_"), ("s3a", "AWS_"), ("gs", "GOOGLE_"), ("az", "AZURE_")];

/// Variables that the client of PostgreSQL reads.
const OWN_NAMES: [&str; 7] =
    ["PGPASSWORD", "PGPASSFILE", "PGUSER", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE"];

/// Whether a variable sets Penstock itself up, so that a definition reads it only where the operator listed it.
pub fn is_own_setting(name: &str) -> bool {
    // Some clients read their settings in any case.
    let name = name.to_ascii_uppercase();
    OWN_NAMES.contains(&name.as_str()) || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a variable sets Penstock itself up where the URL of its object store has a scheme; without one, where it has any.
pub fn is_object_store_setting(name: &str, scheme: Option<&str>) -> bool {
    let name = name.to_ascii_uppercase();
    OBJECT_STORE_PREFIXES
        .iter()
        .any(|(of, prefix)| scheme.is_none_or(|scheme| scheme == *of) && name.starts_with(prefix))
}

/// Why a variable has no value, and what to do.
pub fn why_missing(name: &str) -> String {
    if let Some(path) = name.strip_prefix(super::FILE) {
        format!(
            "the file `{path}` cannot be read; create it, let Penstock read it, or take ${{{name}}} out (a path that is not \
             absolute begins at the definition's folder)"
        )
    } else if is_own_setting(name) {
        format!(
            "${{{name}}} is a setting of Penstock itself, which definitions do not read; take it out, or list {name} in \
             PENSTOCK_PIPELINE_VARIABLES if it is meant"
        )
    } else if is_object_store_setting(name, None) {
        format!(
            "the environment has no variable {name}, or it is a setting of Penstock itself, whose object store reads it; set it, \
             or list {name} in PENSTOCK_PIPELINE_VARIABLES if it is meant"
        )
    } else {
        format!("the environment has no variable {name}; set it, or take ${{{name}}} out")
    }
}
