//! Commands that pages name: programs, subcommands and flags are those that the programs themselves tell of.

use std::collections::HashMap;
use std::process::Command;

use penstock_tests::program;

use crate::markdown::{blocks, pages, prose, read, spans};

/// Programs whose commands are looked at.
pub const PROGRAMS: [&str; 5] =
    ["penstock", "penstock-api", "penstock-worker", "penstock-dispatcher", "penstock-sandbox"];

/// What `--help` of a command says.
#[derive(Default)]
pub struct Help(HashMap<String, String>);

impl Help {
    pub fn of(&mut self, words: &[&str]) -> &str {
        self.0.entry(words.join(" ")).or_insert_with(|| {
            let said = Command::new(program(words[0])).args(&words[1..]).arg("--help").output().unwrap();
            assert!(said.status.success(), "{words:?} --help");
            String::from_utf8(said.stdout).unwrap()
        })
    }

    pub fn subcommands(&mut self, words: &[&str]) -> Vec<String> {
        let help = self.of(words);
        let listed =
            help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap_or_default();
        listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }

    /// What is wrong with a command line, if anything is.
    fn fault(&mut self, line: &str) -> Option<String> {
        let mut words = line.split_whitespace();
        let mut command = vec![words.next()?];
        let mut subcommands = self.subcommands(&command);
        let rest: Vec<&str> = words.collect();
        let mut rest = rest.as_slice();
        // Global flags may stand before the subcommand.
        while let Some((word, behind)) = rest.split_first() {
            if subcommands.is_empty() || word.starts_with('-') {
                break;
            }
            if !subcommands.iter().any(|known| known == word) {
                return Some(format!("`{}` has no `{word}`", command.join(" ")));
            }
            command.push(word);
            subcommands = self.subcommands(&command);
            rest = behind;
        }
        let help = self.of(&command).to_owned();
        for word in rest {
            let flag = word.split('=').next().unwrap_or_default();
            if flag.starts_with("--")
                && flag.len() > 2
                && !help.split([' ', ',', '\n']).any(|known| known == flag)
            {
                return Some(format!("`{}` has no `{flag}`", command.join(" ")));
            }
        }
        None
    }
}

/// The commands of ours in a line of a shell, or in a span.
fn commands(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in line.split(['|', ';', '&', '(', ')', '>', '<', '#']) {
        let words: Vec<&str> = part.split_whitespace().collect();
        for (index, word) in words.iter().enumerate() {
            let name = word.trim_start_matches("/usr/local/bin/");
            // Arguments of `cargo run -p penstock-cli --` and `cargo xtask run --` are the program's.
            let (name, start) = match (name, words.get(index + 1)) {
                ("run", Some(&"--")) if words[..index].ends_with(&["xtask"]) => ("penstock", index + 2),
                ("penstock-cli", Some(&"--")) => ("penstock", index + 2),
                _ => (name, index + 1),
            };
            // Behind a flag or a verb of another tool it is a name of something else.
            let foreign = index > 0
                && !word.starts_with("/usr/local/bin/")
                && start == index + 1
                && !["-", "--", "timeout"].contains(&words[index - 1]);
            if PROGRAMS.contains(&name) && !foreign {
                let arguments = words[start..].iter().take_while(|word| **word != "\\");
                let mut command = vec![name.to_owned()];
                command.extend(
                    arguments.map(|word| word.trim_matches(['"', '\'', '[', ']', '…', ',']).to_owned()),
                );
                command.retain(|word| !word.is_empty());
                found.push(command.join(" "));
                break;
            }
        }
    }
    found
}

#[test]
fn commands_that_pages_name_exist() {
    let mut help = Help::default();
    let mut looked_at = 0;
    for page in pages() {
        let text = read(&page);
        let mut lines: Vec<(usize, String)> = Vec::new();
        for (line, text) in prose(&text) {
            lines.extend(spans(text).into_iter().map(|span| (line, span.to_owned())));
        }
        for block in blocks(&page).into_iter().filter(|block| block.language == "sh") {
            lines.extend(
                block.text.lines().enumerate().map(|(number, text)| (block.line + number, text.to_owned())),
            );
        }
        for (line, text) in lines {
            for command in commands(&text) {
                // Places for something else are written in capitals; they are no subcommands.
                if let Some(fault) = help.fault(&command) {
                    panic!("{page}:{line}: {fault}: {command}");
                }
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 60, "{looked_at}");
}

#[test]
fn tasks_that_pages_name_exist() {
    let source = read("xtask/src/main.rs");
    let mut named = 0;
    for page in pages() {
        for rest in read(&page).split("cargo xtask ").skip(1) {
            let task: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            // "`cargo xtask …`" and the like name none.
            if !task.is_empty() {
                assert!(source.contains(&format!("\"{task}\" =>")), "{page}: cargo xtask {task}");
                named += 1;
            }
        }
    }
    assert!(named > 10, "{named}");
}

/// The judge of the two tests above finds what is wrong.
#[test]
fn commands_that_do_not_exist_are_found() {
    let mut help = Help::default();
    for wrong in [
        "penstock frobnicate",
        "penstock keys make",
        "penstock demo --lines 3",
        "penstock-dispatcher --always",
        "penstock batches retry BATCH --codes http_401",
    ] {
        assert!(help.fault(wrong).is_some(), "{wrong}");
    }
    assert_eq!(help.fault("penstock keys create --owner acme --json"), None);
    assert_eq!(
        commands("KEY=$(penstock keys create --owner acme --json | sed 's/x/y/')"),
        ["penstock keys create --owner acme --json"]
    );
    assert_eq!(commands("KEY=$(cargo xtask run -- keys create)"), ["penstock keys create"]);
}
