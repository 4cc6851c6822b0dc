//! Settings of signing in to the console by OpenID Connect: the provider, and what its groups may do here.

use std::path::PathBuf;

use clap::Args;
use penstock_store::owners::{Scope, Scopes};
use url::{Host, Url};

use crate::owner_name::owner_name;
use crate::{StartError, variables};

/// Anybody who can sign in at the provider.
const ANYBODY: &str = "*";

/// Settings of signing in by OpenID Connect.
#[derive(Args, Clone)]
pub struct Oidc {
    /// The issuer of an OpenID Connect provider, by which people sign in to the console: `https://id.example.com`
    #[arg(long, env = "PENSTOCK_OIDC_ISSUER", global = true)]
    pub oidc_issuer: Option<String>,
    /// The client that the provider knows the console as
    #[arg(long, env = "PENSTOCK_OIDC_CLIENT_ID", global = true)]
    pub oidc_client_id: Option<String>,
    /// The client's secret
    #[arg(long, env = "PENSTOCK_OIDC_CLIENT_SECRET", global = true, hide_env_values = true)]
    pub oidc_client_secret: Option<String>,
    /// A file that holds PENSTOCK_OIDC_CLIENT_SECRET
    #[arg(long, env = "PENSTOCK_OIDC_CLIENT_SECRET_FILE", global = true)]
    pub oidc_client_secret_file: Option<PathBuf>,
    /// What groups may do, separated by semicolons, the first that fits counts: `GROUP=OWNER`, `GROUP=read:OWNER`,
    /// `GROUP=admin:OWNER`; the group `*` is anybody
    #[arg(long, env = "PENSTOCK_OIDC_GROUPS", global = true)]
    pub oidc_groups: Option<String>,
    /// The claim that holds a person's groups: its name, or a JSON pointer as `/realm_access/roles`
    #[arg(long, env = "PENSTOCK_OIDC_GROUPS_CLAIM", default_value = "groups", global = true)]
    pub oidc_groups_claim: String,
    /// Scopes to ask for besides `openid`, separated by commas; without it, those of profile, email and groups that the
    /// provider has
    #[arg(long, env = "PENSTOCK_OIDC_SCOPES", value_delimiter = ',', global = true)]
    pub oidc_scopes: Vec<String>,
    /// What the provider is called on the page to sign in; without it, its host
    #[arg(long, env = "PENSTOCK_OIDC_NAME", global = true)]
    pub oidc_name: Option<String>,
    /// Take a provider without TLS that is not on this machine
    #[arg(long, env = "PENSTOCK_OIDC_ALLOW_HTTP", default_value_t = false, global = true)]
    pub oidc_allow_http: bool,
}

/// A provider of sign-ins, as the settings describe it.
#[derive(Clone)]
pub struct OidcProvider {
    /// Its issuer, as it was given: providers compare it letter by letter.
    pub issuer: String,
    /// The client.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: String,
    /// What groups may do, in the order in which they are looked at.
    pub groups: Vec<GroupGrant>,
    /// The claim that holds a person's groups.
    pub groups_claim: String,
    /// Scopes to ask for; empty: those that the provider has of the usual ones.
    pub scopes: Vec<String>,
    /// What it is called.
    pub name: String,
    /// Whether it may be called without TLS wherever it is.
    pub allow_http: bool,
}

/// What a group may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupGrant {
    /// The entry of the setting: a session ends when the setting has it no longer.
    pub entry: String,
    /// The group's name at the provider.
    pub group: String,
    /// As whose person somebody of it is signed in.
    pub owner: String,
    /// What they may do.
    pub scopes: Scopes,
}

impl OidcProvider {
    /// What somebody in these groups may do: the first entry that fits.
    pub fn grant(&self, groups: &[String]) -> Option<&GroupGrant> {
        self.groups.iter().find(|grant| grant.group == ANYBODY || groups.contains(&grant.group))
    }

    /// Whether an address may be called: by https, or as the operator allowed. On this machine without TLS only where the issuer is:
    /// what a remote one answers names no program here.
    pub fn may_call(&self, url: &Url) -> bool {
        url.scheme() == "https"
            || (url.scheme() == "http" && (self.allow_http || (self.is_local() && is_loopback(url))))
    }

