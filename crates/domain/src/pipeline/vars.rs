//! `${NAME}`: variables of the environment, filled in as what they are, text.
//!
//! Whatever a value holds, it can never become a part of a template: `{{` in it stands for itself. Within an expression
//! a value is a string, escaped where it stands in quotes; a number or a truth value stands for itself there.
#![allow(missing_docs, reason = "private to the loader")]

/// What stands between two variables, and a variable's name.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    /// `$${`: the characters themselves.
    Escaped,
    Variable(&'a str),
}

/// What becomes of a `${NAME}` that has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// An error: the definition cannot make its calls.
    Refused,
    /// It stays open. For services that make no calls and must not hold the values.
    Allowed,
}

/// Variables by which Penstock itself is set up. Some hold its own secrets, so `${NAME}` reads none of them.
const OWN_PREFIXES: [&str; 6] =
    ["PENSTOCK_", "DATABASE_URL", "REDIS_URL", "OBJECT_STORE_URL", "OTEL_", "PGSSL"];

/// What the client of S3 reads: Penstock's own where its object store is S3, which only the program knows.
const S3_PREFIX: &str = "AWS_";

/// Variables that the client of PostgreSQL reads.
const OWN_NAMES: [&str; 7] =
    ["PGPASSWORD", "PGPASSFILE", "PGUSER", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE"];

/// Whether a variable sets Penstock itself up, so that a definition reads it only where the operator listed it.
pub fn is_own_setting(name: &str) -> bool {
    // Some clients read their settings in any case.
    let name = name.to_ascii_uppercase();
    OWN_NAMES.contains(&name.as_str()) || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a variable sets Penstock itself up where its object store is S3.
pub fn is_s3_setting(name: &str) -> bool {
    name.to_ascii_uppercase().starts_with(S3_PREFIX)
}

/// Why a variable has no value, and what to do.
pub fn why_missing(name: &str) -> String {
    if is_own_setting(name) {
        format!(
            "${{{name}}} is a setting of Penstock itself, which definitions do not read; take it out, or list {name} in \
             PENSTOCK_PIPELINE_VARIABLES if it is meant"
        )
    } else if is_s3_setting(name) {
        format!(
            "the environment has no variable {name}, or it is a setting of Penstock itself, whose object store is S3; set it, \
             or list {name} in PENSTOCK_PIPELINE_VARIABLES if it is meant"
        )
    } else {
        format!("the environment has no variable {name}; set it, or take ${{{name}}} out")
    }
}

/// A `${` that nothing closes.
#[derive(Debug, PartialEq)]
pub struct Unclosed;

/// Looks a variable up; none has been reported by then.
pub type Lookup<'a> = &'a mut dyn FnMut(&str) -> Option<String>;

fn pieces(text: &str) -> Result<Vec<Piece<'_>>, Unclosed> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, behind) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            pieces.extend([Piece::Text(before), Piece::Escaped]);
            rest = &behind[2..];
            continue;
        }
        let end = behind.find('}').ok_or(Unclosed)?;
        pieces.extend([Piece::Text(before), Piece::Variable(&behind[2..end])]);
        rest = &behind[end + 1..];
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

/// A text that is no template, filled; none when a variable is missing.
pub fn fill(text: &str, vars: Lookup<'_>) -> Result<Option<String>, Unclosed> {
    let mut out = String::with_capacity(text.len());
    let mut complete = true;
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Escaped => out.push_str("${"),
            Piece::Variable(name) => match vars(name) {
                Some(value) => out.push_str(&value),
                None => complete = false,
            },
        }
    }
    Ok(complete.then_some(out))
}

/// A template, filled.
#[derive(Debug, PartialEq)]
pub enum Filled {
    /// It has no expression: this is what it says.
    Plain(String),
    /// A template, in which values are literals.
    Template(String),
}

