//! APIs that verify a signature, or a certificate.

use std::sync::Arc;

use penstock_tests::receiver::Heard;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ring::{digest, hmac};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use super::{Answered, Vendor, json_body, must, ok, with};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

pub(super) static SES: Vendor = Vendor {
    file: "ses.yaml",
    address: "SES_URL",
    variables: &[("SES_KEY_ID", "AKIDEXAMPLE"), ("SES_SECRET", SECRET)],
    csv: "email,name\nknown@e.example,Ada\nnew+1@e.example,Eve & Co\nbad@e.example,Bob\n",
    context: "",
    answer: ses,
    effects: &["new+1@e.example Welcome, Eve & Co"],
    failed: &[(3, "messagerejected", "Email address is not verified.")],
    result: ("message", &["", "m-new+1@e.example"]),
};

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes))
}

/// As AWS documents it: each segment of the path that was sent is encoded once more.
fn encoded(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    path.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// # Errors
/// Unless the request has the signature (AWS Signature Version 4) that it must have.
fn verify(heard: &Heard) -> Result<(), String> {
    let sent = heard.header("authorization");
    let part = |name: &str| {
        let rest = sent.split_once(&format!("{name}="))?.1;
        rest.split(", ").next().map(|value| value.trim_end_matches(',').to_owned())
    };
    let [credential, signed, signature] =
        ["Credential", "SignedHeaders", "Signature"].map(|name| part(name).unwrap_or_default());
    let at = heard.header("x-amz-date");
    let scope = format!("{}/eu-west-1/ses/aws4_request", at.get(..8).unwrap_or_default());
    must(credential == format!("AKIDEXAMPLE/{scope}"), || format!("the credential is {credential}"))?;
    for name in ["host", "x-amz-date"] {
        must(signed.split(';').any(|known| known == name), || format!("{name} is not signed"))?;
    }
    let headers: String = signed.split(';').map(|name| format!("{name}:{}\n", heard.header(name))).collect();
    let (path, query) = heard.path.split_once('?').unwrap_or((&heard.path, ""));
    let canonical = format!(
        "{}\n{}\n{query}\n{headers}\n{signed}\n{}",
        heard.method,
        encoded(path),
        hash(heard.body.as_bytes())
    );
    let text = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", hash(canonical.as_bytes()));
    let mac = |key: &[u8], text: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    let key = scope.split('/').fold(format!("AWS4{SECRET}").into_bytes(), |key, part| mac(&key, part));
    must(signature == hex(mac(&key, &text)), || "the signature is another one".into())
}

fn ses(heard: &Heard, path: &str, _: usize) -> Answered {
    verify(heard)?;
    if let Some(email) = path.strip_prefix("/v2/email/contact-lists/customers/contacts/") {
        let known = email.starts_with("known");
        return Ok((if known { ok(json!({})) } else { with(404, json!({ "message": "none" })) }, None));
    }
    must(path == "/v2/email/outbound-emails", || format!("there is no {path}"))?;
    let body = json_body(heard)?;
    let to = body["Destination"]["ToAddresses"][0].as_str().ok_or("there is no address")?;
    if to.starts_with("bad") {
        let mut answer = with(400, json!({ "message": "Email address is not verified." }));
        answer.headers += "x-amzn-errortype: MessageRejected\r\n";
        return Ok((answer, None));
    }
    let subject = body["Content"]["Simple"]["Subject"]["Data"].as_str().ok_or("there is no subject")?;
    Ok((ok(json!({ "MessageId": format!("m-{to}") })), Some(format!("{to} {subject}"))))
}

pub(super) static BANK: Vendor = Vendor {
    file: "bank.yaml",
    address: "BANK_URL",
    variables: &[],
    csv: "reference,amount\nINV-1,10.50\nINV-2,1\n",
    context: "",
    answer: pay,
    effects: &["INV-1 10.50"],
    failed: &[(2, "limit_exceeded", "Below the least amount")],
    result: ("payment", &["p-INV-1"]),
};

fn pay(heard: &Heard, path: &str, _: usize) -> Answered {
    must(heard.method == "PUT" && heard.header("x-api-key") == "k-1", || "it has another key".into())?;
    let reference = path.strip_prefix("/v1/payments/").ok_or("there is no such path")?;
    let body = json_body(heard)?;
    let amount = body["instructed_amount"]["value"].as_str().ok_or("amounts are texts")?;
    if reference == "INV-2" {
        return Ok((
            with(422, json!({ "code": "limit_exceeded", "message": "Below the least amount" })),
            None,
        ));
    }
    Ok((with(201, json!({ "payment_id": format!("p-{reference}") })), Some(format!("{reference} {amount}"))))
}

/// A server of a private authority that wants a client certificate of it, and the files that the definition names.
pub(super) fn bank() -> (TlsAcceptor, [(&'static str, String); 3]) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let issue = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (params.signed_by(&key, &authority).expect("a certificate"), key)
    };
    let ((server, server_key), (client, client_key)) = (issue("localhost"), issue("penstock"));
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let key = PrivateKeyDer::try_from(server_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(vec![server.der().clone()], key)
        .expect("a certificate and its key");
    let files = [
        ("bank-ca.pem", authority.pem()),
        ("bank-client.pem", client.pem()),
        ("bank-client.key", client_key.serialize_pem()),
    ];
    (TlsAcceptor::from(Arc::new(config)), files)
}
