//! A real Chromium, driven as a person uses it: by labels and buttons. `cargo xtask test` installs it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::webdriver::Session;

/// How a page is looked at for a screenshot, and whether axe-core examines it: each width and each colour scheme once, which is
/// what its rules go by.
const VIEWS: [(&str, u32, &str, bool); 4] = [
    ("wide-light", 1280, "light", true),
    ("wide-dark", 1280, "dark", false),
    ("narrow-light", 360, "light", false),
    ("narrow-dark", 360, "dark", true),
];

/// What a page shall not have: findings of axe-core of these kinds.
const SERIOUS: [&str; 2] = ["serious", "critical"];

/// Runs axe-core, and gives its findings to the driver.
const AXE: &str = "const done = arguments[arguments.length - 1]; \
    axe.run({ resultTypes: ['violations'], rules: { 'target-size': { enabled: true } } })\
    .then((r) => done(r.violations), (e) => done(String(e)));";

/// The narrowest window in which nothing may scroll sideways (WCAG 2.2, 1.4.10).
const NARROWEST: u32 = 320;

/// A driver and its port; none when it ended.
fn start_driver() -> Option<(Child, String)> {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chromedriver is installed; `cargo xtask test` installs it");
    let output = driver.stdout.take().expect("its output");
    let (sender, port) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Read to its end: a driver whose output nobody takes stands still.
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(port) = line.split("successfully on port ").nth(1) {
                let _ = sender.send(port.trim_end_matches('.').to_owned());
            }
        }
    });
    let port = port.recv_timeout(PATIENCE);
    if port.is_err() {
        let _ = driver.kill();
        let _ = driver.wait();
    }
    Some((driver, port.ok()?))
}

/// A browser with a window. Dropping it ends it.
pub struct Browser {
    driver: Child,
    session: Session,
    base: String,
    downloads: tempfile::TempDir,
}

impl Browser {
    /// Starts one that looks at a service; without `scripts`, no page's script runs.
    pub async fn start(base: &str, scripts: bool) -> Self {
        // It looks for a free port, and ends when another program was quicker to take it.
        let (driver, port) = (0..5)
            .find_map(|_| start_driver())
            .expect("chromedriver listens; `cargo xtask test` installs it");
        let downloads = tempfile::tempdir().expect("a folder");
        let wanted = capabilities(downloads.path(), scripts);
        let session = Session::start(&format!("http://127.0.0.1:{port}"), &wanted).await;
        Self { driver, session, base: base.to_owned(), downloads }
    }

    /// Goes to an address of the service.
    pub async fn goto(&self, path: &str) {
        let url = json!({ "url": format!("{}{path}", self.base) });
        self.session.post("url", &url).await.expect("a page");
    }

    /// The address that it is at, without the service's own part.
    pub async fn path(&self) -> String {
        let url = self.session.get("url").await.expect("an address");
        url.as_str().unwrap_or_default().trim_start_matches(&self.base).to_owned()
    }