    /// Whether it is on this machine, without TLS.
    pub fn is_local(&self) -> bool {
        Url::parse(&self.issuer).is_ok_and(|issuer| issuer.scheme() == "http" && is_loopback(&issuer))
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl Oidc {
    /// The client's secret, from its file or as it is given.
    fn client_secret(&self) -> Result<Option<String>, StartError> {
        const NAME: &str = "PENSTOCK_OIDC_CLIENT_SECRET";
        let file = self.oidc_client_secret_file.as_deref().filter(|file| !file.as_os_str().is_empty());
        match (file, &self.oidc_client_secret) {
            (None, given) => Ok(given.clone()),
            (Some(_), Some(_)) => Err(variables::both(NAME)),
            (Some(file), None) => variables::read_file(NAME, file).map(Some),
        }
    }

    /// The provider; none when nothing of it is set. Only who serves the console asks: no other program has its secret.
    ///
    /// # Errors
    /// When only a part of it is set, its secret's file cannot be read, or something of it makes no sense.
    pub fn provider(&self) -> Result<Option<OidcProvider>, StartError> {
        let given = |value: &Option<String>| value.clone().filter(|value| !value.trim().is_empty());
        let parts = [
            ("PENSTOCK_OIDC_ISSUER", given(&self.oidc_issuer)),
            ("PENSTOCK_OIDC_CLIENT_ID", given(&self.oidc_client_id)),
            ("PENSTOCK_OIDC_CLIENT_SECRET", given(&self.client_secret()?)),
            ("PENSTOCK_OIDC_GROUPS", given(&self.oidc_groups)),
        ];
        if parts.iter().all(|(_, value)| value.is_none()) {
            return Ok(None);
        }
        if let Some((name, _)) = parts.iter().find(|(_, value)| value.is_none()) {
            return Err(StartError::misuse(format!(
                "{name} is not set, and other settings of OpenID Connect are: set all of PENSTOCK_OIDC_ISSUER, \
                 PENSTOCK_OIDC_CLIENT_ID, PENSTOCK_OIDC_CLIENT_SECRET and PENSTOCK_OIDC_GROUPS, or none of them."
            )));
        }
        let [issuer, client_id, client_secret, groups] = parts.map(|(_, value)| value.unwrap_or_default());
        let url = self.issuer(&issuer)?;
        let name = given(&self.oidc_name).or_else(|| url.host_str().map(str::to_owned));
        Ok(Some(OidcProvider {
            issuer,
            client_id,
            client_secret,
            groups: groups
                .split(';')
                .filter(|entry| !entry.trim().is_empty())
                .map(grant)
                .collect::<Result<_, _>>()?,
            groups_claim: self.oidc_groups_claim.clone(),
            scopes: self.oidc_scopes.iter().filter(|scope| !scope.is_empty()).cloned().collect(),
            name: name.unwrap_or_default(),
            allow_http: self.oidc_allow_http,
        }))
    }

    fn issuer(&self, issuer: &str) -> Result<Url, StartError> {
        let url = Url::parse(issuer).ok().filter(|url| {
            let plain = url.scheme() == "http" && (self.oidc_allow_http || is_loopback(url));
            let bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
            (url.scheme() == "https" || plain) && url.has_host() && bare
        });
        url.ok_or_else(|| {
            StartError::misuse(format!(
                "PENSTOCK_OIDC_ISSUER is `{issuer}`: write an address such as https://id.example.com, without a user, a query \
                 or a fragment. http is for a provider on this machine (localhost), or with PENSTOCK_OIDC_ALLOW_HTTP=true."
            ))
        })
    }
}

/// Reads `GROUP=OWNER`, `GROUP=read:OWNER` or `GROUP=admin:OWNER`. A group's name may hold `=`, as those of directories do.
fn grant(entry: &str) -> Result<GroupGrant, StartError> {
    let entry = entry.trim();
    let wrong = |why: &str| {
        StartError::misuse(format!(
            "PENSTOCK_OIDC_GROUPS: `{entry}` {why}: write GROUP=OWNER, GROUP=read:OWNER or GROUP=admin:OWNER, with semicolons \
             between them."
        ))
    };
    let (group, granted) = entry.rsplit_once('=').ok_or_else(|| wrong("names no owner"))?;
    if group.trim().is_empty() {
        return Err(wrong("names no group"));
    }
    let (scopes, owner) = match granted.trim().split_once(':') {
        None => (Scopes::CLIENT, granted.trim()),
        Some(("read", owner)) => (std::iter::once(Scope::Read).collect(), owner),
        Some(("admin", owner)) => (Scopes::CLIENT.with(Scope::Admin), owner),
        Some(_) => return Err(wrong("grants something else than `read` or `admin`")),
    };
    let owner = owner_name(owner).map_err(|error| wrong(&format!("does not name an owner ({error})")))?;
    Ok(GroupGrant { entry: entry.to_owned(), group: group.trim().to_owned(), owner, scopes })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use penstock_store::owners::KeyRole;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        oidc: Oidc,
    }

    fn provider(issuer: &str, groups: &str, more: &[&str]) -> Result<Option<OidcProvider>, StartError> {
        let args =
            ["program", "--oidc-issuer", issuer, "--oidc-client-id", "penstock", "--oidc-client-secret", "s"];
        let args = args.into_iter().chain(["--oidc-groups", groups]).chain(more.iter().copied());
        Program::parse_from(args).oidc.provider()
    }

    #[test]
    fn the_first_entry_that_fits_counts() {
        let groups = "ops=admin:ops; CN=staff,OU=acme=acme;auditors=read:acme;*=guests";
        let provider = provider("https://id.example.com", groups, &[]).unwrap().unwrap();
        assert_eq!(provider.name, "id.example.com");
        let granted = |groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
            let grant = provider.grant(&groups).unwrap();
            (grant.owner.clone(), grant.scopes.role(), grant.scopes.allow(Scope::Upload))
        };
        assert_eq!(granted(&["auditors", "ops"]), ("ops".into(), KeyRole::Admin, true));
        assert_eq!(granted(&["CN=staff,OU=acme"]), ("acme".into(), KeyRole::Client, true));
        assert_eq!(granted(&["auditors"]), ("acme".into(), KeyRole::Client, false));
        assert_eq!(granted(&[]), ("guests".into(), KeyRole::Client, true));
    }

