//! Commands that have to end: one that hangs fails, with everything that it started, instead of hanging the whole run.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Runs a command to its end; an error names it. After `limit` it is killed, and its children and theirs with it.
pub fn run_within(limit: Duration, mut command: Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    let mut child = command.spawn().map_err(|error| format!("{shown}: {error}"))?;
    let began = Instant::now();
    loop {
        match child.try_wait().map_err(|error| format!("{shown}: {error}"))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{shown} ended with {status}")),
            None if began.elapsed() > limit => {
                kill(&mut child);
                return Err(format!("{shown} did not end within {} s and was killed", limit.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Parents first, so that none of them starts another. A process group would be simpler, but an interrupt from the
/// keyboard would not reach it.
fn kill(child: &mut Child) {
    let mut family = vec![child.id()];
    let mut known = 0;
    while known < family.len() {
        let parent = family[known];
        signal(parent, "STOP");
        family.extend(children_of(parent));
        known += 1;
    }
    for process in family {
        signal(process, "KILL");
    }
    let _ = child.wait();
}

fn signal(process: u32, name: &str) {
    let _ = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status();
}

/// See proc_pid_stat(5): the name in brackets may hold anything; the parent is the second field behind it.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let behind = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
            behind.split_whitespace().nth(1) == Some(&parent.to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_killed_with_its_children() {
        let folder = std::env::temp_dir().join(format!("penstock-within-{}", std::process::id()));
        let mut hangs = Command::new("sh");
        hangs.args(["-c", &format!("(sleep 3; touch {0}) & sleep 60; touch {0}", folder.display())]);
        let began = Instant::now();
        let said = run_within(Duration::from_millis(300), hangs).expect_err("it hangs");
        assert!(said.ends_with("did not end within 0 s and was killed"), "{said}");
        std::thread::sleep(Duration::from_secs(4).saturating_sub(began.elapsed()));
        assert!(!folder.exists(), "a child lives on");
        run_within(Duration::from_secs(60), Command::new("true")).expect("it ends");
        run_within(Duration::from_secs(60), Command::new("false")).expect_err("it fails");
    }
}
