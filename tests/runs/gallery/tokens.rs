//! APIs whose tokens come from an endpoint.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use penstock_tests::receiver::Heard;
use ring::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::{Answered, Vendor, field, form_body, json_body, must, ok, with};

pub(super) static SALESFORCE: Vendor = Vendor {
    file: "salesforce.yaml",
    address: "SALESFORCE_URL",
    variables: &[("SALESFORCE_ID", "client-1"), ("SALESFORCE_SECRET", "s&cret/1")],
    csv: "key,last_name,email\nK-1,Ada,ada@e.example\nK-2,Eve,\nK-3,Bob,bad@e.example\nK-4,Joe,\n",
    context: "",
    answer: salesforce,
    effects: &["K-1 Ada ada@e.example", "K-2 Eve null", "K-4 Joe null"],
    failed: &[(3, "invalid_email_address", "Email: invalid email address: bad@e.example")],
    result: ("contact", &["003K-1", "003K-2", "003K-4"]),
};

fn salesforce(heard: &Heard, path: &str, before: usize) -> Answered {
    if path == "/services/oauth2/token" {
        let form = form_body(heard)?;
        must(field(&form, "grant_type") == "client_credentials", || format!("{form:?}"))?;
        let client = (field(&form, "client_id"), field(&form, "client_secret"));
        must(client == ("client-1", "s&cret/1"), || "it is another client".into())?;
        return Ok((
            ok(json!({ "access_token": format!("t{before}"), "token_type": "Bearer", "issued_at": "1" })),
            None,
        ));
    }
    must(heard.header("authorization").starts_with("Bearer t"), || "it has no token".into())?;
    let key = path
        .strip_prefix("/services/data/v60.0/sobjects/Contact/Ext_Key__c/")
        .ok_or("there is no such path")?;
    must(heard.method == "PATCH", || format!("it is {}", heard.method))?;
    let body = json_body(heard)?;
    if before == 2 {
        // Tokens have no known end: this is how it is told.
        let ended = json!([{ "message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID" }]);
        return Ok((with(401, ended), None));
    }
    if body["Email"] == "bad@e.example" {
        let message = "Email: invalid email address: bad@e.example";
        return Ok((with(400, json!([{ "message": message, "errorCode": "INVALID_EMAIL_ADDRESS" }])), None));
    }
    let email = body["Email"].as_str().unwrap_or("null");
    let effect = format!("{key} {} {email}", body["LastName"].as_str().ok_or("it has no LastName")?);
    Ok((with(201, json!({ "id": format!("003{key}"), "success": true, "errors": [] })), Some(effect)))
}

pub(super) static DOCUSIGN: Vendor = Vendor {
    file: "docusign.yaml",
    address: "DOCUSIGN_URL",
    variables: &[
        ("DOCUSIGN_CLIENT", "integration-1"),
        ("DOCUSIGN_USER", "user-1"),
        ("DOCUSIGN_ACCOUNT", "acc-1"),
    ],
    csv: "email,name\nada@e.example,Ada\nbad@e.example,Bob\n",
    context: r#"{"template": "t-1"}"#,
    answer: docusign,
    effects: &["ada@e.example Ada"],
    failed: &[(2, "invalid_email_address_for_recipient", "The email address for the recipient is invalid.")],
    result: ("envelope", &["env-ada@e.example"]),
};

/// # Errors
/// Unless the assertion is one that the integration's key has signed (RFC 7523).
fn verify(assertion: &str) -> Result<(), String> {
    let (signed, signature) = assertion.rsplit_once('.').ok_or("it is no JWT")?;
    let (head, claims) = signed.split_once('.').ok_or("it is no JWT")?;
    let plain = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|error| error.to_string());
    let read = |part: &str| serde_json::from_slice::<Value>(&plain(part)?).map_err(|error| error.to_string());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples/tests/secrets/docusign.pem");
    let key = PrivatePkcs8KeyDer::from_pem_file(file).expect("a key");
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).expect("an RSA key");
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref())
        .verify(signed.as_bytes(), &plain(signature)?)
        .map_err(|_| "the signature is another one".to_owned())?;
    let (head, claims) = (read(head)?, read(claims)?);
    must(head["alg"] == "RS256", || head.to_string())?;
    let known = claims["iss"] == "integration-1"
        && claims["sub"] == "user-1"
        && claims["aud"] == "account.docusign.com";
    must(known && claims["scope"] == "signature impersonation", || claims.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let (from, until) = (claims["iat"].as_u64().unwrap_or(0), claims["exp"].as_u64().unwrap_or(0));
    must(from.abs_diff(now) < 60 && (now..=from + 3600).contains(&until), || claims.to_string())
}

fn docusign(heard: &Heard, path: &str, _: usize) -> Answered {
    if path == "/oauth/token" {
        let form = form_body(heard)?;
        let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        must(field(&form, "grant_type") == grant, || format!("{form:?}"))?;
        verify(field(&form, "assertion"))?;
        return Ok((ok(json!({ "access_token": "t-1", "token_type": "Bearer", "expires_in": 3600 })), None));
    }
    must(path == "/restapi/v2.1/accounts/acc-1/envelopes", || format!("there is no {path}"))?;
    must(heard.header("authorization") == "Bearer t-1", || "it has no token".into())?;
    let body = json_body(heard)?;
    must(body["templateId"] == "t-1" && body["status"] == "sent", || body.to_string())?;
    let role = &body["templateRoles"][0];
    let (email, name) = (role["email"].as_str().ok_or("no email")?, role["name"].as_str().ok_or("no name")?);
    if email.starts_with("bad") {
        let error = json!({ "errorCode": "INVALID_EMAIL_ADDRESS_FOR_RECIPIENT", "message": "The email address for the recipient is invalid." });
        return Ok((with(400, error), None));
    }
    Ok((
        with(201, json!({ "envelopeId": format!("env-{email}"), "status": "sent" })),
        Some(format!("{email} {name}")),
    ))
}
