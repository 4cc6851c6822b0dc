//! APIs with JSON, each with its own way to say no.

use penstock_tests::receiver::{Answer, Heard};
use serde_json::json;

use super::{Answered, Vendor, basic, field, json_body, must, ok, pairs, with};

pub(super) static GEOCODING: Vendor = Vendor {
    file: "geocoding.yaml",
    address: "GOOGLE_URL",
    variables: &[("GOOGLE_KEY", "k&1")],
    csv: "address,country\n\"1 Main St, Köln\",DE\nnowhere,FR\nbad,FR\n",
    context: "",
    answer: geocoding,
    effects: &["1 Main St, Köln in DE", "nowhere in FR"],
    failed: &[(3, "invalid_request", "Invalid request. Missing the 'address' parameter.")],
    result: ("latitude", &["50.9375000", "null"]),
};

fn geocoding(heard: &Heard, path: &str, _: usize) -> Answered {
    let (path, query) = path.split_once('?').ok_or("there is no query")?;
    let query = pairs(query);
    must(heard.method == "GET" && path == "/maps/api/geocode/json", || format!("there is no {path}"))?;
    must(field(&query, "key") == "k&1", || "it has another key".into())?;
    let country = field(&query, "components").strip_prefix("country:").ok_or("it has no country")?;
    let address = field(&query, "address");
    let results = match address {
        "bad" => {
            let message = "Invalid request. Missing the 'address' parameter.";
            return Ok((
                ok(json!({ "status": "INVALID_REQUEST", "error_message": message, "results": [] })),
                None,
            ));
        }
        "nowhere" => {
            return Ok((
                ok(json!({ "status": "ZERO_RESULTS", "results": [] })),
                Some(format!("{address} in {country}")),
            ));
        }
        // Every digit arrives.
        _ => {
            r#"{"status": "OK", "results": [{"geometry": {"location": {"lat": 50.9375000, "lng": 6.9603}}}]}"#
        }
    };
    Ok((Answer::json(results), Some(format!("{address} in {country}"))))
}

pub(super) static SLACK: Vendor = Vendor {
    file: "slack.yaml",
    address: "SLACK_URL",
    variables: &[("SLACK_TOKEN", "xoxb-1")],
    csv: "channel,text\nC1,Hello <there>\nC2,again\nC3,x\n",
    context: "",
    answer: slack,
    effects: &["C1 Hello <there>", "C2 again"],
    failed: &[(3, "channel_not_found", "Slack answered channel_not_found")],
    result: ("ts", &["1.C1", "1.C2"]),
};

fn slack(heard: &Heard, path: &str, before: usize) -> Answered {
    must(path == "/api/chat.postMessage", || format!("there is no {path}"))?;
    must(heard.header("authorization") == "Bearer xoxb-1", || "it has another token".into())?;
    must(heard.header("content-type") == "application/json; charset=utf-8", || "it names no charset".into())?;
    let body = json_body(heard)?;
    let channel = body["channel"].as_str().unwrap_or_default();
    if channel == "C3" {
        return Ok((ok(json!({ "ok": false, "error": "channel_not_found" })), None));
    }
    if before == 0 {
        return Ok((ok(json!({ "ok": false, "error": "internal_error" })), None));
    }
    let effect = format!("{channel} {}", body["text"].as_str().unwrap_or_default());
    Ok((ok(json!({ "ok": true, "ts": format!("1.{channel}") })), Some(effect)))
}

pub(super) static GITHUB: Vendor = Vendor {
    file: "github.yaml",
    address: "GITHUB_URL",
    variables: &[("GITHUB_TOKEN", "ghp_1"), ("GITHUB_ORG", "acme")],
    csv: "login\nada\neve\nnobody\n",
    context: "",
    answer: github,
    effects: &["ada", "eve"],
    failed: &[(3, "http_404", "Not Found")],
    result: ("membership", &["pending", "pending"]),
};

fn github(heard: &Heard, path: &str, before: usize) -> Answered {
    must(heard.header("authorization") == "Bearer ghp_1", || "it has another token".into())?;
    must(heard.header("accept") == "application/vnd.github+json", || "it accepts something else".into())?;
    must(heard.header("x-github-api-version") == "2022-11-28", || "it names no version".into())?;
    must(!heard.header("user-agent").is_empty(), || "it names no client".into())?;
    let login = path.strip_prefix("/orgs/acme/memberships/").ok_or("there is no such path")?;
    must(heard.method == "PUT" && json_body(heard)? == json!({ "role": "member" }), || heard.body.clone())?;
    if before == 0 {
        let mut answer = with(403, json!({ "message": "You have exceeded a secondary rate limit." }));
        answer.headers += "retry-after: 1\r\n";
        return Ok((answer, None));
    }
    if login == "nobody" {
        return Ok((
            with(404, json!({ "message": "Not Found", "documentation_url": "https://docs.example" })),
            None,
        ));
    }
    Ok((ok(json!({ "state": "pending", "role": "member" })), Some(login.to_owned())))
}

