//! The console without a browser: sessions, forms, headers, and what one owner sees of another.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::console::Reader;
use penstock_tests::{Client, Place, Service};

use crate::NOOP;

const BATCHES: &str = "/console/batches";

async fn upload(service: &Service, key: &str, name: &str) -> String {
    let client = Client::new(service, key);
    let path = format!("/v2/pipelines/noop/batches?name={name}");
    let (status, batch) = client.upload(&path, "id,note\n1,a\n2,b\n3,c\n").await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    id
}

#[tokio::test]
async fn a_session_shows_what_its_key_may_see_and_ends_with_it() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let (made, _) = place.operate(&sandbox, &["keys", "create", "--owner", "acme"]);
    let key = made["key"].as_str().expect("a key");
    let rival = place.key(&sandbox, "rival");
    let (admin, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let service = place.start(&sandbox, None);
    // `%3C…%3E`: a name that would be markup.
    let id = upload(&service, key, "%3Cscript%3Ealert(1)%3C/script%3E").await;
    let batch = format!("{BATCHES}/{id}");

    let mut reader = Reader::new(&service);
    assert_eq!(reader.leads_to("/").await, "/console");
    assert_eq!(
        reader.leads_to(&format!("{batch}?done=paused")).await,
        format!("/console/sign-in?to={}%3Fdone%3Dpaused", batch.replace('/', "%2F")),
        "a page leads to signing in, and back"
    );
    let form = reader.page("/console/sign-in").await;
    let refused = reader.send("/console/sign-in", &form, &[("key", "pk_nonsense"), ("to", &batch)]).await;
    assert_eq!(refused.status, 401);
    assert!(refused.text.contains("This key is not valid"), "{}", refused.text);
    let form = reader.page("/console/sign-in").await;
    let signed_in = reader.send("/console/sign-in", &form, &[("key", key), ("to", &batch)]).await;
    assert_eq!((signed_in.status, signed_in.location.as_deref()), (303, Some(batch.as_str())));
    let cookie = signed_in.cookie.expect("a session");
    for part in ["HttpOnly", "SameSite=Lax", "Path=/console", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "{cookie}");
    assert!(!cookie.contains(key), "{cookie}");

    let shown = reader.page(&batch).await;
    assert_eq!(shown.matches("<h1>").count(), 1);
    assert!(!shown.contains("<script>alert"), "{shown}");
    assert!(
        shown.contains("&#60;script&#62;alert(1)") || shown.contains("&lt;script&gt;alert(1)"),
        "{shown}"
    );
    for name in ["results.csv", "failed.csv", "unprocessed.csv", ">Rows<", ">Erase<", "Sign out"] {
        assert!(shown.contains(name), "{name} is not in {shown}");
    }
    for admins in ["Limits", "Operations"] {
        assert!(!shown.contains(admins), "{admins} is for admin keys");
    }
    let report = reader.page(&format!("{batch}/results.csv")).await;
    assert_eq!(report, Client::new(&service, key).text(&format!("/v2/batches/{id}/results.csv")).await);

    // Another owner sees nothing of it, an admin key does and cannot change it.
    let mut other = Reader::signed_in(&service, &rival).await;
    for path in
        [batch.clone(), format!("{batch}/rows"), format!("{batch}/rows/1"), format!("{batch}/results.csv")]
    {
        assert_eq!(other.get(&path).await.status, 404, "{path}");
    }
    assert!(!other.page(BATCHES).await.contains(&id));
    let mut operator = Reader::signed_in(&service, admin["key"].as_str().expect("a key")).await;
    let shown = operator.page(&batch).await;
    assert!(shown.contains("acme") && !shown.contains(">Erase<"), "{shown}");
    assert_eq!(operator.get(&format!("{batch}/erase")).await.status, 403);

    // It ends with its key.
    let (_, good) = place.operate(&sandbox, &["keys", "revoke", made["id"].as_str().expect("an id")]);
    assert!(good);
    assert!(reader.leads_to(BATCHES).await.starts_with("/console/sign-in"));
}

