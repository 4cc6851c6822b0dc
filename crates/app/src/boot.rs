//! What every program does first.

use std::path::{Path, PathBuf};

use penstock_domain::alert::AlertRules;
use penstock_domain::pipeline::{Catalog, DefinitionError, Pipeline, utf8};
use penstock_flow::callbacks::address::check_hook;

use crate::permissions::{Writers, refuse_if_written};
use crate::{Role, StartError, Variables};

/// What `main` does before anything else: memory is bounded before there are threads, no dump shows what was in it, as many
/// files may be open as the system allows, and ring becomes the provider of TLS, without which clients of HTTP and S3 cannot be
/// built.
pub fn prepare() {
    penstock_memory::bound_arenas();
    forbid_dumps();
    keep_files_private();
    crate::surface::raise_open_files();
    // An error means that somebody installed one before, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// New files are their user's own, whatever folder they are made in.
fn keep_files_private() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// A core dump would put keys and rows into a file, and a debugger of the same user could read them: neither is allowed.
/// A system that refuses these calls is no reason not to start.
fn forbid_dumps() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        let _ = setrlimit(Resource::Core, none);
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Loads every `*.yaml` of a folder.
///
/// # Errors
/// All errors of all files, each with its file and line; names and routes that two of them share.
pub fn load_pipelines(folder: &Path, variables: &Variables) -> Result<Catalog, StartError> {
    let cannot = |error: std::io::Error| {
        StartError::new(format!(
            "cannot read the pipelines in {}: {error}; set PENSTOCK_PIPELINES to a folder of *.yaml files",
            folder.display()
        ))
    };
    refuse_if_written(folder, Writers::Others)?;
    let files = definitions_in(folder).map_err(cannot)?;
    let mut pipelines = Vec::new();
    let mut errors = Vec::new();
    for file in files {
        let name = file.display().to_string();
        refuse_if_written(&file, Writers::Others)?;
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) => {
                errors.push(format!("{name}: it cannot be read: {error}"));
                continue;
            }
        };
        let loaded = utf8(&name, &bytes).map_err(|error| vec![error]).and_then(|text| {
            Pipeline::load_with(&name, text, &|name| variables.lookup(name), variables.unset)
        });
        match loaded {
            Ok(pipeline) => pipelines.push(pipeline),
            Err(found) => errors.extend(found.iter().map(ToString::to_string)),
        }
    }
    if !errors.is_empty() {
        return Err(StartError::new(errors.join("\n")));
    }
    Catalog::new(pipelines).map_err(|errors| StartError::new(listed(&errors)))
}

/// The definitions of a folder, `*.yaml` and `*.yml`, by name.
///
/// # Errors
/// When the folder cannot be read.
pub fn definitions_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml"))
        .collect();
    files.sort();
    Ok(files)
}

fn listed(errors: &[DefinitionError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The alert rules that the settings name; none when they name none.
///
/// # Errors
/// When the file cannot be read, or has errors.
pub fn alert_rules(settings: &crate::Settings) -> Result<Option<AlertRules>, StartError> {
    let Some(file) = &settings.alerts else { return Ok(None) };
    let variables = Variables::of(settings, Role::Worker);
    let name = file.display().to_string();
    let bytes = std::fs::read(file)
        .map_err(|error| StartError::new(format!("PENSTOCK_ALERTS: cannot read {name}: {error}")))?;
    let rules = utf8(&name, &bytes)
        .map_err(|error| vec![error])
        .and_then(|text| AlertRules::load(&name, text, &|name| variables.lookup(name)))
        .map_err(|errors| StartError::new(listed(&errors)))?;
    for receiver in &rules.receivers {
        // The address itself stays out of the text: Slack's are secrets.
        check_hook(&receiver.url).map_err(|_| {
            let receiver = &receiver.name;
            StartError::new(format!(
                "{name}: the url of the receiver `{receiver}` is not one that can be delivered to: an http or https \
                 address, and no multicast, documentation or reserved range"
            ))
        })?;
    }
    Ok(Some(rules))
}

/// The pipelines that the settings name, as far as a program of that role needs them.
///
/// # Errors
/// When no folder is named, or a definition has errors.
pub fn pipelines_of(settings: &crate::Settings, role: Role) -> Result<Catalog, StartError> {
    let folder = settings
        .pipelines
        .as_deref()
        .ok_or_else(|| StartError::misuse("PENSTOCK_PIPELINES is not set: name a folder of *.yaml files."))?;
    let pipelines = load_pipelines(folder, &Variables::of(settings, role))?;
    for pipeline in pipelines.iter() {
        for dependency in pipeline.open_addresses() {
            tracing::warn!(
                pipeline = pipeline.name,
                dependency,
                "the address of this dependency has a variable without a value here: `waiting`, `eta` and the metrics of this process know nothing of its limits; set the variable if it is not secret"
            );
        }
    }
    Ok(pipelines)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

    #[test]
    fn new_files_are_their_users_own() {
        use std::os::unix::fs::PermissionsExt as _;
        super::keep_files_private();
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let file = folder.path().join("penstock.db");
        std::fs::write(&file, "").unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn definitions_that_others_can_change_are_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.yaml");
        std::fs::write(&file, "name: some\ncsv: { columns: [ { name: id } ] }\nsteps: []\n").unwrap();
        let variables = crate::Variables::none();
        let mode = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            super::load_pipelines(folder.path(), &variables).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(mode(folder.path(), 0o755), Ok(()));
        assert!(mode(folder.path(), 0o777).unwrap_err().contains("others can write"));
        assert_eq!(mode(folder.path(), 0o775), Ok(()), "a project's group");
        assert!(mode(&file, 0o666).unwrap_err().contains("some.yaml"));
    }

    #[test]
    fn nothing_of_the_memory_is_dumped() {
        super::forbid_dumps();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
    }
}
