//! How calls are authenticated: what is loaded, and what is a mistake.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use penstock_domain::pipeline::{Auth, Files, OwnerView, Pipeline, Unset};

fn vars(name: &str) -> Option<String> {
    match name {
        "URL" => Some("https://api.example/v1".into()),
        "TOKEN" => Some("to{{ken".into()),
        "DIR" => Some("/run/secrets".into()),
        "file:/run/secrets/token" | "file:conf/token" | "file:conf/it's" => Some("x".into()),
        _ => None,
    }
}

fn text(dependency: &str, request: &str) -> String {
    format!(
        "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies:\n  d:\n    base_url: \"${{URL}}\"\n    {dependency}\n\
         steps: [ {{ name: s, dependency: d, request: {{ method: GET, path: /x, {request} }} }} ]\n"
    )
}

fn load(text: &str) -> Result<Pipeline, String> {
    Pipeline::load("conf/p.yaml", text, &vars)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn with(dependency: &str) -> Result<Pipeline, String> {
    load(&text(dependency, ""))
}

/// Each file holds its own path.
struct Paths;

impl Files for Paths {
    fn read(&self, path: &Path) -> Result<Arc<str>, String> {
        Ok(format!("<{}>", path.display()).into())
    }
}

fn bearer(value: &str) -> String {
    let pipeline = with(&format!("auth: {{ bearer: \"{value}\" }}")).unwrap();
    let Some(Auth::Bearer(token)) = &pipeline.dependencies[0].auth else { panic!("{pipeline:?}") };
    token.text(&Paths).unwrap().into_owned()
}

#[test]
fn a_secret_is_a_variable_or_what_a_file_holds_when_it_is_needed() {
    for (written, value) in [
        ("plain", "plain"),
        ("${TOKEN}", "to{{ken"),
        ("a-${file:/run/secrets/token}-${TOKEN}", "a-</run/secrets/token>-to{{ken"),
        ("${file:token}${file:token}", "<conf/token><conf/token>"),
        ("${file:${DIR}/token}", "</run/secrets/token>"),
        ("${file:it's}", "<conf/it's>"),
        ("$${file:x}", "${file:x}"),
        ("a$5", "a$5"),
    ] {
        assert_eq!(bearer(written), value, "{written}");
    }
    let shown = format!("{:?}", with("auth: { bearer: \"${TOKEN}\" }").unwrap());
    assert!(!shown.contains("to{{ken"), "{shown}");
}

#[test]
fn an_expression_that_reads_no_owner_is_computed_when_a_call_is_made() {
    assert_eq!(bearer("{{ 'a:b' | base64 }}"), "YTpi");
    let secret = |of: &str| {
        let hmac = format!(
            "secret: \"{of}\", algorithm: sha256, message: m, headers: {{ X-S: \"{{{{ signature | hex }}}}\" }}"
        );
        let pipeline = with(&format!("auth: {{ hmac: {{ {hmac} }} }}"))?;
        let owner =
            OwnerView { secrets: [("key".to_owned(), "/wA=".to_owned())].into(), ..OwnerView::default() };
        let Some(Auth::Hmac(hmac)) = pipeline.dependencies[0].for_owner(&owner)?.auth else {
            panic!("{pipeline:?}")
        };
        Ok::<_, String>((hmac.secret.bytes(&Paths)?.into_owned(), hmac.secret.text(&Paths).map(|_| ())))
    };
    // Many APIs give the key of their signatures in base64: its bytes are no text.
    let refused =
        Err("an expression cannot be computed of the values that it reads, or makes no text".to_owned());
    for key in ["{{ '/wA=' | base64decode }}", "{{ owner.secrets.key | base64decode }}"] {
        assert_eq!(secret(key).unwrap(), (vec![0xFF, 0], refused.clone()), "{key}");
    }
    assert_eq!(secret("{{ '${TOKEN}' | base64decode }}").map(|_| ()), refused);
    let whom = "conf/p.yaml:5: dependency `d`: base_url has an expression that reads nothing of the owner";
    let address = text("hosts: [api.example]", "").replace("\"${URL}\"", "\"{{ 'https://api.example' }}\"");
    assert!(load(&address).map(|_| ()).unwrap_err().starts_with(whom));
}

#[test]
fn a_mistake_has_its_line_and_what_to_do() {
    let whom = "dependency `d`";
    let keys = "`auth` has one of `basic`, `bearer`, `api_key`, `oauth2`, `hmac` or `aws_sigv4`";
    for (line, wanted) in [
        ("auth: { }", format!("{whom}: {keys}; it has none")),
        (
            "auth: { bearer: x, basic: { username: y } }",
            format!("{whom}: {keys}; it has `basic` and `bearer`"),
        ),
        ("auth: { berer: x }", "unknown key `berer`; did you mean `bearer`?".into()),
        ("auth: { basic: { password: x } }", "the key `username` is missing here; add it".into()),
        (
            "auth: { basic: { username: \"a:b\" } }",
            format!(
                "{whom}: auth.basic.username ends at the first `:` (RFC 7617, 2), so that it cannot have one"
            ),
        ),
        (
            "auth: { bearer: \"${NONE}\" }",
            "the environment has no variable NONE; set it, or take ${NONE} out".into(),
        ),
        (
            "auth: { bearer: \"a \" }",
            format!("{whom}: auth.bearer begins or ends with white space; remove it"),
        ),
        (
            "auth: { bearer: \"a\\nb\" }",
            format!("{whom}: auth.bearer has a control character, such as a line break; remove it"),
        ),
        (
            "auth: { bearer: $TOKEN }",
            format!(
                "{whom}: auth.bearer: `$TOKEN` would be sent as it stands; write `${{TOKEN}}` for the variable"
            ),
        ),
        (
            "auth: { bearer: \"{{ row.a }}\" }",
            format!(
                "{whom}: auth.bearer: `row.a` is not known here; there are `owner.name`, `owner.vars.NAME` and `owner.secrets.NAME`, and everything else is known in the `request` of a step"
            ),
        ),
        (
            "auth: { api_key: { value: x } }",
            format!("{whom}: auth.api_key has `header: NAME` or `query: NAME`; it has neither"),
        ),
        (
            "auth: { api_key: { header: A, query: b, value: x } }",
            format!("{whom}: auth.api_key has `header: NAME` or `query: NAME`; it has both"),
        ),
        (
            "auth: { api_key: { header: Content-Length, value: x } }",
            format!(
                "{whom}: auth.api_key: `Content-Length` says how a message is sent, which is not a definition's; remove it"
            ),
        ),
        (
            "headers: { X-A: \"{{ row.a }}\" }",
            format!(
                "{whom}: the value of `X-A`: `row.a` is not known here; there are `owner.name`, `owner.vars.NAME` and `owner.secrets.NAME`, and everything else is known in the `request` of a step"
            ),
        ),
        (
            "headers: { X-A: \"a $TOKEN\" }",
            format!(
                "{whom}: the value of `X-A`: `$TOKEN` would be sent as it stands; write `${{TOKEN}}` for the variable"
            ),
        ),
        (
            "headers: { X-A: \"{{ ${file:token} }}\" }",
            format!(
                "{whom}: the value of `X-A`: `${{file:…}}` stands in an expression; write it outside of `{{{{ }}}}`"
            ),
        ),
        (
            "headers: { AUTHORIZATION: x }\n    auth: { bearer: x }",
            format!("{whom}: `auth` sends the header `AUTHORIZATION`; remove one of the two"),
        ),
    ] {
        assert_eq!(with(line).map(|_| ()), Err(format!("conf/p.yaml:6: {wanted}")), "{line}");
    }
    let missing = "the file `none` cannot be read; create it, let Penstock read it, or take ${file:none} out (a path that is not absolute begins at the definition's folder)";
    assert_eq!(
        with("auth: { bearer: \"${file:none}\" }").map(|_| ()),
        Err(format!("conf/p.yaml:6: {missing}"))
    );
    for (auth, request, wanted) in [
        ("bearer: x", "headers: { authorization: y }", "sends the header `authorization`"),
        ("api_key: { header: X-Key, value: x }", "headers: { x-key: y }", "sends the header `x-key`"),
        ("api_key: { query: key, value: x }", "query: { key: y }", "sends `key` in the query"),
    ] {
        let wanted = format!("conf/p.yaml:7: step `s`: the `auth` of `d` {wanted}; remove one of the two");
        assert_eq!(load(&text(&format!("auth: {{ {auth} }}"), request)).map(|_| ()), Err(wanted));
    }
    let user = text("auth: { bearer: x }", "").replace("${URL}", "https://u:p@api.example");
    assert_eq!(
        load(&user).map(|_| ()),
        Err(format!(
            "conf/p.yaml:5: {whom}: base_url has a user, and `auth` sends `Authorization` as well; remove one of the two"
        ))
    );
}

#[test]
fn a_dependency_of_an_owner_is_its_own() {
    let keys = "hosts: [\"*.api.example\"]\n    headers: { X-Shop: \"{{ owner.vars.shop | upper }}\" }\n    \
                auth: { bearer: \"{{ owner.secrets.token }}-${file:token}\" }";
    let text = text(keys, "").replace("${URL}", "https://{{ owner.vars.shop }}.api.example/v1");
    let shared = load(&text).unwrap().dependencies.remove(0);
    assert!(shared.reads_owner());
    let of = |name: &str, shop: &str, token: Option<&str>| OwnerView {
        name: name.into(),
        vars: [("shop".to_owned(), shop.to_owned())].into(),
        secrets: token.map(|token| ("token".to_owned(), token.to_owned())).into_iter().collect(),
    };
    let own = shared.for_owner(&of("acme", "one", Some("geheim"))).unwrap();
    assert_eq!(own.base_url.host_str(), Some("one.api.example"));
    assert_eq!(own.headers[0].1.text(&Paths).unwrap(), "ONE");
    let Some(Auth::Bearer(token)) = &own.auth else { panic!("{own:?}") };
    assert_eq!(token.text(&Paths).unwrap(), "geheim-<conf/token>");
    assert!(!format!("{own:?}{:?}", own.auth).contains("geheim"));
    let other = shared.for_owner(&of("rival", "one", Some("x"))).unwrap();
    assert_ne!(own.base_url, other.base_url, "limits are kept by address");
    let error = |owner: &OwnerView| shared.for_owner(owner).err().unwrap();
    assert_eq!(
        error(&of("acme", "one", None)),
        "dependency `d` needs a value that the owner acme does not have; set it by `penstock owners set acme --secret token=…`"
    );
    for shop in ["x.elsewhere.org/", "x@elsewhere.org#", "x.elsewhere.org?", "a b", "a:b@c"] {
        let error = error(&of("acme", shop, Some("x")));
        assert!(error.ends_with("nobody was called"), "{shop}: {error}");
    }
    let whom = "conf/p.yaml:5: dependency `d`: ";
    let no_hosts = text.replace("hosts: [\"*.api.example\"]", "timeout: 5s");
    assert_eq!(
        load(&no_hosts).map(|_| ()),
        Err(format!(
            "{whom}a base_url that reads the owner needs `hosts`, such as `hosts: [\"*.example.com\"]`"
        ))
    );
    // Secrets go to a token endpoint: an owner's variable may not lead them elsewhere.
    let endpoint = text.replace(
        "auth: { bearer: \"{{ owner.secrets.token }}-${file:token}\" }",
        "auth: { oauth2: { token_url: \"https://{{ owner.vars.shop }}.api.example/t\", grant: client_credentials, client_id: a, client_secret: b } }",
    );
    let shared = load(&endpoint).unwrap().dependencies.remove(0);
    assert!(shared.for_owner(&of("acme", "one", None)).is_ok());
    let fixed =
        endpoint.replace("https://{{ owner.vars.shop }}.api.example/v1", "https://one.api.example/v1");
    let shared = load(&fixed).unwrap().dependencies.remove(0);
    let error = shared.for_owner(&of("acme", "x.elsewhere.org/", None)).err().unwrap();
    assert!(error.contains("make a token_url that its `hosts` do not admit"), "{error}");
    let no_hosts = fixed.replace("hosts: [\"*.api.example\"]", "timeout: 5s");
    let error = load(&no_hosts).map(|_| ()).unwrap_err();
    assert!(error.contains("a token_url that reads the owner needs `hosts`"), "{error}");
    let row = text.replace("owner.vars.shop }}.api", "row.a }}.api");
    assert!(
        load(&row)
            .map(|_| ())
            .unwrap_err()
            .contains("base_url: `row.a` is not known here; there are `owner.name`")
    );
}

#[test]
fn what_a_grant_or_a_signature_lacks_is_known_before() {
    let oauth2 = |keys: &str| format!("auth: {{ oauth2: {{ token_url: \"https://l.example/t\", {keys} }} }}");
    let whom = "dependency `d`: auth.oauth2";
    for (keys, wanted) in [
        (
            "grant: client_credentials, client_id: a, client_secret: b, client_auth: body, parameters: { resource: x }",
            None,
        ),
        (
            "grant: client_credentials, client_id: a, client_secret: b, parameters: { grant_type: account_credentials }",
            None,
        ),
        (
            "grant: client_credentials, client_id: a",
            Some("{}: the grant `client_credentials` needs `client_id` and `client_secret`"),
        ),
        ("grant: refresh_token, client_id: a", Some("{}: the grant `refresh_token` needs `refresh_token`")),
        ("grant: jwt_bearer", Some("{}: the grant `jwt_bearer` needs `jwt`")),
        (
            "grant: refresh_token, refresh_token: x, client_secret: b",
            Some("{} has a client_secret and no client_id; add it"),
        ),
        (
            "grant: client_credentials, client_id: a, client_secret: b, refresh_token: c",
            Some("{}: `refresh_token` is only used by the grant `refresh_token`; remove one of the two"),
        ),
        (
            "grant: refresh_token, refresh_token: x, parameters: { grant_type: y }",
            Some("{}.parameters.grant_type is sent by Penstock itself; remove it"),
        ),
        (
            "grant: jwt_bearer, jwt: { issuer: a, audience: b, key: c }",
            Some("{}.jwt.key is not in PEM: there is no `-----BEGIN … PRIVATE KEY-----` in it"),
        ),
    ] {
        let wanted =
            wanted.map_or(Ok(()), |wanted| Err(format!("conf/p.yaml:6: {}", wanted.replace("{}", whom))));
        assert_eq!(with(&oauth2(keys)).map(|_| ()), wanted, "{keys}");
    }
    let url = with("auth: { oauth2: { token_url: login, grant: refresh_token, refresh_token: x } }");
    let wanted = format!(
        "conf/p.yaml:6: {whom}.token_url is not an absolute http or https URL, such as https://login.example.com/token"
    );
    assert_eq!(url.map(|_| ()), Err(wanted));
    let hmac = |message: &str| {
        format!(
            "auth: {{ hmac: {{ secret: x, algorithm: sha256, message: \"{message}\", headers: {{ X-S: \"{{{{ signature | hex }}}}\" }} }} }}"
        )
    };
    assert!(with(&hmac("{{ request.body }}${TOKEN}")).is_ok());
    let wrong = with(&hmac("{{ row.a }}")).map(|_| ()).unwrap_err();
    assert!(wrong.starts_with("conf/p.yaml:6: dependency `d`: auth.hmac.message: `row.a` is not known here; there are request.timestamp"), "{wrong}");
    let twice = with(
        "headers: { x-s: y }\n    auth: { hmac: { secret: x, algorithm: sha1, message: a, headers: { X-S: b } } }",
    );
    assert!(twice.map(|_| ()).unwrap_err().contains("`auth` sends the header `x-s`"));
    let sigv4 =
        "auth: { aws_sigv4: { service: SES, region: eu-west-1, access_key_id: a, secret_access_key: b } }";
    let wanted = "conf/p.yaml:6: dependency `d`: auth.aws_sigv4.service has small letters, digits and `-`, such as `eu-west-1`";
    assert_eq!(with(sigv4).map(|_| ()), Err(wanted.to_owned()));
}

#[test]
fn certificates_are_in_pem_and_a_proxy_is_a_url() {
    let pem = |label: &str| format!("-----BEGIN {label}-----\\nMII=\\n-----END {label}-----");
    let (certificate, key) = (pem("CERTIFICATE"), pem("EC PRIVATE KEY"));
    let whom = "conf/p.yaml:6: dependency `d`";
    for (line, wanted) in [
        (format!("tls: {{ ca: \"{certificate}\" }}"), None),
        (format!("tls: {{ certificate: \"{certificate}\", key: \"{key}\" }}"), None),
        ("tls: { }".to_owned(), Some("tls has `ca`, or `certificate` and `key`, or all three")),
        (
            format!("tls: {{ certificate: \"{certificate}\" }}"),
            Some("tls.certificate and tls.key belong together; add the other one"),
        ),
        (
            format!("tls: {{ ca: \"{key}\" }}"),
            Some("tls.ca is not in PEM: there is no `-----BEGIN … CERTIFICATE-----` in it"),
        ),
        ("proxy: http://proxy:3128".to_owned(), None),
        ("proxy: environment".to_owned(), None),
        (
            "proxy: https://proxy".to_owned(),
            Some("proxy is `environment`, or the URL of an http proxy, such as http://proxy:3128"),
        ),
        (
            "proxy: http://proxy/path".to_owned(),
            Some("proxy is `environment`, or the URL of an http proxy, such as http://proxy:3128"),
        ),
    ] {
        let wanted = wanted.map_or(Ok(()), |wanted| Err(format!("{whom}: {wanted}")));
        assert_eq!(with(&line).map(|_| ()), wanted, "{line}");
    }
    let plain =
        text(&format!("tls: {{ ca: \"{certificate}\" }}"), "").replace("${URL}", "http://api.example");
    assert_eq!(
        load(&plain).map(|_| ()),
        Err(format!("{whom}: tls is only used for https, and base_url is http"))
    );
}

#[test]
fn without_the_environment_files_may_be_missing() {
    let text = text("auth: { basic: { username: \"${NONE}\", password: \"${file:none}\" } }", "");
    assert!(Pipeline::load_with("p.yaml", &text, &|_| None, Unset::Refused).is_err());
    let text = text.replace("${URL}", "https://api.example");
    assert!(Pipeline::load_with("p.yaml", &text, &|_| None, Unset::Allowed).is_ok());
}
