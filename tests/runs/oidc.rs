//! Signing in to the console by OpenID Connect, at a real provider.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::browser::Browser;
use penstock_tests::console::{Answer, Reader};
use penstock_tests::provider::Provider;
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

use crate::NOOP;

const GROUPS: &str = "operators=admin:ops;staff=acme;auditors=read:acme";

fn place(provider: &Provider) -> Place {
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_OIDC_ISSUER", provider.issuer.clone());
    place.set("PENSTOCK_OIDC_CLIENT_ID", "penstock".into());
    place.set("PENSTOCK_OIDC_CLIENT_SECRET", "a secret".into());
    place.set("PENSTOCK_OIDC_GROUPS", GROUPS.into());
    place
}

/// Who signs in, as the provider knows it.
fn person(subject: &str, groups: &[&str]) -> Value {
    json!({ "claims": { "sub": subject, "email": format!("{subject}@acme.example"), "email_verified": true, "groups": groups } })
}

/// Goes to the provider, which sends the person back at once: the path that it sends it to.
async fn at_the_provider(reader: &mut Reader, service: &Service, to: &str) -> String {
    let url = reader.leads_to(&format!("/console/sign-in/oidc?to={to}")).await;
    for part in ["response_type=code", "code_challenge_method=S256", "state=", "nonce=", "scope=openid"] {
        assert!(url.contains(part), "{part} is not in {url}");
    }
    let http = penstock_tests::http().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    let answer = http.get(url).send().await.expect("an answer");
    let back = answer.headers()["location"].to_str().expect("text").to_owned();
    back.strip_prefix(&service.base).unwrap_or_else(|| panic!("{back} is not of {}", service.base)).to_owned()
}

async fn sign_in(reader: &mut Reader, service: &Service, to: &str) -> Answer {
    let back = at_the_provider(reader, service, to).await;
    reader.get(&back).await
}

#[tokio::test]
async fn groups_say_what_a_person_may_do_until_they_sign_out() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut provider = Provider::start();
    let mut place = place(&provider);
    let (admin, _) =
        place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin", "--name", "Pager"]);
    let admin = admin["key"].as_str().expect("a key").to_owned();
    let service = place.start(&sandbox, None);

    provider.answers(&person("ann", &["staff"]));
    let mut ann = Reader::new(&service);
    assert!(ann.page("/console/sign-in").await.contains(">Sign in with localhost</a>"));
    let signed_in = sign_in(&mut ann, &service, "%2Fconsole%2Fupload").await;
    assert_eq!((signed_in.status, signed_in.location.as_deref()), (303, Some("/console/upload")));
    let cookie = signed_in.cookie.expect("a session");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let page = ann.page("/console/upload").await;
    assert!(page.contains(">acme") && !page.contains("Operations"), "{page}");

    // Nobody is led elsewhere; the groups may be in the user info alone.
    let mut info = person("eve", &[]);
    info["claims"].as_object_mut().expect("claims").remove("groups");
    info["userinfo"] = json!({ "sub": "eve", "groups": ["operators"] });
    provider.answers(&info);
    let mut eve = Reader::new(&service);
    let signed_in = sign_in(&mut eve, &service, "%2F%2Fevil.example%2Fconsole%2F").await;
    assert_eq!(signed_in.location.as_deref(), Some("/console/batches"));
    assert!(eve.page("/console/operations").await.contains("Dispatcher runs"));

    // An auditor reads, and uploads nothing.
    provider.answers(&person("bob", &["auditors", "others"]));
    let mut bob = Reader::new(&service);
    assert_eq!(sign_in(&mut bob, &service, "").await.status, 303);
    assert_eq!(bob.get("/console/limits").await.status, 404);
    let page = bob.page("/console/batches").await;
    let refused = bob.send("/console/upload", &page, &[]).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    // What says so has the navigation.
    assert!(refused.text.contains("Sign out"), "{}", refused.text);

    let audit = Client::new(&service, &admin).get("/v2/audit").await;
    let entries = audit["data"].as_array().expect("a list");
    let entry = entries.iter().find(|one| one["key_name"] == "ann@acme.example").expect("she signed in");
    assert_eq!((&entry["action"], &entry["key_owner"]), (&json!("console.sign_in"), &json!("acme")));
    assert!(entry["detail"].as_str().is_some_and(|detail| detail.contains("(ann)")), "{entry}");

    // Signing out ends the session for whoever has a copy of it.
    let mut copy = ann.copy();
    let page = ann.page("/console/batches").await;
    let out = ann.send("/console/sign-out", &page, &[]).await;
    let signed_out = ann.page(out.location.as_deref().expect("a location")).await;
    assert!(signed_out.contains("Sign out of localhost too"), "{signed_out}");
    assert!(copy.leads_to("/console/batches").await.starts_with("/console/sign-in"));

    // A session ends with the entry that let it in.
    drop(service);
    place.set("PENSTOCK_OIDC_GROUPS", "staff=acme".into());
    let service = place.start(&sandbox, None);
    let mut eve = eve.at(&service);
    assert!(eve.leads_to("/console/batches").await.starts_with("/console/sign-in"));
}

