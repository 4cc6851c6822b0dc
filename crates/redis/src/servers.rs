//! REDIS_URL: a server, the Sentinels that know which server it is, or nodes of a cluster.
//!
//! All keys of an installation are in one hash slot of a cluster, so one node has all of them: it is found as Sentinels' primary
//! is, before a connection is made.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo as _, RedisError, RedisResult, Value,
};

/// A Sentinel, or a node of a cluster, that does not answer within this time is passed over.
const ASK: Duration = Duration::from_millis(500);

/// A cluster's nodes send on to each other this often at most.
const MOST_HOPS: usize = 5;

/// Where the keys are.
pub(crate) enum Servers {
    One(ConnectionInfo),
    Sentinels { sentinels: Vec<ConnectionInfo>, name: String, primary: Template },
    Cluster { nodes: Vec<String>, template: Template, last: Mutex<Option<String>> },
}

/// How connections are made.
pub(crate) struct Way {
    pub(crate) tcp: TcpSettings,
    pub(crate) config: AsyncConnectionConfig,
}

impl Way {
    async fn connect(&self, info: ConnectionInfo) -> RedisResult<MultiplexedConnection> {
        let client = Client::open(info.set_tcp_settings(self.tcp.clone()))?;
        client.get_multiplexed_async_connection_with_config(&self.config).await
    }
}

/// What a server is connected to with, but for its address.
pub(crate) struct Template {
    scheme: &'static str,
    user: String,
    database: String,
}

impl Template {
    fn at(&self, address: &str) -> RedisResult<ConnectionInfo> {
        let Self { scheme, user, database } = self;
        format!("{scheme}://{user}{address}/{database}").into_connection_info()
    }
}

impl Servers {
    /// Those of a URL.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn parse(url: &str) -> RedisResult<Self> {
        let Some((scheme, kind, rest)) = split(url) else {
            return Ok(Self::One(url.into_connection_info()?));
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, place) = rest.rsplit_once('@').map_or(("", rest), |(user, place)| (user, place));
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        let (hosts, path) = place.split_once('/').unwrap_or((place, ""));
        let hosts: Vec<&str> = hosts.split(',').filter(|host| !host.is_empty()).collect();
        if hosts.is_empty() {
            return Err(wrong("it names no host"));
        }
        if kind == "cluster" {
            if !path.is_empty() && path != "0" {
                return Err(wrong("a cluster has no databases: leave out what follows the hosts"));
            }
            let template = Template { scheme, user, database: String::new() };
            let nodes: Vec<String> = hosts.into_iter().map(|host| with_port(host, 6379)).collect();
            for node in &nodes {
                template.at(node)?;
            }
            return Ok(Self::Cluster { nodes, template, last: Mutex::default() });
        }
        let (name, database) = path.split_once('/').unwrap_or((path, ""));
        if name.is_empty() {
            return Err(wrong(
                "it does not say what the Sentinels call the primary: redis+sentinel://HOST:26379,HOST:26379/NAME",
            ));
        }
        let sentinel = Template { scheme, user: sentinels_user(query)?, database: String::new() };
        let sentinels = hosts.into_iter().map(|host| sentinel.at(&with_port(host, 26379)));
        let sentinels = sentinels.collect::<RedisResult<Vec<_>>>()?;
        let primary = Template { scheme, user, database: database.to_owned() };
        primary.at("host:1")?;
        Ok(Self::Sentinels { sentinels, name: name.to_owned(), primary })
    }

    /// Whether keys are divided among servers.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster { .. })
    }

    /// The number of the database.
    pub(crate) fn database(&self) -> i64 {
        match self {
            Self::One(info) => info.redis_settings().db(),
            Self::Sentinels { primary, .. } => primary.database.parse().unwrap_or(0),
            Self::Cluster { .. } => 0,
        }
    }

    /// Connects to the server that has the keys; `key` is one of them.
    pub(crate) async fn connect(&self, key: &str, way: &Way) -> RedisResult<MultiplexedConnection> {
        match self {
            Self::One(info) => way.connect(info.clone()).await,
            Self::Sentinels { sentinels, name, primary } => {
                way.connect(primary.at(&primary_of(sentinels, name).await?)?).await
            }
            Self::Cluster { nodes, template, last } => {
                let known = last.lock().unwrap_or_else(PoisonError::into_inner).take();
                let mut failed = wrong("it names no node");
                for node in known.iter().chain(nodes) {
                    match node_of(node, template, key, way).await {
                        Ok((address, connection)) => {
                            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
                            return Ok(connection);
                        }
                        Err(error) => failed = error,
                    }
                }
                Err(failed)
            }
        }
    }
}