/// A template, filled; none when a variable is missing. In a path braces are percent-encoded, as they are in a URL.
pub fn fill_template(text: &str, path: bool, vars: Lookup<'_>) -> Result<Option<Filled>, Unclosed> {
    let pieces = pieces(text)?;
    let mut complete = true;
    // The first look tells whether there is any expression, without which there is nothing to escape.
    let mut lexer = Lexer::default();
    let mut plain = String::with_capacity(text.len());
    for piece in &pieces {
        match piece {
            Piece::Text(text) => {
                lexer.read(text);
                plain.push_str(text);
            }
            Piece::Escaped => plain.push_str("${"),
            Piece::Variable(name) => match vars(name) {
                Some(value) => plain.push_str(&value),
                None => complete = false,
            },
        }
        lexer.border();
    }
    if !complete {
        return Ok(None);
    }
    if !lexer.seen {
        return Ok(Some(Filled::Plain(plain)));
    }
    let mut lexer = Lexer::default();
    let mut out = String::with_capacity(text.len() * 2);
    for piece in &pieces {
        match piece {
            Piece::Text(text) => {
                lexer.read(text);
                out.push_str(text);
            }
            Piece::Escaped => literal("${", lexer.state, path, &mut out),
            Piece::Variable(name) => {
                literal(&vars(name).unwrap_or_default(), lexer.state, path, &mut out);
            }
        }
        lexer.border();
    }
    Ok(Some(Filled::Template(out)))
}

/// Appends a value as a literal of the place where it stands.
fn literal(value: &str, state: State, path: bool, out: &mut String) {
    match state {
        State::Text if path => {
            // A brace before the value would make a beginning of it.
            if out.ends_with('{') {
                out.pop();
                out.push_str("%7B");
            }
            out.push_str(&value.replace('{', "%7B"));
        }
        State::Text => {
            let brace = if out.ends_with('{') { out.pop() } else { None };
            for text in brace.map(String::from).iter().map(String::as_str).chain([value]) {
                out.push_str("{{ \"");
                escape(text, '"', out);
                out.push_str("\" }}");
            }
        }
        State::Raw => {
            out.push_str("{% endraw %}{{ \"");
            escape(value, '"', out);
            out.push_str("\" }}{% raw %}");
        }
        State::Quoted(quote) => escape(value, quote, out),
        State::Code(_)
            if value.parse::<f64>().is_ok_and(f64::is_finite) || value == "true" || value == "false" =>
        {
            out.push_str(value);
        }
        State::Code(_) => {
            out.push('"');
            escape(value, '"', out);
            out.push('"');
        }
        // Nobody reads it.
        State::Comment => {}
    }
}

fn escape(value: &str, quote: char, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
}

/// Where in a template a character stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    Text,
    /// Between `{{` or `{%` and its end: a `}` or a `%` before a `}`.
    Code(char),
    /// In a string there.
    Quoted(char),
    Comment,
    /// Between `{% raw %}` and `{% endraw %}`.
    Raw,
}

/// Follows a template's text, as far as the place of a variable depends on it.
#[derive(Debug, Default)]
struct Lexer {
    state: State,
    /// The end of the code around a string.
    end: char,
    /// What stands in the tag so far.
    tag: String,
    before: char,
    escaped: bool,
    /// Brackets that are open: the end of the code is not looked for between them.
    depth: u32,
    /// Whether there is anything but text.
    seen: bool,
}

impl Lexer {
    /// A variable stands between what was read and what comes: they make no sign together.
    fn border(&mut self) {
        self.before = '\0';
        self.escaped = false;
    }

