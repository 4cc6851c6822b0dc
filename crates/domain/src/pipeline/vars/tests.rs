use super::*;

const VALUES: [(&str, &str); 8] = [
    ("A", "plain"),
    ("T", "{{ row.secret }}"),
    ("S", "{% if x %}"),
    ("H", "# }} %} #}"),
    ("Q", "a\"b'c\\d\ne"),
    ("N", "-1.5"),
    ("B", "true"),
    ("R", "{% endraw %}{{ x }}"),
];

fn filled(text: &str, path: bool) -> Option<Filled> {
    let mut vars =
        |name: &str| VALUES.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    fill_template(text, path, &mut vars).unwrap()
}

/// What a filled template says when it is rendered.
fn rendered(text: &str) -> String {
    match filled(text, false).unwrap() {
        Filled::Plain(text) => text,
        Filled::Template(template) => {
            let mut environment = super::super::template::environment();
            environment
                .add_template_owned("t", template.clone())
                .unwrap_or_else(|e| panic!("{template}: {e}"));
            environment.get_template("t").unwrap().render(minijinja::context!(v => 2)).unwrap()
        }
    }
}

#[test]
fn own_settings_are_known_in_any_case() {
    for name in ["PENSTOCK_ENCRYPTION_KEYS", "penstock_encryption_keys", "Database_Url", "pgpassword"] {
        assert!(is_own_setting(name), "{name}");
    }
    for name in ["AWS_SECRET_ACCESS_KEY", "aws_secret_access_key"] {
        assert!(is_object_store_setting(name, Some("s3")), "{name}");
    }
    assert!(!is_own_setting("VENDOR_TOKEN"));
}

#[test]
fn a_value_is_what_it_is_wherever_it_stands() {
    for (name, value) in VALUES {
        assert_eq!(rendered(&format!("Bearer ${{{name}}}")), format!("Bearer {value}"));
        assert_eq!(rendered(&format!("{{{{ v }}}}/${{{name}}}/{{{{ v }}}}")), format!("2/{value}/2"));
        assert_eq!(rendered(&format!("{{{{ v }}}} {{${{{name}}}}}")), format!("2 {{{value}}}"));
        assert_eq!(rendered(&format!("{{{{ v ~ \"-${{{name}}}-\" }}}}")), format!("2-{value}-"));
        assert_eq!(rendered(&format!("{{{{ v ~ '-${{{name}}}-' }}}}")), format!("2-{value}-"));
        assert_eq!(rendered(&format!("{{{{ v ~ '\\'-${{{name}}}' }}}}")), format!("2'-{value}"));
        assert_eq!(rendered(&format!("{{# ${{{name}}} #}}{{{{ v }}}}")), "2");
        assert_eq!(
            rendered(&format!("{{% raw -%}} {{{{ ${{{name}}} }}}}{{% endraw %}}{{{{ v }}}}")),
            format!("{{{{ {value} }}}}2")
        );
        assert_eq!(
            rendered(&format!("{{% if '${{{name}}}' %}}y{{% endif %}}${{{name}}}")),
            format!("y{value}")
        );
        assert_eq!(rendered(&format!("{{{{ v }}}}{{{{ '}}}}' }}}}${{{name}}}")), format!("2}}}}{value}"));
    }
    assert_eq!(rendered("{{ {'a': {'b': {}}}['a']['${A}'] is defined }}${T}"), "false{{ row.secret }}");
    assert_eq!(rendered("{{ ${N} * v }} {{ ${A} }} {{ 1 if ${B} }}"), "-3.0 plain 1");
    assert_eq!(rendered("{{ v }} $${A} $$${A}"), "2 ${A} $${A}");
    assert_eq!(rendered("no template: {${T}} ${S}"), "no template: {{{ row.secret }}} {% if x %}");
}

#[test]
fn a_path_has_no_braces() {
    let path = |text| filled(text, true).unwrap();
    assert_eq!(path("/${A}/x"), Filled::Plain("/plain/x".into()));
    assert_eq!(path("/${T}/{{ v }}"), Filled::Template("/%7B%7B row.secret }}/{{ v }}".into()));
    assert_eq!(path("/{{ v }}/{${S}"), Filled::Template("/{{ v }}/%7B%7B% if x %}".into()));
    assert_eq!(path("/{{ '${A}' }}"), Filled::Template("/{{ 'plain' }}".into()));
}

#[test]
fn what_is_missing_or_open_is_told() {
    assert_eq!(filled("{{ v }} ${NONE}", false), None);
    assert_eq!(filled("${NONE}", false), None);
    assert_eq!(fill_template("${A", false, &mut |_| None), Err(Unclosed));
    assert_eq!(fill("x $${A} ${B}", &mut |_| Some("{{".into())), Ok(Some("x ${A} {{".into())));
}