/// The scheme of the servers, what the URL names, and the rest; none: it names one server.
fn split(url: &str) -> Option<(&'static str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (scheme, kind) = scheme.split_once('+')?;
    let scheme = match scheme {
        "redis" => "redis",
        "rediss" => "rediss",
        _ => return None,
    };
    ["sentinel", "cluster"].contains(&kind).then_some((scheme, kind, rest))
}

/// The user at the Sentinels themselves, which is another one than the servers'.
fn sentinels_user(query: &str) -> RedisResult<String> {
    let (mut user, mut password) = ("", "");
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sentinel_username", value)) => user = value,
            Some(("sentinel_password", value)) => password = value,
            _ => {
                return Err(wrong(
                    "its parameters are sentinel_username and sentinel_password: remove others",
                ));
            }
        }
    }
    Ok(if password.is_empty() { String::new() } else { format!("{user}:{password}@") })
}

fn with_port(host: &str, port: u16) -> String {
    let after_address = host.rsplit(']').next().unwrap_or(host);
    if after_address.contains(':') { host.to_owned() } else { format!("{host}:{port}") }
}

fn wrong(text: &str) -> RedisError {
    RedisError::from(std::io::Error::new(std::io::ErrorKind::InvalidInput, text.to_owned()))
}

fn silent<E>(_: E) -> RedisError {
    RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"))
}

/// The primary's address, from the first Sentinel that knows it.
async fn primary_of(sentinels: &[ConnectionInfo], name: &str) -> RedisResult<String> {
    let mut failed = wrong("it names no Sentinel");
    for sentinel in sentinels {
        let ask = async {
            let client = Client::open(sentinel.clone())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
            ask.query_async::<Option<(String, u16)>>(&mut connection).await
        };
        match tokio::time::timeout(ASK, ask).await.map_err(silent).flatten() {
            Ok(Some((host, port))) if host.contains(':') => return Ok(format!("[{host}]:{port}")),
            Ok(Some((host, port))) => return Ok(format!("{host}:{port}")),
            Ok(None) => failed = wrong(&format!("the Sentinels know no primary of the name {name}")),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The node that has a key, found from another one: nodes know each other.
async fn node_of(
    node: &str,
    template: &Template,
    key: &str,
    way: &Way,
) -> RedisResult<(String, MultiplexedConnection)> {
    let mut address = node.to_owned();
    for _ in 0..MOST_HOPS {
        let info = template.at(&address)?;
        let mut connection = tokio::time::timeout(ASK, way.connect(info)).await.map_err(silent)??;
        let mut ask = redis::cmd("LLEN");
        let asked = ask.arg(key).query_async::<Value>(&mut connection);
        match tokio::time::timeout(ASK, asked).await.map_err(silent)? {
            Err(error) => match error.redirect_node() {
                Some((moved, _)) => moved.clone_into(&mut address),
                None => return Err(error),
            },
            Ok(_) => return Ok((address, connection)),
        }
    }
    Err(wrong("its nodes send on to each other in a circle"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_server_sentinels_or_a_cluster() {
        assert!(matches!(Servers::parse("redis://:p@one/2").unwrap(), Servers::One(_)));
        let url = "rediss+sentinel://acme:p%40w@one,two:1,[::1]/main/3?sentinel_password=s";
        let Servers::Sentinels { sentinels, name, primary } = Servers::parse(url).unwrap() else {
            panic!("Sentinels")
        };
        let addresses: Vec<_> = sentinels.iter().map(|one| one.addr().to_string()).collect();
        assert_eq!((addresses.join(" ").as_str(), name.as_str()), ("one:26379 two:1 ::1:26379", "main"));
        assert_eq!(sentinels[0].redis_settings().password(), Some("s"));
        let primary = primary.at("three:6380").unwrap();
        assert_eq!((primary.addr().to_string().as_str(), primary.redis_settings().db()), ("three:6380", 3));
        assert_eq!(primary.redis_settings().password(), Some("p@w"));
        let Servers::Cluster { nodes, .. } = Servers::parse("redis+cluster://one,two:7000").unwrap() else {
            panic!("a cluster")
        };
        assert_eq!(nodes, ["one:6379", "two:7000"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (url, why) in [
            ("redis+sentinel://one:26379", "what the Sentinels call the primary"),
            ("redis+sentinel:///main", "names no host"),
            ("redis+sentinel://one/main?timeout=3", "remove others"),
            ("redis+cluster://one/2", "a cluster has no databases"),
        ] {
            let Err(error) = Servers::parse(url) else { panic!("{url}") };
            assert!(error.to_string().contains(why), "{url}: {error}");
        }
        assert!(Servers::parse("http://one").is_err());
    }
}
