//! The demo: what it prints at its end works as it stands there.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use penstock_tests::browser::Browser;
use penstock_tests::program;

/// The demo in a folder of its own, as it runs where the output is no terminal.
fn demo(folder: &Path, more: &[&str]) -> Child {
    Command::new(program("penstock"))
        .args(["demo", "--rows", "20", "--data", "my data"])
        .args(more)
        .current_dir(folder)
        .env_remove("DATABASE_URL")
        .env_remove("REDIS_URL")
        .env_remove("OBJECT_STORE_URL")
        .env("PENSTOCK_BIND", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// What it prints, to the console's address.
fn told(demo: &mut Child) -> Vec<String> {
    let output = BufReader::new(demo.stdout.take().expect("its output"));
    let mut lines = Vec::new();
    for line in output.lines().map_while(Result::ok) {
        let last = line.starts_with("open http://");
        lines.push(line);
        if last {
            break;
        }
    }
    lines
}

/// The lines that are to be pasted into a shell.
fn commands(lines: &[String]) -> Vec<&str> {
    lines.iter().filter_map(|line| line.strip_prefix("  ")).collect()
}

fn run(folder: &Path, command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .env_remove("DATABASE_URL")
        .env_remove("REDIS_URL")
        .env_remove("OBJECT_STORE_URL")
        .output()
        .expect("a shell");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command}: {said}");
    said
}

#[test]
fn what_the_demo_prints_at_its_end_works_when_it_has_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = demo(folder.path(), &[]).wait_with_output().expect("it ends");
    assert!(output.status.success());
    let lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let commands = commands(&lines);
    assert_eq!(commands.len(), 3, "{lines:#?}");
    assert!(run(folder.path(), commands[0]).contains("20"), "{}", commands[0]);
    assert!(run(folder.path(), commands[1]).contains("invite"), "{}", commands[1]);
    assert!(commands[2].ends_with(" demo --keep"), "{}", commands[2]);
}

#[test]
fn what_the_demo_prints_works_while_it_stays_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut demo = demo(folder.path(), &["--keep"]);
    let lines = told(&mut demo);
    let commands = commands(&lines);
    assert_eq!(commands.len(), 4, "{lines:#?}");
    for (command, expected) in commands.iter().zip(["\"completed\"", "_status", "_code", "ended"]) {
        let said = run(folder.path(), command);
        assert!(said.contains(expected), "{command}: {said}");
    }
    let console = lines.last().and_then(|line| line.strip_prefix("open ")).expect("the console's address");
    let open = |expected: &str| {
        let said = run(folder.path(), &format!("curl --silent --location --cookie '' '{console}'"));
        assert!(said.contains(expected), "{said}");
    };
    open("<h1>Batches</h1>");
    open("This link was used before");
    stop(demo);
}

fn stop(mut demo: Child) {
    let stopped = Command::new("kill").args(["-INT", &demo.id().to_string()]).status().expect("kill");
    assert!(stopped.success());
    let began = Instant::now();
    let status = loop {
        if let Some(status) = demo.try_wait().expect("it can be asked") {
            break status;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it does not stop");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "{status}");
}

/// Somebody who has never seen Penstock opens the last line's address, and is three clicks from why a row failed.
#[tokio::test]
async fn three_clicks_lead_from_the_demos_last_line_to_why_a_row_failed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut demo = demo(folder.path(), &["--keep"]);
    let lines = told(&mut demo);
    let address = lines.last().and_then(|line| line.strip_prefix("open ")).expect("the console's address");
    let path = address.find("/console").expect("a path");
    let browser = Browser::start(&address[..path], true).await;
    browser.goto(&address[path..]).await;
    browser.until("document.querySelector('h1')?.textContent === 'Batches'").await;
    // The batch, the rows of a group, and one of them: a sample of the group is there with one click less.
    for (link, heading) in [
        ("tr[data-batch] th a", "document.querySelector('.group')"),
        (".group header a", "document.querySelector('h1')?.textContent === 'Rows'"),
        ("tbody th a", "document.querySelector('h1')?.textContent.startsWith('Row ')"),
    ] {
        browser.until(&format!("document.querySelector('{link}')")).await;
        browser.script(&format!("document.querySelector('{link}').click()")).await;
        browser.until(heading).await;
    }
    browser.reads("Why it failed").await;
    let reason = browser.script("return document.querySelector('.said').textContent").await;
    assert!(reason.as_str().is_some_and(|reason| !reason.is_empty()), "{reason}");
    browser.was_quiet().await;
    browser.close().await;
    stop(demo);
}
