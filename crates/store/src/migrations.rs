//! The files under `migrations`, as they were when this was built.

/// A migration.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its file's name without `.sql`: a number, an underscore, and words.
    pub name: &'static str,
    /// What it does.
    pub sql: &'static str,
}

impl File {
    /// Its number and its words.
    ///
    /// # Panics
    /// When the file's name has another form.
    pub fn version(&self) -> (i64, String) {
        let parts = self.name.split_once('_').and_then(|(number, words)| Some((number.parse().ok()?, words)));
        let (version, words) = parts.unwrap_or_else(|| panic!("{} is no name of a migration", self.name));
        (version, words.replace('_', " "))
    }
}

include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_has_the_same_migrations_without_a_gap() {
        let versions = |files: &[File]| files.iter().map(File::version).collect::<Vec<_>>();
        assert_eq!(versions(SQLITE), versions(POSTGRES));
        assert_eq!(SQLITE[0].version(), (1, "penstock".to_owned()));
        for (place, (version, _)) in versions(SQLITE).into_iter().enumerate() {
            assert_eq!(usize::try_from(version).ok(), Some(place + 1));
        }
    }
}
