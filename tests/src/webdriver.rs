//! As much of the WebDriver protocol (W3C) as the console's tests need. The kept clients bring a segmenter of Unicode with its
//! tables, or make every JSON object of this workspace keep its order, which the programs under test do not.

use serde_json::{Value, json};

/// The member by which an element is named (WebDriver, section 11).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser's session.
pub struct Session {
    http: reqwest::Client,
    url: String,
}

impl Session {
    /// Begins one at a driver.
    pub async fn start(driver: &str, capabilities: &Value) -> Self {
        let http = crate::http().build().expect("a client");
        let mut session = Self { http, url: driver.to_owned() };
        let wanted = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let began = session.post("session", &wanted).await.expect("a session");
        session.url = format!("{driver}/session/{}", began["sessionId"].as_str().expect("an id"));
        session
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Value, String> {
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let good = answer.status().is_success();
        let mut answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        let value = answer["value"].take();
        if good { Ok(value) } else { Err(value["message"].as_str().unwrap_or("no message").to_owned()) }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn get(&self, path: &str) -> Result<Value, String> {
        self.answer(self.http.get(format!("{}/{path}", self.url))).await
    }

    /// Has something done.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.answer(self.http.post(format!("{}/{path}", self.url)).json(body)).await
    }

    /// Runs a script: `execute/sync`, or `execute/async`.
    ///
    /// # Errors
    /// When it throws, or there is no page to run it in.
    pub async fn run(&self, how: &str, script: &str) -> Result<Value, String> {
        self.post(how, &json!({ "script": script, "args": [] })).await
    }

    /// The id of the first element of an XPath.
    ///
    /// # Errors
    /// When there is none.
    pub async fn find(&self, path: &str) -> Result<String, String> {
        let found = self.post("element", &json!({ "using": "xpath", "value": path })).await?;
        found[ELEMENT].as_str().map(str::to_owned).ok_or_else(|| format!("no element in {found}"))
    }

    /// Ends it, and its browser.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn end(&self) -> Result<Value, String> {
        self.answer(self.http.delete(&self.url)).await
    }
}