#[tokio::test]
async fn what_a_provider_did_not_say_of_this_sign_in_signs_nobody_in() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut provider = Provider::start();
    let place = place(&provider);
    let service = place.start(&sandbox, None);
    let good = person("ann", &["staff"]);
    let with = |claims: Value| {
        let mut wanted = good.clone();
        for (name, value) in claims.as_object().expect("claims") {
            wanted["claims"][name] = value.clone();
        }
        wanted
    };
    let mut other = good.clone();
    other["claims"].as_object_mut().expect("claims").remove("groups");
    other["userinfo"] = json!({ "sub": "eve", "groups": ["operators"] });
    for (what, wanted, status, sentence) in [
        ("nonce", with(json!({ "nonce": "another" })), 401, "cannot be verified"),
        ("audience", with(json!({ "aud": "another" })), 401, "cannot be verified"),
        ("issuer", with(json!({ "iss": "https://evil.example" })), 401, "cannot be verified"),
        ("end", with(json!({ "exp": 1 })), 401, "cannot be verified"),
        ("signature", json!({ "forge": { "groups": ["operators"] } }), 401, "cannot be verified"),
        ("user info", other, 401, "cannot be verified"),
        ("code", json!({ "refuse": "invalid_grant" }), 401, "does not accept this sign-in"),
        (
            "client",
            json!({ "refuse": "invalid_client", "status": 401 }),
            502,
            "(`invalid_client`); tell whoever",
        ),
        ("load", json!({ "refuse": "slow_down", "status": 429 }), 503, "try again later"),
        ("person", json!({ "error": "access_denied" }), 401, "did not sign you in (`access_denied`)"),
        ("group", person("ann", &["strangers"]), 403, "none of your groups"),
    ] {
        provider.answers(&wanted);
        let mut reader = Reader::new(&service);
        let answer = sign_in(&mut reader, &service, "").await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text);
        assert!(answer.text.contains(sentence), "{what}: {}", answer.text);
        assert!(answer.cookie.is_none(), "{what}");
    }
    provider.answers(&good);
    // What somebody else began is not gone on with in another browser, and nothing is used twice.
    let mut attacker = Reader::new(&service);
    let back = at_the_provider(&mut attacker, &service, "").await;
    for path in
        [back.as_str(), "/console/sign-in/oidc/callback?code=x&state=y", "/console/sign-in/oidc/callback"]
    {
        let answer = Reader::new(&service).get(path).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.text);
        assert!(answer.cookie.is_none(), "{path}");
    }
    // Sign-ins of two tabs do not end each other, and what a stranger sends back ends neither.
    let mut tabs = Reader::new(&service);
    let backs = [
        at_the_provider(&mut tabs, &service, "%2Fconsole%2Fupload").await,
        at_the_provider(&mut tabs, &service, "%2Fconsole%2Fpipelines").await,
    ];
    assert_eq!(tabs.get(&back).await.status, 403, "the state is another browser's");
    for (back, to) in backs.iter().zip(["/console/upload", "/console/pipelines"]) {
        let answer = tabs.get(back).await;
        assert_eq!((answer.status, answer.location.as_deref()), (303, Some(to)), "{}", answer.text);
    }
    for _ in 0..12 {
        at_the_provider(&mut tabs, &service, "").await;
    }
    let kept = tabs.cookies().matches("_elsewhere_").count();
    assert!((1..=5).contains(&kept), "{kept} sign-ins are kept");
    let mut victim = Reader::new(&service);
    at_the_provider(&mut victim, &service, "").await;
    assert_eq!(victim.get(&back).await.status, 403, "the state is another browser's");
    assert_eq!(attacker.get(&back).await.status, 303);
    assert_eq!(attacker.get(&back).await.status, 403, "it was used");

    drop(provider);
    // What the provider said of itself is still known; who comes back is told that it does not answer.
    drop(service);
    let service = place.start(&sandbox, None);
    let answer = Reader::new(&service).get("/console/sign-in/oidc").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.text.contains("Localhost cannot be reached"), "{}", answer.text);
}

#[tokio::test]
async fn a_browser_signs_in_at_the_provider_and_out_again() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut provider = Provider::start();
    provider.answers(&person("ann", &["staff"]));
    let place = place(&provider);
    let service = place.start(&sandbox, None);
    let browser = Browser::start(&service.base, true).await;
    browser.goto("/console/upload").await;
    browser.reads("Sign in with localhost").await;
    if !place.is_cluster() {
        browser.examine("sign-in-openid-connect").await;
    }
    browser.follow("Sign in with localhost").await;
    browser.until("location.pathname === '/console/upload'").await;
    browser.press("Sign out").await;
    browser.reads("You are signed out here.").await;
    browser.follow("Sign out of localhost too").await;
    browser.until("location.pathname === '/console/sign-in' && !location.search").await;
    browser.goto("/console/batches").await;
    browser.reads("API key").await;
    browser.close().await;
}
