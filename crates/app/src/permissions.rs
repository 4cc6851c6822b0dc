//! Who else on this machine can change what Penstock works with: whoever changes the database, a definition or the keys
//! changes what is called for whom.

use std::path::Path;

use crate::StartError;

/// Who may not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Neither this user's groups nor others: data and keys.
    GroupAndOthers,
    /// Others. Folders of a project may belong to a group.
    Others,
}

/// Refuses a file or folder that another user can change: itself, through a link, or by replacing a folder above it. What does
/// not exist yet is looked at as the folder in which it will be made. A file system that is mounted read-only is nobody's to
/// change: Kubernetes mounts definitions and secrets so, with any modes.
///
/// # Errors
/// A sentence with the fix.
#[cfg(unix)]
pub fn refuse_if_written(path: &Path, writers: Writers) -> Result<(), StartError> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    /// A folder in which everybody replaces only what is his own.
    const STICKY: u32 = 0o1000;
    const OTHERS: u32 = 0o002;
    let mask = match writers {
        Writers::GroupAndOthers => 0o022,
        Writers::Others => OTHERS,
    };
    let cannot = |error: std::io::Error| StartError::new(format!("cannot use {}: {error}", path.display()));
    let named = std::path::absolute(path).map_err(cannot)?;
    let Some(existing) = named.ancestors().find(|path| path.symlink_metadata().is_ok()) else {
        return Ok(());
    };
    let real = existing.canonicalize().map_err(cannot)?;
    let meta = real.metadata().map_err(cannot)?;
    let itself = existing == named;
    let me = rustix::process::geteuid().as_raw();
    if itself && me != 0 && meta.uid() != 0 && meta.uid() != me && !is_read_only(&real) {
        return Err(StartError::new(format!(
            "{} belongs to another user, who can change what lies in it: use one of your own",
            real.display()
        )));
    }
    let mode = meta.permissions().mode();
    if itself && mode & mask != 0 && !is_read_only(&real) {
        return Err(others_write(&real, "go-w"));
    }
    // The folders above the path as it was given, where a link can be replaced, and above what it leads to.
    let link = existing.parent().and_then(|parent| parent.canonicalize().ok());
    let above =
        real.ancestors().skip(usize::from(itself)).chain(link.iter().flat_map(|link| link.ancestors()));
    for folder in above {
        let mode = folder.metadata().map_err(cannot)?.permissions().mode();
        if mode & OTHERS != 0 && mode & STICKY == 0 && !is_read_only(folder) {
            return Err(others_write(folder, "o-w"));
        }
    }
    Ok(())
}

/// Other systems have no such modes.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn refuse_if_written(_path: &Path, _writers: Writers) -> Result<(), StartError> {
    Ok(())
}

#[cfg(unix)]
fn others_write(path: &Path, change: &str) -> StartError {
    StartError::new(format!(
        "others can write {}: whoever changes it changes what is called for whom; run `chmod {change} {0}`",
        path.display()
    ))
}

#[cfg(unix)]
fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path)
        .is_ok_and(|system| system.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refused(path: &Path) -> String {
        let found = refuse_if_written(path, Writers::GroupAndOthers);
        found.map_err(|error| error.to_string()).unwrap_err()
    }

    #[test]
    fn what_others_can_change_is_refused_in_every_variant() {
        let place = tempfile::tempdir().unwrap();
        let outer = place.path().canonicalize().unwrap().join("outer");
        let folder = outer.join("data");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("keys");
        std::fs::write(&file, "").unwrap();
        set_mode(&file, 0o600);
        let link = outer.join("link");
        symlink(&folder, &link).unwrap();
        for path in [&folder, &file, &link, &folder.join("to/be/made")] {
            refuse_if_written(path, Writers::GroupAndOthers).unwrap();
        }
        // A folder itself, and by a link.
        set_mode(&folder, 0o777);
        for path in [&folder, &link, &file, &folder.join("to/be/made")] {
            assert!(refused(path).contains(&format!("others can write {}", folder.display())), "{path:?}");
        }
        set_mode(&folder, 0o770);
        assert!(refused(&link).contains("chmod go-w"));
        refuse_if_written(&folder, Writers::Others).expect("a project's group may write");
        set_mode(&folder, 0o755);
        // A file.
        set_mode(&file, 0o666);
        assert!(refused(&file).contains("keys"));
        set_mode(&file, 0o644);
        refuse_if_written(&file, Writers::GroupAndOthers).expect("others may read where that is allowed");
        // A folder above, in which the folder can be replaced.
        set_mode(&outer, 0o777);
        for path in [&folder, &file, &link] {
            assert!(refused(path).contains(&format!("others can write {}", outer.display())), "{path:?}");
        }
        set_mode(&outer, 0o1777);
        refuse_if_written(&folder, Writers::GroupAndOthers).expect("as in /tmp");
        // A folder that holds the link, and not what it leads to.
        set_mode(&outer, 0o755);
        let open = place.path().canonicalize().unwrap().join("open");
        std::fs::create_dir(&open).unwrap();
        set_mode(&open, 0o777);
        symlink(&folder, open.join("link")).unwrap();
        assert!(refused(&open.join("link")).contains("open"));
    }
}
