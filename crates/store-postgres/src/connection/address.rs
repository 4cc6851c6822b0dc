//! DATABASE_URL: one server or several, as libpq writes them, and a password with any characters.

use std::fmt::Write as _;
use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;

/// Parameters that sqlx reads.
const KNOWN: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
];

/// Parameters of libpq for times and names, which are set here.
const NOT_NEEDED: [&str; 8] = [
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "client_encoding",
    "fallback_application_name",
];

const HINT: &str = "write `?`, `#` and `%` of a password as %3F, %23 and %25";

/// What one of the servers of a URL is connected with, in the URL's order.
///
/// # Errors
/// A sentence that says what is wrong and what to write instead. It holds nothing of the password.
pub fn parse(url: &str) -> Result<Vec<PgConnectOptions>, String> {
    let (scheme, rest) = url.split_once("://").ok_or("it has no `://`: use postgres://USER@HOST/DATABASE")?;
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    // A password may have slashes and at signs; hosts and names of databases have none.
    let (user, place) = before.rsplit_once('@').map_or((None, before), |(user, place)| (Some(user), place));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    let user = user.map(|user| format!("{}@", userinfo(user))).unwrap_or_default();
    let query = parameters(query, hosts.contains(','))?;
    let server = |host: &str| {
        let one = format!("{scheme}://{user}{host}/{database}{query}");
        // Nothing of the URL is repeated: what it was divided at may be in the password.
        PgConnectOptions::from_str(&one).map_err(|error| format!("{error}: {HINT}"))
    };
    hosts.split(',').map(server).collect()
}

/// A user and a password as a URL has them: what is encoded stays, and everything else that a URL divides by is encoded.
fn userinfo(text: &str) -> String {
    let (user, password) = text.split_once(':').map_or((text, None), |(user, rest)| (user, Some(rest)));
    let mut encoded = part(user);
    if let Some(password) = password {
        encoded.push(':');
        encoded.push_str(&part(password));
    }
    encoded
}

fn part(text: &str) -> String {
    let mut encoded = String::new();
    for (at, byte) in text.bytes().enumerate() {
        let rest = text.as_bytes().get(at + 1..at + 3);
        let is_code = byte == b'%' && rest.is_some_and(|rest| rest.iter().all(u8::is_ascii_hexdigit));
        if is_code || byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The parameters that sqlx reads.
fn parameters(query: &str, several: bool) -> Result<String, String> {
    let mut kept = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name {
            "target_session_attrs" => match value {
                "read-write" | "primary" => {}
                "any" if !several => {}
                other => {
                    return Err(format!(
                        "target_session_attrs={other} can lead to a server that takes no writes: use read-write"
                    ));
                }
            },
            "host" | "hostaddr" | "port" if value.contains(',') => {
                return Err(format!(
                    "several servers in `{name}`: write them before the database, postgres://USER@HOST:PORT,HOST:PORT/DATABASE"
                ));
            }
            name if NOT_NEEDED.contains(&name) => {}
            name if KNOWN.contains(&name) || name.starts_with("options[") => kept.push(parameter),
            // It may be a part of a password.
            _ if query.contains('@') => return Err(format!("a parameter is not supported: {HINT}")),
            name => return Err(format!("the parameter `{name}` is not supported: remove it")),
        }
    }
    Ok(if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) })
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions as _;

    use super::*;

    #[test]
    fn a_url_names_one_server_or_several() {
        let hosts = |url| {
            let servers = parse(url).unwrap();
            servers.iter().map(|one| format!("{}:{}", one.get_host(), one.get_port())).collect::<Vec<_>>()
        };
        assert_eq!(hosts("postgres://a@one:5433/db?sslmode=disable"), ["one:5433"]);
        let several =
            "postgres://a@one:5433,two,[::1]:5434/db?target_session_attrs=read-write&connect_timeout=3";
        assert_eq!(hosts(several), ["one:5433", "two:5432", "[::1]:5434"]);
        assert!(parse(several).unwrap().iter().all(|one| one.get_database() == Some("db")));
    }

    #[test]
    fn a_password_has_any_characters() {
        for written in ["p/a@s:s%25w", "p%2Fa%40s%3As%25w"] {
            let url = parse(&format!("postgres://acme:{written}@one/db")).unwrap()[0].to_url_lossy();
            assert_eq!(url.password(), Some("p%2Fa%40s%3As%25w"), "{written}");
            assert_eq!((url.username(), url.host_str()), ("acme", Some("one")));
        }
        for url in ["postgres://acme:se?cret@one/db", "postgres://acme:s@e?cr=et@one/db"] {
            let error = parse(url).unwrap_err();
            assert!(error.contains("%3F") && !error.contains("acme") && !error.contains("cr"), "{error}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_with_what_to_write() {
        for (url, fix) in [
            ("postgres://one/db?target_session_attrs=standby", "use read-write"),
            ("postgres://one,two/db?target_session_attrs=any", "use read-write"),
            ("postgres:///db?host=one,two", "HOST:PORT,HOST:PORT"),
            ("postgres://one/db?channel_binding=require", "`channel_binding` is not supported: remove it"),
            ("postgres:one", "postgres://USER@HOST/DATABASE"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(fix), "{url}: {error}");
        }
    }
}