    /// Waits until a script says yes.
    pub async fn until(&self, what: &str) {
        let began = Instant::now();
        loop {
            // While a page is left for another one no script runs.
            let said = self.session.run("execute/sync", &format!("return !!({what})")).await;
            if matches!(said, Ok(Value::Bool(true))) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{what} does not come true: {}", self.text().await);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// What a script returns.
    pub async fn script(&self, script: &str) -> Value {
        self.session.run("execute/sync", script).await.expect("a value")
    }

    /// The text that a person reads.
    pub async fn text(&self) -> String {
        let Ok(body) = self.session.find("//body").await else { return String::new() };
        let text = self.session.get(&format!("element/{body}/text")).await;
        text.ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Waits until the page has a text.
    pub async fn reads(&self, text: &str) {
        let began = Instant::now();
        while !self.text().await.contains(text) {
            assert!(began.elapsed() < PATIENCE, "no {text:?} in: {}", self.text().await);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Waits until there is an element; its id.
    async fn found(&self, path: &str) -> String {
        let began = Instant::now();
        loop {
            match self.session.find(path).await {
                Ok(element) => return element,
                Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(25)).await,
                Err(error) => panic!("{path}: {error} in: {}", self.text().await),
            }
        }
    }

    /// The field of that label.
    fn field(label: &str) -> String {
        let label =
            format!("//label[starts-with(normalize-space(),'{label}') and not(ancestor::*[@hidden])]");
        format!("({label}//input | {label}//select)[last()]")
    }

    /// Does something to an element, once it is there and takes it: a page that updates itself replaces elements.
    async fn act(&self, path: &str, action: &str, body: &Value) {
        let began = Instant::now();
        loop {
            let element = self.found(path).await;
            match self.session.post(&format!("element/{element}/{action}"), body).await {
                Ok(_) => return,
                Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(25)).await,
                Err(error) => panic!("{path}: {error} in: {}", self.text().await),
            }
        }
    }

    /// Fills a field in.
    pub async fn fill(&self, label: &str, text: &str) {
        self.act(&Self::field(label), "value", &json!({ "text": text })).await;
    }

    /// Chooses a file.
    pub async fn choose(&self, file: &Path) {
        let file = json!({ "text": file.display().to_string() });
        self.act("//input[@type='file']", "value", &file).await;
    }

    /// Chooses an entry of a field.
    pub async fn select(&self, label: &str, entry: &str) {
        let entry = format!("{}/option[normalize-space()='{entry}']", Self::field(label));
        self.act(&entry, "click", &json!({})).await;
    }

    /// Presses a button.
    pub async fn press(&self, name: &str) {
        self.act(&format!("(//button[normalize-space()='{name}'])[last()]"), "click", &json!({})).await;
    }

    /// Follows a link.
    pub async fn follow(&self, name: &str) {
        self.act(&format!("//a[normalize-space()='{name}']"), "click", &json!({})).await;
    }

    /// Waits until a file was downloaded whose name, which tells the batch, ends so; what is in it.
    pub async fn downloaded(&self, ending: &str) -> String {
        let began = Instant::now();
        loop {
            let files = std::fs::read_dir(self.downloads.path()).expect("a folder");
            // It has its name once all of it is there.
            let found = files
                .filter_map(Result::ok)
                .find(|file| file.file_name().to_str().is_some_and(|name| name.ends_with(ending)));
            if let Some(text) = found.and_then(|file| std::fs::read_to_string(file.path()).ok()) {
                return text;
            }
            assert!(began.elapsed() < PATIENCE, "{ending} was not downloaded");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Presses keys one after the other, wherever the focus is. `\u{e004}` is Tab, `\u{e006}` Enter, `\u{e008}` Shift.
    pub async fn keys(&self, keys: &str) {
        let presses: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
            })
            .collect();
        let keyboard = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": presses }] });
        self.session.post("actions", &keyboard).await.expect("the driver presses them");
    }

    /// Whether a page shows a message box, which only a script does.
    pub async fn has_alert(&self) -> bool {
        self.session.get("alert/text").await.is_ok()
    }

    /// Signs in.
    pub async fn sign_in(&self, key: &str) {
        self.fill("API key", key).await;
        self.press("Sign in").await;
        self.found("//button[normalize-space()='Sign out']").await;
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let command = json!({ "cmd": command, "params": parameters });
        self.session.post("goog/cdp/execute", &command).await.expect("the driver does it")
    }

    /// Writes a picture of all of a page, as the documentation shows it, into `target/console/docs`.
    pub async fn picture(&self, name: &str, scheme: &str) {
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", scheme).await;
        let height =
            self.script("return Math.max(620, document.querySelector('main').offsetHeight + 80)").await;
        let size = json!({ "width": 1280, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let taken = self.devtools("Page.captureScreenshot", json!({ "format": "png" })).await;
        let folder = pictures().join("docs");
        std::fs::create_dir_all(&folder).expect("a folder");
        let picture = STANDARD.decode(taken["data"].as_str().unwrap_or_default()).expect("base64");
        std::fs::write(folder.join(format!("{name}.png")), picture).expect("a file");
        self.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await;
    }

    /// Checks the page for who cannot see it, and writes pictures of it into `target/console`.
    pub async fn examine(&self, name: &str) {
        let axe =
            std::env::var("PENSTOCK_TEST_AXE").expect("`cargo xtask with-servers` sets PENSTOCK_TEST_AXE");
        let axe = std::fs::read_to_string(axe).expect("axe-core");
        self.script(&axe).await;
        assert_eq!(self.script("return document.querySelectorAll('h1').length").await, 1, "{name}");
        // The engines make no difference to a page's looks.
        let views = if std::env::var("PENSTOCK_TEST_ENGINES").is_ok() { &VIEWS[..1] } else { &VIEWS[..] };
        for (view, width, scheme, examined) in views {
            let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
            self.devtools("Emulation.setEmulatedMedia", scheme).await;
            self.resize(*width).await;
            if *examined {
                self.has_nothing_serious(&format!("{name} {view}")).await;
            }
            self.fits(&format!("{name} {view}")).await;
            let picture = self.session.get("screenshot").await.expect("a picture");
            let picture = STANDARD.decode(picture.as_str().unwrap_or_default()).expect("base64");
            std::fs::write(pictures().join(format!("{name}-{view}.png")), picture).expect("a file");
        }
        self.fits_everywhere(name).await;
    }

    /// Checks that the page fits into the narrowest window.
    pub async fn fits_everywhere(&self, name: &str) {
        self.resize(NARROWEST).await;
        self.fits(&format!("{name} at {NARROWEST} px")).await;
        self.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await;
    }

    async fn has_nothing_serious(&self, what: &str) {
        let found = self.session.run("execute/async", AXE).await.expect("axe-core ends");
        let found = found.as_array().unwrap_or_else(|| panic!("{what}: {found}"));
        let serious: Vec<&Value> =
            found.iter().filter(|one| SERIOUS.iter().any(|impact| one["impact"] == *impact)).collect();
        assert!(serious.is_empty(), "{what}: {serious:#?}");
    }

    async fn resize(&self, width: u32) {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    async fn fits(&self, what: &str) {
        let wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(self.script(wider).await, 0, "{what} is wider than the window");
    }

    /// Nothing was wrong on any page, and nothing came from elsewhere.
    pub async fn was_quiet(&self) {
        let said = self.session.post("se/log", &json!({ "type": "browser" })).await.expect("a log");
        let wrong: Vec<&Value> = said
            .as_array()
            .into_iter()
            .flatten()
            .filter(|entry| entry["level"] == "SEVERE")
            // Chromium says so of every answer that refuses something: a file with errors, another owner's batch.
            .filter(|entry| {
                let message = entry["message"].as_str().unwrap_or_default();
                !["422", "404"]
                    .iter()
                    .any(|status| message.contains(&format!("responded with a status of {status}")))
            })
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let events = self.session.post("se/log", &json!({ "type": "performance" })).await.expect("a log");
        for event in events.as_array().into_iter().flatten() {
            let Some(message) = event["message"].as_str() else { continue };
            let message: Value = serde_json::from_str(message).expect("JSON");
            let url = message["message"]["params"]["request"]["url"].as_str().unwrap_or_default();
            let own = url.starts_with(&self.base) || url.starts_with("data:") || !url.starts_with("http");
            assert!(url.is_empty() || own, "a page asked for {url}");
        }
    }

    /// Ends it.
    pub async fn close(self) {
        // What is left of it is killed with the driver.
        let _ = self.session.end().await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn capabilities(downloads: &Path, scripts: bool) -> Value {
    let mut prefs = json!({
        "download.default_directory": downloads.display().to_string(),
        "download.prompt_for_download": false,
        "credentials_enable_service": false,
    });
    if !scripts {
        prefs["profile.managed_default_content_settings.javascript"] = 2.into();
    }
    // Tests run as root in containers, where Chromium's own sandbox and a large /dev/shm are missing.
    let args = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-proxy-server",
        "--lang=en",
        "--window-size=1280,900",
    ];
    json!({
        "browserName": "chrome",
        // axe-core takes long on a machine with other work.
        "timeouts": { "script": 120_000 },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        "goog:chromeOptions": { "args": args, "prefs": prefs },
    })
}

/// Where pictures of pages are written.
fn pictures() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/console");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}