    fn read(&mut self, text: &str) {
        for c in text.chars() {
            let before = std::mem::replace(&mut self.before, c);
            match self.state {
                State::Text if before == '{' && matches!(c, '{' | '%' | '#') => {
                    self.seen = true;
                    self.tag.clear();
                    self.state = match c {
                        '{' => State::Code('}'),
                        '%' => State::Code('%'),
                        _ => State::Comment,
                    };
                    self.before = '\0';
                }
                State::Text => {}
                State::Comment => {
                    if before == '#' && c == '}' {
                        self.leave();
                    }
                }
                State::Raw => {
                    self.tag.push(c);
                    let tail = self.tag.trim_end_matches('}').trim_end_matches(['%', '-', '+']).trim_end();
                    if c == '}' && before == '%' && tail.ends_with("endraw") {
                        self.leave();
                    }
                }
                State::Code(end) if before == end && c == '}' && self.depth == 0 => {
                    let raw =
                        end == '%' && self.tag.trim_end_matches('%').trim_matches(['-', '+']).trim() == "raw";
                    self.leave();
                    if raw {
                        self.state = State::Raw;
                    }
                }
                State::Code(end) => {
                    self.tag.push(c);
                    match c {
                        '"' | '\'' => {
                            self.end = end;
                            self.state = State::Quoted(c);
                        }
                        '(' | '[' | '{' => self.depth += 1,
                        ')' | ']' | '}' if self.depth > 0 => {
                            self.depth -= 1;
                            self.before = '\0';
                        }
                        _ => {}
                    }
                }
                State::Quoted(quote) => {
                    if self.escaped {
                        self.escaped = false;
                    } else if c == '\\' {
                        self.escaped = true;
                    } else if c == quote {
                        self.state = State::Code(self.end);
                        self.before = '\0';
                    }
                }
            }
        }
    }

    fn leave(&mut self) {
        self.tag.clear();
        self.depth = 0;
        self.before = '\0';
        self.state = State::Text;
    }
}

#[cfg(test)]
mod tests {
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
        let mut vars = |name: &str| {
            VALUES.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        fill_template(text, path, &mut vars).unwrap()
    }

    /// What a filled template says when it is rendered.
    fn said(text: &str) -> String {
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
            assert!(is_s3_setting(name), "{name}");
        }
        assert!(!is_own_setting("VENDOR_TOKEN"));
    }

    #[test]
    fn a_value_is_what_it_is_wherever_it_stands() {
        for (name, value) in VALUES {
            assert_eq!(said(&format!("Bearer ${{{name}}}")), format!("Bearer {value}"));
            assert_eq!(said(&format!("{{{{ v }}}}/${{{name}}}/{{{{ v }}}}")), format!("2/{value}/2"));
            assert_eq!(said(&format!("{{{{ v }}}} {{${{{name}}}}}")), format!("2 {{{value}}}"));
            assert_eq!(said(&format!("{{{{ v ~ \"-${{{name}}}-\" }}}}")), format!("2-{value}-"));
            assert_eq!(said(&format!("{{{{ v ~ '-${{{name}}}-' }}}}")), format!("2-{value}-"));
            assert_eq!(said(&format!("{{{{ v ~ '\\'-${{{name}}}' }}}}")), format!("2'-{value}"));
            assert_eq!(said(&format!("{{# ${{{name}}} #}}{{{{ v }}}}")), "2");
            assert_eq!(
                said(&format!("{{% raw -%}} {{{{ ${{{name}}} }}}}{{% endraw %}}{{{{ v }}}}")),
                format!("{{{{ {value} }}}}2")
            );
            assert_eq!(
                said(&format!("{{% if '${{{name}}}' %}}y{{% endif %}}${{{name}}}")),
                format!("y{value}")
            );
            assert_eq!(said(&format!("{{{{ v }}}}{{{{ '}}}}' }}}}${{{name}}}")), format!("2}}}}{value}"));
        }
        assert_eq!(said("{{ {'a': {'b': {}}}['a']['${A}'] is defined }}${T}"), "false{{ row.secret }}");
        assert_eq!(said("{{ ${N} * v }} {{ ${A} }} {{ 1 if ${B} }}"), "-3.0 plain 1");
        assert_eq!(said("{{ v }} $${A} $$${A}"), "2 ${A} $${A}");
        assert_eq!(said("no template: {${T}} ${S}"), "no template: {{{ row.secret }}} {% if x %}");
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
}