#[tokio::test]
async fn a_form_needs_the_token_of_its_session() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let id = upload(&service, &key, "mine").await;
    let batch = format!("{BATCHES}/{id}");
    let mut reader = Reader::signed_in(&service, &key).await;
    let another = Reader::signed_in(&service, &key).await.page(&batch).await;
    let own = reader.page(&batch).await;
    let erase = format!("{batch}/erase");
    for (forged, site) in [("", None), (another.as_str(), None), (own.as_str(), Some("cross-site"))] {
        let answer = reader.send_from(&erase, forged, &[("typed", "mine")], site).await;
        assert_eq!(answer.status, 403, "{}", answer.text);
        assert!(answer.text.contains("forged_form"), "{}", answer.text);
    }
    // What cannot be undone is asked back, and the name is typed in.
    let asked = reader.page(&erase).await;
    assert!(asked.contains(">Erase batch</button>"), "{asked}");
    assert_eq!(reader.send(&erase, &asked, &[("typed", "other")]).await.status, 422);
    let done = reader.send(&erase, &asked, &[("typed", "mine")]).await;
    assert_eq!(done.location.as_deref(), Some(format!("{batch}?done=erased").as_str()), "{}", done.text);
    assert!(reader.page(&batch).await.contains("Its data was erased"));
    // Forms to sign in with have a token too, which a cookie knows.
    let mut stranger = Reader::new(&service);
    let answer = stranger.send("/console/sign-in", "", &[("key", &key)]).await;
    assert_eq!(answer.status, 403);
    assert!(answer.cookie.is_none_or(|cookie| !cookie.contains("_session=")));
    let form = stranger.page("/console/sign-in").await;
    let answer = stranger.send("/console/sign-in", &form, &[("key", &key), ("to", "//evil.example/")]).await;
    assert_eq!(answer.location.as_deref(), Some(BATCHES), "nobody is led elsewhere");
    let page = stranger.page(BATCHES).await;
    let out = stranger.send("/console/sign-out", &page, &[]).await;
    assert_eq!(out.location.as_deref(), Some("/console/sign-in"));
    assert!(stranger.leads_to(BATCHES).await.starts_with("/console/sign-in"));
}

