//! Settings of what strangers and clients meet: addresses, connections, and how much one of them may take.

use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use url::Url;

use crate::StartError;

/// Settings of the API's surface.
#[derive(Args, Clone, Debug)]
pub struct Surface {
    /// Where clients reach the API, for links: `https://api.example.com`; without it, where it listens
    #[arg(long, env = "PENSTOCK_PUBLIC_URL", global = true)]
    pub public_url: Option<String>,
    /// Whether the console, the web interface at /console, is served
    #[arg(long, env = "PENSTOCK_CONSOLE", default_value_t = true, action = clap::ArgAction::Set, global = true)]
    pub console: bool,
    /// Networks of proxies in front of the API, separated by commas: what they say of a client's address is believed
    #[arg(long, env = "PENSTOCK_TRUSTED_PROXIES", value_delimiter = ',', global = true)]
    pub trusted_proxies: Vec<IpNet>,
    /// Connections to the API at a time
    #[arg(long, env = "PENSTOCK_MAX_CONNECTIONS", default_value_t = 4096, global = true)]
    pub max_connections: usize,
    /// Connections of one address at a time, trusted proxies aside; without it, half of all
    #[arg(long, env = "PENSTOCK_CONNECTIONS_PER_ADDRESS", global = true)]
    pub connections_per_address: Option<usize>,
    /// How long the head of a request may take, in seconds
    #[arg(long, env = "PENSTOCK_HEAD_SECONDS", default_value_t = 15, global = true)]
    pub head_seconds: u64,
    /// Memory for uploads, reports and answers on their way in the API, in MiB
    #[arg(long, env = "PENSTOCK_API_MEMORY_MIB", default_value_t = 64, global = true)]
    pub api_memory_mib: usize,
    /// Requests of a key a minute in each API process; 0: no limit
    #[arg(long, env = "PENSTOCK_KEY_REQUESTS_PER_MINUTE", default_value_t = 60000, global = true)]
    pub key_requests: u32,
    /// Requests of an owner's keys together a minute in each API process; 0: no limit
    #[arg(long, env = "PENSTOCK_OWNER_REQUESTS_PER_MINUTE", default_value_t = 120000, global = true)]
    pub owner_requests: u32,
    /// Requests of an address without a valid key a minute in each API process; 0: no limit
    #[arg(long, env = "PENSTOCK_KEYLESS_REQUESTS_PER_MINUTE", default_value_t = 6000, global = true)]
    pub keyless_requests: u32,
    /// Uploads of a key a minute in each API process; 0: no limit
    #[arg(long, env = "PENSTOCK_KEY_UPLOADS_PER_MINUTE", default_value_t = 6000, global = true)]
    pub key_uploads: u32,
    /// Uploads of an owner's keys together a minute in each API process; 0: no limit
    #[arg(long, env = "PENSTOCK_OWNER_UPLOADS_PER_MINUTE", default_value_t = 12000, global = true)]
    pub owner_uploads: u32,
    /// Batches of an owner that are not erased; 0: no limit
    #[arg(long, env = "PENSTOCK_OWNER_BATCHES", default_value_t = 1000000, global = true)]
    pub owner_batches: u64,
    /// Files of an owner's batches that are not erased, in MiB; 0: no limit
    #[arg(long, env = "PENSTOCK_OWNER_STORED_MIB", default_value_t = 1048576, global = true)]
    pub owner_stored_mib: u64,
}

/// Files that a service needs beside its connections: databases, the object store, pipes.
const OTHER_FILES: u64 = 256;

/// Half of it holds a part of an object (5 MiB) and a record.
const LEAST_MEMORY_MIB: usize = 16;

impl Surface {
    /// The address that links begin with, without a slash at the end; none when links name where the API listens.
    ///
    /// # Errors
    /// When it is not an http or https address, or has a query.
    pub fn public_base(&self) -> Result<Option<String>, StartError> {
        let Some(text) = self.public_url.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        match url {
            Some(url) if url.query().is_none() && url.fragment().is_none() && url.username().is_empty() => {
                Ok(Some(url.as_str().trim_end_matches('/').to_owned()))
            }
            _ => Err(StartError::misuse(
                "PENSTOCK_PUBLIC_URL is not an address that clients can use: write https://api.example.com, without a \
                 user, a query or a fragment.",
            )),
        }
    }

    /// How long the head of a request may take.
    pub fn head(&self) -> Duration {
        Duration::from_secs(self.head_seconds)
    }

    /// Connections that this process can have: as many as were asked for, when it may open that many files.
    pub fn connections(&self) -> usize {
        let files = open_files();
        let possible = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX).max(16);
        if possible < self.max_connections {
            tracing::warn!(
                files,
                connections = possible,
                "this process may open fewer files than PENSTOCK_MAX_CONNECTIONS needs; raise its limit (ulimit -n)"
            );
        }
        self.max_connections.min(possible)
    }

    /// Memory for what is on its way, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.api_memory_mib.saturating_mul(1024 * 1024)
    }

    /// Connections that one address can have.
    pub fn per_address(&self) -> usize {
        self.connections_per_address.unwrap_or_else(|| self.connections() / 2).max(1)
    }

    /// Settings that make no sense.
    ///
    /// # Errors
    /// A sentence with the fix.
    pub fn check(&self) -> Result<(), StartError> {
        self.public_base()?;
        if self.max_connections == 0 || self.connections_per_address == Some(0) {
            return Err(StartError::misuse(
                "PENSTOCK_MAX_CONNECTIONS and PENSTOCK_CONNECTIONS_PER_ADDRESS are 1 or more.",
            ));
        }
        if self.api_memory_mib < LEAST_MEMORY_MIB {
            return Err(StartError::misuse(format!(
                "PENSTOCK_API_MEMORY_MIB is {}, too little for a large upload: set it to {LEAST_MEMORY_MIB} or more.",
                self.api_memory_mib
            )));
        }
        if self.head_seconds == 0 {
            return Err(StartError::misuse("PENSTOCK_HEAD_SECONDS is 1 or more."));
        }
        Ok(())
    }
}

/// Raises the number of files that this process may open as far as it is allowed to.
pub fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        // A process that may not raise it goes on with what it has.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

fn open_files() -> u64 {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit};
        getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
    }
    #[cfg(not(unix))]
    {
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        surface: Surface,
    }

    fn surface(args: &[&str]) -> Surface {
        Program::parse_from(std::iter::once("program").chain(args.iter().copied())).surface
    }

    #[test]
    fn a_public_address_is_one_that_clients_can_use() {
        for (text, base) in [
            ("https://api.example.com", "https://api.example.com"),
            ("https://api.example.com/", "https://api.example.com"),
            ("http://10.0.0.1:8080/penstock/", "http://10.0.0.1:8080/penstock"),
        ] {
            assert_eq!(surface(&["--public-url", text]).public_base().unwrap().as_deref(), Some(base));
        }
        assert_eq!(surface(&[]).public_base().unwrap(), None);
        for text in ["api.example.com", "ftp://a.example", "https://a.example/?x", "https://me@a.example"] {
            assert!(surface(&["--public-url", text]).check().is_err(), "{text}");
        }
    }

    #[test]
    fn settings_without_sense_are_refused() {
        for args in
            [&["--max-connections", "0"][..], &["--connections-per-address", "0"], &["--head-seconds", "0"]]
        {
            assert!(surface(args).check().is_err(), "{args:?}");
        }
        let networks = surface(&["--trusted-proxies", "10.0.0.0/8,fd00::/8"]).trusted_proxies;
        assert_eq!(networks.len(), 2);
        surface(&[]).check().unwrap();
    }
}