pub(super) static HUBSPOT: Vendor = Vendor {
    file: "hubspot.yaml",
    address: "HUBSPOT_URL",
    variables: &[("HUBSPOT_TOKEN", "pat-1")],
    csv: "email,first_name\nAda@e.example,Ada\nbad@e.example,Bob\neve@e.example,\n",
    context: "",
    answer: hubspot,
    effects: &["Ada@e.example Ada", "eve@e.example -"],
    failed: &[(2, "validation_error", "Email address bad@e.example is invalid")],
    result: ("contact", &["7-ada@e.example", "7-eve@e.example"]),
};

fn hubspot(heard: &Heard, path: &str, _: usize) -> Answered {
    must(path == "/crm/v3/objects/contacts/batch/upsert", || format!("there is no {path}"))?;
    must(heard.header("authorization") == "Bearer pat-1", || "it has another token".into())?;
    let body = json_body(heard)?;
    let inputs = body["inputs"].as_array().ok_or("there are no inputs")?;
    must((1..=100).contains(&inputs.len()), || "1 to 100 inputs".into())?;
    let (mut results, mut errors, mut effects) = (Vec::new(), Vec::new(), Vec::new());
    for input in inputs {
        let email = input["id"].as_str().unwrap_or_default();
        must(input["idProperty"] == "email" && input["properties"]["email"] == email, || input.to_string())?;
        if email.starts_with("bad") {
            let message = format!("Email address {email} is invalid");
            errors.push(json!({ "status": "error", "category": "VALIDATION_ERROR", "message": message, "context": { "id": [email] } }));
            continue;
        }
        effects.push(format!("{email} {}", input["properties"]["firstname"].as_str().unwrap_or("-")));
        let email = email.to_lowercase();
        results.insert(0, json!({ "id": format!("7-{email}"), "properties": { "email": email } }));
    }
    let status = if errors.is_empty() { 200 } else { 207 };
    let answer = with(status, json!({ "status": "COMPLETE", "results": results, "errors": errors }));
    Ok((answer, Some(effects.join("\n"))))
}

pub(super) static COMPANIES_HOUSE: Vendor = Vendor {
    file: "companies-house.yaml",
    address: "COMPANIES_URL",
    variables: &[("COMPANIES_KEY", "ch-1")],
    csv: "number\n00000001\nSC000002\n",
    context: "",
    answer: companies_house,
    effects: &["00000001", "SC000002"],
    failed: &[],
    result: ("company_status", &["active", "not found"]),
};

fn companies_house(heard: &Heard, path: &str, _: usize) -> Answered {
    must(basic(heard) == "ch-1:", || "its key is the user, without a password".into())?;
    let number = path.strip_prefix("/company/").ok_or("there is no such path")?;
    let answer = match number {
        "00000001" => ok(json!({ "company_name": "ADA LTD", "company_status": "active" })),
        _ => with(404, json!({ "errors": [{ "error": "company-profile-not-found", "type": "ch:service" }] })),
    };
    Ok((answer, Some(number.to_owned())))
}

pub(super) static CHECKR: Vendor = Vendor {
    file: "checkr.yaml",
    address: "CHECKR_URL",
    variables: &[("CHECKR_KEY", "ck-1")],
    csv: "email,first_name,last_name,state\nada@e.example,Ada,L,CA\neve@e.example,Eve,M,NY\n",
    context: r#"{"package": "driver_pro"}"#,
    answer: checkr,
    effects: &[
        "candidate ada@e.example",
        "candidate eve@e.example",
        "invitation c-ada@e.example CA",
        "invitation c-eve@e.example NY",
    ],
    failed: &[(2, "invitation_expired", "The invitation is expired.")],
    result: ("outcome", &["clear"]),
};

fn checkr(heard: &Heard, path: &str, _: usize) -> Answered {
    must(basic(heard) == "ck-1:", || "its key is the user, without a password".into())?;
    if let Some(id) = path.strip_prefix("/v1/invitations/i-") {
        let status = if id.contains("eve") { "expired" } else { "completed" };
        return Ok((ok(json!({ "status": status, "report_id": format!("r-{id}") })), None));
    }
    if path.starts_with("/v1/reports/r-") {
        return Ok((ok(json!({ "status": "complete", "result": "clear" })), None));
    }
    must(!heard.header("idempotency-key").is_empty(), || "each write has a key".into())?;
    let body = json_body(heard)?;
    match path {
        "/v1/candidates" => {
            let email = body["email"].as_str().ok_or("it has no email")?;
            Ok((with(201, json!({ "id": format!("c-{email}") })), Some(format!("candidate {email}"))))
        }
        "/v1/invitations" => {
            let candidate = body["candidate_id"].as_str().ok_or("it has no candidate")?;
            let place = &body["work_locations"][0];
            must(body["package"] == "driver_pro" && place["country"] == "US", || body.to_string())?;
            let effect = format!("invitation {candidate} {}", place["state"].as_str().unwrap_or_default());
            let id = candidate.trim_start_matches("c-");
            Ok((with(201, json!({ "id": format!("i-{id}"), "status": "pending" })), Some(effect)))
        }
        other => Err(format!("there is no {other}")),
    }
}