    #[test]
    fn settings_without_sense_are_refused() {
        for groups in ["ops", "=acme", "a=root:acme", "a=", "a=read:", "a=two words"] {
            assert!(provider("https://id.example.com", groups, &[]).is_err(), "{groups}");
        }
        for issuer in [
            "id.example.com",
            "http://id.example.com",
            "https://me@id.example.com",
            "https://id.example.com?x",
        ] {
            assert!(provider(issuer, "a=acme", &[]).is_err(), "{issuer}");
        }
        for issuer in [
            "http://localhost:1",
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "https://id.example.com/tenant/v2.0",
        ] {
            assert!(provider(issuer, "a=acme", &[]).unwrap().is_some(), "{issuer}");
        }
        let allowed = provider("http://id.example.com", "a=acme", &["--oidc-allow-http"]).unwrap().unwrap();
        assert!(allowed.may_call(&"http://id.example.com/token".parse().unwrap()));
        let strict = provider("https://id.example.com", "a=acme", &[]).unwrap().unwrap();
        assert!(!strict.may_call(&"http://169.254.169.254/token".parse().unwrap()));
        let here: Url = "http://127.0.0.1:2/token".parse().unwrap();
        assert!(!strict.may_call(&here), "a provider elsewhere names no program here");
        let local = provider("http://localhost:1", "a=acme", &[]).unwrap().unwrap();
        assert!(local.may_call(&here));
        let part =
            Program::parse_from(["program", "--oidc-issuer", "https://id.example.com"]).oidc.provider();
        assert!(part.err().unwrap().to_string().contains("PENSTOCK_OIDC_CLIENT_ID is not set"));
        assert!(Program::parse_from(["program"]).oidc.provider().unwrap().is_none());
    }
}
