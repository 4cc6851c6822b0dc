//! `cargo xtask bench`: measurements beside a ceiling that is measured in the same run; `cargo xtask bench peers`: beside other
//! queues on the same work.

use crate::cargo;
use crate::packages::{install_missing, on_path};

/// Builds for speed and measures.
pub fn run(args: &[String]) -> Result<(), String> {
    let mut build = cargo();
    build.args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "penstock-cli",
        "--package",
        "penstock-api",
        "--package",
        "penstock-worker",
        "--package",
        "penstock-dispatcher",
        "--package",
        "penstock-sandbox",
        "--package",
        "penstock-benches",
    ]);
    crate::run(build)?;
    let peers = args.first().is_some_and(|first| first == "peers");
    if !peers {
        measure("embedded", args, &[])?;
    }
    let services = crate::services::Services::start()?;
    let mut environment = services.environment();
    environment.push(("PENSTOCK_TEST_ENGINES", "cluster".to_owned()));
    if peers {
        let missing: Vec<&str> = [("node", "nodejs"), ("npm", "npm")]
            .into_iter()
            .filter(|(program, _)| !on_path(program))
            .map(|(_, package)| package)
            .collect();
        install_missing(&missing)?;
        return measure("peers", &args[1..], &environment);
    }
    measure("cluster", args, &environment)?;
    // Seconds for each part; 600 is what the documentation's measurements were made with.
    measure("flow", &["60".to_owned()], &environment)?;
    measure("bulk", &["20000".to_owned()], &environment)?;
    measure("million", args, &environment)
}

fn measure(services: &str, args: &[String], environment: &[(&'static str, String)]) -> Result<(), String> {
    let mut command = cargo();
    command.args(["run", "--release", "--quiet", "--package", "penstock-benches", "--", services]).args(args);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    crate::run(command)
}
