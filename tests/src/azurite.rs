//! Azure Blob Storage for tests: Azurite of the npm registry, which `cargo xtask test` fetches.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::PATIENCE;

/// The account that Azurite has, and its key, which is the same everywhere.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

const CONTAINER: &str = "batches";

/// A running server with one empty container. Dropping it ends it.
pub struct Azurite {
    process: Child,
    port: u16,
}

impl Azurite {
    /// Starts one.
    pub async fn start() -> Self {
        let script = std::env::var("PENSTOCK_TEST_AZURITE")
            .expect("`cargo xtask with-servers` sets PENSTOCK_TEST_AZURITE");
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a port").port();
        let process = Command::new("node")
            .args([&script, "--blobPort", &port.to_string()])
            .args(["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--silent"])
            .stdout(Stdio::null())
            .spawn()
            .expect("node is installed; `cargo xtask test` installs it");
        let server = Self { process, port };
        let began = Instant::now();
        loop {
            if let Ok((201, _)) = server.ask("PUT", "restype=container", &["restype:container"]).await {
                return server;
            }
            assert!(began.elapsed() < PATIENCE, "Azurite does not answer");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// What a service needs to find it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("OBJECT_STORE_URL", format!("az://{CONTAINER}/tests")),
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.into()),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY.into()),
            ("AZURE_STORAGE_ENDPOINT", self.endpoint()),
            ("AZURE_ALLOW_HTTP", "true".into()),
        ]
    }

    /// Objects in the container.
    pub async fn objects(&self) -> Vec<String> {
        let (status, text) = self
            .ask("GET", "restype=container&comp=list", &["comp:list", "restype:container"])
            .await
            .expect("an answer");
        assert_eq!(status, 200, "{text}");
        text.split("<Name>")
            .skip(1)
            .filter_map(|rest| Some(rest.split_once("</Name>")?.0.to_owned()))
            .collect()
    }

    /// Where it is, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn endpoint(&self) -> String {
        format!("http://{}/{ACCOUNT}", self.address())
    }

    /// Asks about the container, signed by the account's key.
    async fn ask(&self, method: &str, query: &str, signed: &[&str]) -> Result<(u16, String), reqwest::Error> {
        let headers = [("x-ms-date", httpdate()), ("x-ms-version", "2023-11-03".to_owned())];
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let text = format!(
            "{method}\n\n\n\n\n\n\n\n\n\n\n\n{lines}/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\n{}",
            signed.join("\n")
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(KEY).expect("base64"));
        let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
        let http = crate::http().build()?;
        let url = format!("{}/{CONTAINER}?{query}", self.endpoint());
        let mut request = http
            .request(method.parse().expect("a method"), url)
            .header("authorization", format!("SharedKey {ACCOUNT}:{signature}"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }
}

/// The time as HTTP writes it.
fn httpdate() -> String {
    let date = Command::new("date").args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C").output();
    String::from_utf8(date.expect("date runs").stdout).expect("text").trim().to_owned()
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
