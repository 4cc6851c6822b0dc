//! Somebody who reads the console without a browser: cookies, forms and their tokens.

use reqwest::header::HeaderMap;

use crate::Service;

/// An answer of the console.
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Where it leads.
    pub location: Option<String>,
    /// The session's cookie, when it sets one.
    pub cookie: Option<String>,
    /// Its body.
    pub text: String,
}

/// A reader, with the cookies that it was given.
pub struct Reader {
    http: reqwest::Client,
    base: String,
    cookies: Vec<(String, String)>,
    /// By which scheme a proxy says that the reader came.
    pub forwarded: Option<String>,
}

impl Reader {
    /// Somebody who has not signed in.
    pub fn new(service: &Service) -> Self {
        let http = crate::http().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        Self { http, base: service.base.clone(), cookies: Vec::new(), forwarded: None }
    }

    /// Somebody who signed in with that key.
    pub async fn signed_in(service: &Service, key: &str) -> Self {
        let mut reader = Self::new(service);
        let form = reader.page("/console/sign-in").await;
        let answer = reader.send("/console/sign-in", &form, &[("key", key)]).await;
        assert_eq!(answer.status, 303, "{}", answer.text);
        reader
    }

    /// Somebody who has a copy of its cookies.
    pub fn copy(&self) -> Self {
        Self {
            http: self.http.clone(),
            base: self.base.clone(),
            cookies: self.cookies.clone(),
            forwarded: self.forwarded.clone(),
        }
    }

    /// The same at another process.
    pub fn at(self, service: &Service) -> Self {
        Self { base: service.base.clone(), ..self }
    }

    /// Its cookies, as a header has them.
    pub fn cookies(&self) -> String {
        let cookies: Vec<String> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        cookies.join("; ")
    }

    async fn answer(&mut self, request: reqwest::RequestBuilder) -> Answer {
        let mut request = request.header("cookie", self.cookies());
        if let Some(proto) = &self.forwarded {
            request = request.header("x-forwarded-proto", proto);
        }
        let answer = request.send().await.expect("an answer");
        let headers = answer.headers().clone();
        let mut session = None;
        for cookie in headers.get_all("set-cookie") {
            let cookie = cookie.to_str().expect("text");
            let (name, rest) = cookie.split_once('=').expect("a cookie");
            let value = rest.split(';').next().unwrap_or_default();
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
            if name.ends_with("_session") {
                session = Some(cookie.to_owned());
            }
        }
        let location = headers.get("location").map(|location| location.to_str().expect("text").to_owned());
        let status = answer.status().as_u16();
        Answer { status, headers, location, cookie: session, text: answer.text().await.expect("a body") }
    }

    /// Asks for a page.
    pub async fn get(&mut self, path: &str) -> Answer {
        let request = self.http.get(format!("{}{path}", self.base));
        self.answer(request).await
    }

    /// The text of a page that is there.
    pub async fn page(&mut self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.text
    }

    /// Where an address leads.
    pub async fn leads_to(&mut self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 303, "{path}: {}", answer.text);
        answer.location.expect("a location")
    }

    /// Sends the form with a file of a page, with its hidden fields.
    pub async fn send_file(&mut self, path: &str, page: &str, fields: &[(&str, &str)], file: &str) -> Answer {
        const MARK: &str = "a-boundary";
        let hidden = page.split("<input type=\"hidden\" name=\"").skip(1).filter_map(|rest| {
            let (name, rest) = rest.split_once("\" value=\"")?;
            Some((name, rest.split('"').next()?))
        });
        // The form to sign out has the token, too.
        let mut seen = std::collections::HashSet::new();
        let hidden = hidden.filter(move |(name, _)| seen.insert(*name));
        let mut body = String::new();
        for (name, value) in hidden.chain(fields.iter().copied()) {
            body +=
                &format!("--{MARK}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        }
        body += &format!(
            "--{MARK}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"rows.csv\"\r\n\
             content-type: text/csv\r\n\r\n{file}\r\n--{MARK}--\r\n"
        );
        let request = self.http.post(format!("{}{path}", self.base)).body(body);
        self.answer(request.header("content-type", format!("multipart/form-data; boundary={MARK}"))).await
    }

    /// Sends a form of a page, with its token.
    pub async fn send(&mut self, path: &str, page: &str, fields: &[(&str, &str)]) -> Answer {
        self.send_from(path, page, fields, None).await
    }

    /// The same, as a browser sends it from a page of that site.
    pub async fn send_from(
        &mut self,
        path: &str,
        page: &str,
        fields: &[(&str, &str)],
        site: Option<&str>,
    ) -> Answer {
        let token = page.split("name=\"csrf\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
        let mut all = vec![("csrf", token.unwrap_or_default())];
        all.extend(fields);
        let address = format!("{}{path}", self.base);
        let fields = reqwest::Url::parse_with_params(&address, &all).expect("an address");
        let mut request = self.http.post(address).body(fields.query().unwrap_or_default().to_owned());
        request = request.header("content-type", "application/x-www-form-urlencoded");
        if let Some(site) = site {
            request = request.header("sec-fetch-site", site);
        }
        self.answer(request).await
    }
}