#[tokio::test]
async fn guessed_keys_are_slowed_down_and_pages_have_their_headers() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let mut reader = Reader::signed_in(&service, &key).await;
    let page = reader.get(BATCHES).await;
    for (name, value) in [
        (
            "content-security-policy",
            "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(page.headers[name], value);
    }
    for inline in ["<style", "style=", " onclick", "javascript:"] {
        assert!(!page.text.contains(inline), "{inline} in {}", page.text);
    }
    let mut weight = page.text.len();
    let assets: Vec<&str> =
        page.text.split('"').filter(|text| text.starts_with("/console/assets/")).collect();
    assert_eq!(assets.len(), 3, "{assets:?}");
    for asset in assets {
        let answer = reader.get(asset).await;
        assert_eq!(answer.headers["cache-control"], "public, max-age=31536000, immutable");
        weight += answer.text.len();
    }
    assert!(weight < 60 * 1024, "{weight} bytes, not even compressed");
    assert_eq!(reader.get("/console/assets/console-0.css").await.status, 404);
    let nothing = reader.get("/console/nothing").await;
    assert_eq!(
        (nothing.status, nothing.headers["content-type"].to_str().unwrap()),
        (404, "text/html; charset=utf-8")
    );

    let mut guesser = Reader::new(&service);
    let mut refused = None;
    // Ten a minute; a slow machine may grant one or two more while this runs.
    for _ in 0..30 {
        let form = guesser.page("/console/sign-in").await;
        let answer = guesser.send("/console/sign-in", &form, &[("key", "pk_nonsense")]).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status, 401);
    }
    assert!(refused.expect("it is slowed down").headers.contains_key("retry-after"));

    drop(service);
    place.set("PENSTOCK_CONSOLE", "false".into());
    let service = place.start(&sandbox, None);
    let mut reader = Reader::new(&service);
    for path in ["/", "/console", BATCHES] {
        assert_eq!(reader.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn calls_of_the_last_hour_are_shown_beside_what_is_allowed() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &crate::invite())]);
    let key = place.key(&sandbox, "acme");
    let (admin, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let admin = admin["key"].as_str().expect("a key");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(crate::PEOPLE, crate::people(5)).await.expect("an answer");
    client.finished(batch["id"].as_str().expect("an id")).await;
    let operator = Client::new(&service, admin);
    let began = std::time::Instant::now();
    // Workers write their calls down every few seconds.
    let invite = loop {
        let all = operator.get("/v2/limits").await;
        let all = all["data"].as_array().expect("a list").clone();
        let invite = all.into_iter().find(|one| one["dependency"] == "invite").expect("it is there");
        let minutes = invite["last_hour"].as_array().expect("minutes");
        if minutes.iter().filter_map(|minute| minute["calls"].as_u64()).sum::<u64>() >= 5 {
            break invite;
        }
        assert!(began.elapsed() < penstock_tests::PATIENCE, "{invite}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert_eq!(invite["allowed_per_minute"].as_f64(), Some(300_000.0), "{invite}");
    let page = Reader::signed_in(&service, admin).await.page("/console/limits").await;
    assert!(page.contains("<svg class=\"use\"") && page.contains("<rect class=\"calls\""), "{page}");
}

#[tokio::test]
async fn limits_and_operations_are_for_admin_keys() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &crate::invite())]);
    let key = place.key(&sandbox, "acme");
    let (admin, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let admin = admin["key"].as_str().expect("a key");
    let service = place.start(&sandbox, None);
    let mut owner = Reader::signed_in(&service, &key).await;
    for path in ["/console/limits", "/console/operations"] {
        assert_eq!(owner.get(path).await.status, 404, "{path}");
    }
    let client = Client::new(&service, &key);
    for path in ["/v2/limits", "/v2/operations", "/v2/reconcile"] {
        let answer = client.request("GET", path).send().await.expect("an answer");
        assert_eq!(answer.status(), 403, "{path}");
    }
    let mut operator = Reader::signed_in(&service, admin).await;
    let limits = operator.page("/console/limits").await;
    assert!(limits.contains("5,000 calls in a second, 500 at once"), "{limits}");
    let change = "/console/limits/invite";
    for (fields, limit, paused) in [
        (vec![("limit", "7"), ("concurrency", "")], Some(7), false),
        (vec![("command", "pause")], Some(7), true),
        (vec![("command", "resume")], Some(7), false),
    ] {
        assert_eq!(operator.send(change, &limits, &fields).await.status, 303, "{fields:?}");
        let all = Client::new(&service, admin).get("/v2/limits").await;
        let all = all["data"].as_array().expect("a list");
        let set = &all.iter().find(|one| one["dependency"] == "invite").expect("it is there")["set"];
        assert_eq!((set["limit"].as_u64(), set["paused"].as_bool()), (limit, Some(paused)), "{set}");
    }
    assert_eq!(operator.send(change, &limits, &[("command", "reset")]).await.status, 303);
    let bad = operator.send(change, &limits, &[("limit", "many")]).await;
    assert_eq!(bad.status, 422, "{}", bad.text);
    assert_eq!(operator.send("/console/limits/nobody", &limits, &[("limit", "1")]).await.status, 404);
    let audit = Client::new(&service, admin).get("/v2/audit").await.to_string();
    for action in ["limits.set", "limits.pause", "limits.resume", "limits.reset", "console.sign_in"] {
        assert!(audit.contains(action), "{action} is not in {audit}");
    }
    let example = owner.page("/console/pipelines/invite/example.csv").await;
    assert!(example.starts_with("email,") && example.lines().count() == 2, "{example}");
    assert_eq!(client.text("/v2/pipelines/invite/example.csv").await, example);
    let operations = operator.page("/console/operations?stuck=true").await;
    let health = Client::new(&service, admin).get("/v2/operations").await;
    let health = health["findings"].as_array().expect("findings").clone();
    let (doctor, _) = place.operate(&sandbox, &["doctor"]);
    for what in
        ["database", "schema", "writes", "keys", "workers", "dispatcher", "batches", "objects", "queue"]
    {
        let of = |all: &[serde_json::Value]| all.iter().find(|line| line["what"] == what).cloned();
        let told = of(&health).unwrap_or_else(|| panic!("{what} is not in {health:?}"));
        assert_eq!(
            told["verdict"],
            of(doctor.as_array().expect("lines")).expect("a line")["verdict"],
            "{told}"
        );
        assert!(operations.contains(&format!(">{what}</th>")), "{operations}");
    }
    for text in ["Dispatcher runs", "acme", "What is stuck"] {
        assert!(operations.contains(text), "{text} is not in {operations}");
    }
    assert_eq!(operator.send("/console/operations", &operations, &[]).await.status, 200);
    let shown = Client::new(&service, admin).get("/v2/operations").await;
    assert!(
        shown["services"].as_array().expect("a list").iter().all(|one| one["healthy"] == true),
        "{shown}"
    );
}

