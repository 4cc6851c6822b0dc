//! The word list: words that a reader would have to learn first do not come back, in code, in texts or in documentation.

use std::path::Path;

use crate::markdown::root;

/// A phrase, and what to write instead.
type Phrase = (&'static str, &'static str);

/// Nowhere.
const EVERYWHERE: [Phrase; 28] = [
    ("bell", "queue"),
    ("bells", "queues"),
    ("doorbell", "queue"),
    ("rung", "enqueued"),
    ("mend", "fix, hint"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("mending", "fixing"),
    ("dice", "Rng"),
    ("by lot", "at random"),
    ("at the most", "at most"),
    ("for ever", "permanently"),
    ("leave to call", "permit"),
    ("is no duration", "invalid duration"),
    ("is no share", "invalid share"),
    ("is no scope", "invalid scope"),
    ("is no header", "is not a header"),
    ("is no number", "is not a number, invalid number"),
    ("is no whole", "is not a whole"),
    ("is no regular", "is not a regular"),
    ("is no folder", "is not a folder"),
    ("given back", "requeued, released"),
    ("gives back", "requeues, releases, returns"),
    ("give-back", "requeue"),
    ("stands twice", "duplicate"),
    ("stand twice", "duplicate"),
    ("slow-down", "adaptive rate"),
    ("slow-downs", "adaptive rate"),
];

/// Not in what users and operators read: pages, chart, manifests.
const FOR_READERS: [Phrase; 15] = [
    ("rings", "enqueues"),
    ("engines", "services"),
    ("an engine", "a service"),
    ("the engine", "the service"),
    ("is away", "is unavailable"),
    ("are away", "are unavailable"),
    ("so long a time", "that time"),
    ("the books", "the counters"),
    ("bears not", "does not accept"),
    ("takes it not", "does not take it"),
    ("hears of", "receives"),
    ("for good", "permanently"),
    ("in vain", "without effect"),
    ("left alone", "not called, skipped"),
    ("bears", "accepts, allows"),
];

/// Files that are read: their folders, and their endings.
const FOLDERS: [&str; 9] =
    ["crates", "tests", "xtask", "fuzz", "docs", "charts", "k8s", "deploy", "pipelines"];
const ENDINGS: [&str; 10] = ["rs", "md", "yaml", "yml", "tpl", "txt", "toml", "json", "lua", "py"];

/// A file's words in lower case with their lines. Marks of comments and of wrapped lines are no words, so that a phrase is
/// found across the end of a line.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        let words = line.split(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_' | '\'')));
        let words = words.map(|word| word.trim_matches(['-', '\''])).filter(|word| !word.is_empty());
        found.extend(words.map(|word| (number + 1, word.to_owned())));
    }
    found
}

/// The phrases that a text has, with their lines.
fn phrases<'a>(text: &str, list: &'a [Phrase]) -> Vec<(usize, &'a Phrase)> {
    let words = words(text);
    let mut found = Vec::new();
    for phrase in list {
        let wanted: Vec<&str> = phrase.0.split(' ').collect();
        for part in words.windows(wanted.len()) {
            if part.iter().map(|(_, word)| word.as_str()).eq(wanted.iter().copied()) {
                found.push((part[0].0, phrase));
            }
        }
    }
    found
}

/// Every file that is read, by its path from the root.
fn files() -> Vec<String> {
    let mut files = Vec::new();
    let mut folders: Vec<_> = FOLDERS.iter().map(|name| root().join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            // Fixtures are of earlier releases, and this file is the list itself.
            if path.is_dir() && !["target", "fixtures", "corpus"].contains(&name) {
                folders.push(path);
            } else if has_ending(&path) && !path.ends_with("tests/docs/words.rs") {
                files.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files.extend(
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docker-compose.yml"]
            .map(str::to_owned),
    );
    files.sort();
    assert!(files.len() > 300, "{}", files.len());
    files
}

fn has_ending(path: &Path) -> bool {
    path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ENDINGS.contains(&ending))
}

#[test]
fn words_of_our_own_do_not_come_back() {
    let mut wrong = Vec::new();
    for file in files() {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        let mut found = phrases(&text, &EVERYWHERE);
        if !file.ends_with(".rs") && !file.ends_with(".toml") && !file.ends_with(".lua") {
            found.extend(phrases(&text, &FOR_READERS));
        }
        let wrongly = |(line, (phrase, instead)): (usize, &Phrase)| {
            format!("{file}:{line}: not `{phrase}`, but {instead}")
        };
        wrong.extend(found.into_iter().map(wrongly));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The list finds a word in a comment, in a string, in other letters, and across lines; and no part of another word.
#[test]
fn an_old_word_is_found() {
    let found = |text: &str| {
        phrases(text, &EVERYWHERE).into_iter().map(|(line, one)| (line, one.0)).collect::<Vec<_>>()
    };
    assert_eq!(found("// Says the mend."), [(1, "mend")]);
    assert_eq!(found("let x = 1;\nbail!(\"`{text}` is no duration\")"), [(2, "is no duration")]);
    assert_eq!(found("/// Kept for\n    /// ever."), [(1, "for ever")]);
    assert_eq!(found("For every row we recommend an amendment."), []);
}
