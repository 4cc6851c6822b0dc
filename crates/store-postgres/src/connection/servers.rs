//! Which of several servers takes writes, and with which password they are connected to.
//!
//! sqlx's pool connects to one server. Where DATABASE_URL names several, the one that takes writes is looked for before the first
//! connection, and again whenever there are signs that it changed; the pool is given its address then.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{FutureExt as _, select_ok};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _};

use super::address;

/// A server that does not answer within this time is not the one.
const ANSWER: Duration = Duration::from_secs(2);

/// How much later than another one the present server may answer, and stay.
const GRACE: Duration = Duration::from_millis(250);

/// Reads a password from its file; an error is a sentence.
pub type ReadPassword = dyn Fn() -> Result<String, String> + Send + Sync;

/// Where the password is.
#[derive(Clone)]
pub struct PasswordFile {
    /// The file.
    pub path: PathBuf,
    /// Reads it.
    pub read: Arc<ReadPassword>,
}

impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PasswordFile").field(&self.path).finish()
    }
}

/// The servers of a URL.
#[derive(Clone, Debug)]
pub struct Servers {
    candidates: Vec<PgConnectOptions>,
    password: Option<PasswordFile>,
}

impl Servers {
    /// Those of a URL.
    ///
    /// # Errors
    /// A sentence, see [`address::parse`].
    pub fn parse(url: &str, application_name: &str, password: Option<PasswordFile>) -> Result<Self, String> {
        let user = url.split('?').next().and_then(|before| before.rsplit_once('@')).map(|(user, _)| user);
        let user = user.and_then(|user| user.split_once("://")).map_or("", |(_, user)| user);
        if password.is_some() && user.contains(':') {
            return Err(
                "it has a password, and PENSTOCK_DATABASE_PASSWORD_FILE is set: keep one of them".into()
            );
        }
        let options = |options: PgConnectOptions| {
            // PgBouncer refuses to start a session with extra_float_digits, and numbers are read in binary.
            options.application_name(application_name).extra_float_digits(None).statement_cache_capacity(256)
        };
        let mut candidates: Vec<PgConnectOptions> = Vec::new();
        for server in address::parse(url)?.into_iter().map(options) {
            if !candidates.iter().any(|known| is_same(known, &server)) {
                candidates.push(server);
            }
        }
        Ok(Self { candidates, password })
    }

    /// Whether the one that takes writes has to be looked for.
    pub fn are_several(&self) -> bool {
        self.candidates.len() > 1
    }

    /// Whether the password is read again for a new connection.
    pub fn has_password_file(&self) -> bool {
        self.password.is_some()
    }

    /// The first one, without a password that is in a file.
    pub fn first(&self) -> PgConnectOptions {
        self.candidates[0].clone()
    }

    /// The server that takes writes, with the password as it is now. Where several do (poolers before one server, for example), it is
    /// the `present` one while that is among them.
    pub async fn primary(&self, present: Option<&PgConnectOptions>) -> Result<PgConnectOptions, sqlx::Error> {
        let password = self.read_password().await?;
        let with_password = |options: &PgConnectOptions| match &password {
            Some(password) => options.clone().password(password),
            None => options.clone(),
        };
        if !self.are_several() {
            return Ok(with_password(&self.candidates[0]));
        }
        let is_present = |options: &&PgConnectOptions| present.is_some_and(|one| is_same(one, options));
        let look = |options: &PgConnectOptions| looked_at(with_password(options)).boxed();
        let others = self.candidates.iter().filter(|options| !is_present(options)).map(look);
        // There is one at least: no two of several servers are the same.
        let mut others = select_ok(others);
        let found = match self.candidates.iter().find(is_present).map(look) {
            None => others.await.map(|(options, _)| options),
            Some(mut present) => tokio::select! {
                biased;
                found = &mut present => match found {
                    Ok(options) => Ok(options),
                    Err(_) => others.await.map(|(options, _)| options),
                },
                found = &mut others => match found {
                    Ok((other, _)) => {
                        let present = tokio::time::timeout(GRACE, present).await;
                        Ok(present.ok().and_then(Result::ok).unwrap_or(other))
                    }
                    Err(_) => present.await,
                },
            },
        };
        found.map_err(|error| {
            let text = format!(
                "none of the {} servers of DATABASE_URL takes writes now; the last one: {error}",
                self.candidates.len()
            );
            sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::NotConnected, text))
        })
    }

    async fn read_password(&self) -> Result<Option<String>, sqlx::Error> {
        let Some(PasswordFile { read, .. }) = self.password.clone() else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || read()).await;
        let read = read.map_err(|error| error.to_string()).flatten();
        read.map(Some).map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))
    }
}

/// Whether two servers have one address.
pub(super) fn is_same(one: &PgConnectOptions, other: &PgConnectOptions) -> bool {
    one.get_host() == other.get_host() && one.get_port() == other.get_port()
}

/// The server's options again, provided that it takes writes.
async fn looked_at(options: PgConnectOptions) -> Result<PgConnectOptions, sqlx::Error> {
    let takes_none = async {
        let mut connection = options.connect().await?;
        let look = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool";
        let takes_none = connection.fetch_one(look).await?.try_get::<bool, _>(0)?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(takes_none)
    };
    let silent = |_| sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"));
    if tokio::time::timeout(ANSWER, takes_none).await.map_err(silent)?? {
        let text = format!("{}:{} takes no writes", options.get_host(), options.get_port());
        return Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ReadOnlyFilesystem, text)));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two names of one server both take writes: whichever answers first, the present one stays.
    #[tokio::test]
    async fn of_several_that_take_writes_the_present_one_stays() {
        let url = std::env::var("PENSTOCK_TEST_POSTGRES_URL").expect("`cargo xtask test` sets it");
        let several = url.replace("127.0.0.1", "localhost");
        let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next()).expect("a port");
        let several =
            several.replace(&format!("localhost:{port}"), &format!("localhost:{port},127.0.0.1:{port}"));
        let servers = Servers::parse(&several, "test", None).unwrap();
        assert!(servers.are_several());
        for _ in 0..10 {
            for present in &servers.candidates {
                assert!(is_same(&servers.primary(Some(present)).await.unwrap(), present));
            }
        }
        // One that is gone does not.
        let gone = PgConnectOptions::new().host("127.0.0.1").port(9);
        assert!(servers.primary(Some(&gone)).await.is_ok());
        let twice = format!("postgres://a@one:{port},one:{port}/db");
        assert!(!Servers::parse(&twice, "test", None).unwrap().are_several());
    }
}