/// Somebody clicks twice: one batch is made. Another file in the same form, and the same file in another form, make others.
#[tokio::test]
async fn a_form_that_is_sent_twice_uploads_once() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let mut reader = Reader::signed_in(&service, &key).await;
    let mut twin = reader.copy();
    let [page, fresh] = [reader.page("/console/upload").await, reader.page("/console/upload").await];
    let fields = [("pipeline", "noop"), ("name", "twice")];
    let file = "id,note\n1,a\n";
    let (one, two) = tokio::join!(
        reader.send_file("/console/upload", &page, &fields, file),
        twin.send_file("/console/upload", &page, &fields, file),
    );
    let batch = one.location.unwrap_or_else(|| panic!("{}", one.text));
    assert_eq!((one.status, two.status, two.location.as_ref()), (303, 303, Some(&batch)), "{}", two.text);
    for (page, file) in [(&page, "id,note\n2,b\n"), (&fresh, file)] {
        let other = reader.send_file("/console/upload", page, &fields, file).await;
        assert_eq!(other.status, 303, "{}", other.text);
        assert_ne!(other.location.as_ref(), Some(&batch));
    }
    let batches = Client::new(&service, &key).get("/v2/batches").await;
    assert_eq!(batches["data"].as_array().map(Vec::len), Some(3), "{batches}");
}

/// Behind https the cookie is for https alone: by the address that clients use, or as a proxy says that is trusted.
#[tokio::test]
async fn behind_https_a_session_is_for_https_alone() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let cookie = async |service: &Service, proto: Option<&str>| {
        let mut reader = Reader::new(service);
        reader.forwarded = proto.map(str::to_owned);
        let form = reader.page("/console/sign-in").await;
        let answer = reader.send("/console/sign-in", &form, &[("key", &key)]).await;
        assert_eq!(answer.status, 303, "{}", answer.text);
        assert!(reader.page(BATCHES).await.contains("Sign out"));
        let cookie = answer.cookie.expect("a session");
        (cookie.starts_with("__Secure-penstock_"), cookie.contains("; Secure"))
    };
    let service = place.start(&sandbox, None);
    assert_eq!(cookie(&service, Some("https")).await, (false, false), "anybody may say that");
    drop(service);
    place.set("PENSTOCK_TRUSTED_PROXIES", "127.0.0.0/8".into());
    let service = place.start(&sandbox, None);
    assert_eq!(cookie(&service, Some("https")).await, (true, true));
    assert_eq!(cookie(&service, Some("http")).await, (false, false));
    drop(service);
    place.set("PENSTOCK_PUBLIC_URL", "https://rows.example.com".into());
    let service = place.start(&sandbox, None);
    assert_eq!(cookie(&service, None).await, (true, true));
}
