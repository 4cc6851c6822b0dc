//! APIs that take forms and XML.

use penstock_tests::receiver::{Answer, Heard};
use serde_json::json;

use super::{Answered, Vendor, basic, field, form_body, media, must, ok, with};

pub(super) static STRIPE: Vendor = Vendor {
    file: "stripe.yaml",
    address: "STRIPE_URL",
    variables: &[("STRIPE_KEY", "sk_test_1")],
    csv: "email,name,amount,currency\nada@e.example,Ada & Co,19.99,eur\nbad@e.example,Bob,1,eur\neve@e.example,Eve,0.285,usd\n",
    context: "",
    answer: stripe,
    effects: &[
        "customer ada@e.example Ada & Co",
        "customer eve@e.example Eve",
        "item cus_ada@e.example 1999 eur",
        "item cus_eve@e.example 28 usd",
    ],
    failed: &[(2, "email_invalid", "Invalid email address: bad@e.example")],
    result: ("invoice_item", &["ii_1999", "ii_28"]),
};

fn stripe(heard: &Heard, path: &str, _: usize) -> Answered {
    must(basic(heard) == "sk_test_1:", || "its key is the user, without a password".into())?;
    must(!heard.header("idempotency-key").is_empty(), || "each write has a key".into())?;
    let form = form_body(heard)?;
    match path {
        "/v1/customers" => {
            must(field(&form, "metadata[row]").parse::<u32>().is_ok(), || format!("metadata is {form:?}"))?;
            must(!field(&form, "metadata[import]").is_empty(), || format!("metadata is {form:?}"))?;
            let email = field(&form, "email");
            if email.starts_with("bad") {
                let error = json!({ "type": "invalid_request_error", "code": "email_invalid", "message": format!("Invalid email address: {email}") });
                let mut answer = with(400, json!({ "error": error }));
                answer.headers += "stripe-should-retry: false\r\n";
                return Ok((answer, None));
            }
            let effect = format!("customer {email} {}", field(&form, "name"));
            Ok((ok(json!({ "id": format!("cus_{email}"), "object": "customer" })), Some(effect)))
        }
        "/v1/invoiceitems" => {
            let (customer, amount) = (field(&form, "customer"), field(&form, "amount"));
            must(amount.parse::<u64>().is_ok(), || format!("the amount is {amount}"))?;
            let effect = format!("item {customer} {amount} {}", field(&form, "currency"));
            Ok((ok(json!({ "id": format!("ii_{amount}") })), Some(effect)))
        }
        other => Err(format!("there is no {other}")),
    }
}

pub(super) static TWILIO: Vendor = Vendor {
    file: "twilio.yaml",
    address: "TWILIO_URL",
    variables: &[("TWILIO_SID", "AC1"), ("TWILIO_TOKEN", "t0ken")],
    csv: "to,from,text,picture\n+15551001,+15550001,Hello & bye,\n+15551002,+15550002,Look,https://p.example/a?b=c\n+15550000,+15550003,x,\n",
    context: "",
    answer: twilio,
    effects: &["+15551001 +15550001 Hello & bye -", "+15551002 +15550002 Look https://p.example/a?b=c"],
    failed: &[(3, "21211", "The 'To' number +15550000 is not a valid phone number.")],
    result: ("sid", &["SM+15551001", "SM+15551002"]),
};

fn twilio(heard: &Heard, path: &str, _: usize) -> Answered {
    must(basic(heard) == "AC1:t0ken", || "it is another account".into())?;
    must(path == "/2010-04-01/Accounts/AC1/Messages.json", || format!("there is no {path}"))?;
    let form = form_body(heard)?;
    let known = ["To", "From", "Body", "MediaUrl"];
    must(form.iter().all(|(name, value)| known.contains(&name.as_str()) && !value.is_empty()), || {
        format!("{form:?}")
    })?;
    let to = field(&form, "To");
    if to == "+15550000" {
        let message = format!("The 'To' number {to} is not a valid phone number.");
        return Ok((with(400, json!({ "code": 21211, "message": message, "status": 400 })), None));
    }
    let picture = Some(field(&form, "MediaUrl")).filter(|url| !url.is_empty()).unwrap_or("-");
    let effect = format!("{to} {} {} {picture}", field(&form, "From"), field(&form, "Body"));
    Ok((with(201, json!({ "sid": format!("SM{to}"), "status": "queued" })), Some(effect)))
}

pub(super) static VIES: Vendor = Vendor {
    file: "vies.yaml",
    address: "VIES_URL",
    variables: &[],
    csv: "country,vat\nDE,1&<2\nFR,later\nAT,bad\n",
    context: "",
    answer: vies,
    effects: &["DE 1&amp;&lt;2", "FR later"],
    failed: &[(3, "invalid_input", "INVALID_INPUT")],
    result: ("company", &["R&D 1&<2", "R&D later"]),
};

fn vies(heard: &Heard, path: &str, before: usize) -> Answered {
    must(path == "/taxation_customs/vies/services/checkVatService", || format!("there is no {path}"))?;
    must(media(heard) == "text/xml" && heard.header("soapaction") == "\"\"", || "it is no SOAP 1.1".into())?;
    let element = |name: &str| {
        let rest = heard.body.split_once(&format!("<v:{name}>"))?.1;
        rest.split_once(&format!("</v:{name}>")).map(|(text, _)| text.to_owned())
    };
    let country = element("countryCode").ok_or("no countryCode")?;
    let vat = element("vatNumber").ok_or("no vatNumber")?;
    must(!vat.replace("&amp;", "").replace("&lt;", "").contains(['&', '<']), || {
        format!("{vat} is not escaped")
    })?;
    let envelope = |status, body: String| Answer {
        status,
        headers: "content-type: text/xml; charset=utf-8\r\n".into(),
        body: format!(
            "<env:Envelope xmlns:env=\"http://schemas.xmlsoap.org/soap/envelope/\"><env:Body>{body}</env:Body></env:Envelope>"
        ),
    };
    let fault = |text: &str| {
        envelope(
            500,
            format!(
                "<env:Fault><faultcode>env:Server</faultcode><faultstring>{text}</faultstring></env:Fault>"
            ),
        )
    };
    if vat == "bad" {
        return Ok((fault("INVALID_INPUT"), None));
    }
    // Each number that passes is unavailable the first time, as long as not all three were asked for.
    if vat == "later" && before < 3 {
        return Ok((fault("MS_UNAVAILABLE"), None));
    }
    let answer = format!(
        "<c:checkVatResponse xmlns:c=\"urn:types\"><c:valid>true</c:valid><c:name>R&amp;D {vat}</c:name></c:checkVatResponse>"
    );
    Ok((envelope(200, answer), Some(format!("{country} {vat}"))))
}
