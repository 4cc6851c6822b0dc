//! An OpenID Connect provider for tests: `oauth2-mock-server` of the npm registry, which `cargo xtask test` fetches.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A provider that signs everybody in. Dropping it ends it.
pub struct Provider {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Its issuer.
    pub issuer: String,
}

impl Provider {
    /// Starts one.
    pub fn start() -> Self {
        let modules =
            std::env::var("PENSTOCK_TEST_OIDC").expect("`cargo xtask with-servers` sets PENSTOCK_TEST_OIDC");
        let mut process = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/oidc/provider.mjs"))
            .arg(modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed; `cargo xtask test` installs it");
        let input = process.stdin.take().expect("its input");
        let mut output = BufReader::new(process.stdout.take().expect("its output")).lines();
        let issuer = output.next().expect("it starts").expect("its issuer");
        Self { process, input, output, issuer }
    }

    /// What its next answers hold: `claims` of tokens, `userinfo`, an `error`, the error with which it `refuse`s a code (and a
    /// `status` for that), and claims that it did not sign (`forge`).
    pub fn answers(&mut self, wanted: &Value) {
        writeln!(self.input, "{wanted}").expect("it reads");
        assert_eq!(self.output.next().expect("it answers").expect("a line"), "ok");
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
