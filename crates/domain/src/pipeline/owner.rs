//! What a dependency reads of an owner: `owner.name`, `owner.vars.…` and `owner.secrets.…` in `base_url`, `headers` and `auth`. It is
//! filled in for each batch, and from then on the dependency is that owner's own: its address, its credentials and its limits.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use minijinja::Value;
use url::Url;

use super::auth::Auth;
use super::engine;
use super::live::{LiveText, NoFiles, Part};
use super::model::{Dependency, Pipeline};
use super::template::{self, Template};
use super::vars::Filled;
use crate::csv::Format;

/// An owner's values. Never printed.
#[derive(Clone, Default)]
pub struct OwnerView {
    /// Its name.
    pub name: String,
    /// Its variables.
    pub vars: BTreeMap<String, String>,
    /// Its secrets.
    pub secrets: BTreeMap<String, String>,
}

impl std::fmt::Debug for OwnerView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnerView").field("name", &self.name).finish_non_exhaustive()
    }
}

impl OwnerView {
    /// As templates read it.
    pub(super) fn value(&self) -> Value {
        let owner: BTreeMap<&str, Value> = [
            ("name", Value::from(self.name.as_str())),
            ("vars", engine::from_texts(&self.vars)),
            ("secrets", engine::from_texts(&self.secrets)),
        ]
        .into();
        Value::from(owner)
    }

    /// The first of these that it lacks, as a command sets it.
    fn lacking(&self, read: &BTreeSet<String>) -> Option<String> {
        read.iter().find_map(|path| {
            let (option, name, known) = match path.split_once('.')? {
                ("vars", name) => ("--var", name, &self.vars),
                (_, name) => ("--secret", name, &self.secrets),
            };
            (!known.contains_key(name)).then(|| format!("{option} {name}=…"))
        })
    }
}

/// What a dependency reads of its owner.
#[derive(Clone, Debug, Default)]
pub struct OwnerReads {
    /// The address, where it reads something.
    pub(super) address: Option<LiveText>,
    /// `vars.…` and `secrets.…` of all texts.
    pub(super) values: BTreeSet<String>,
    /// Whether anything of the owner is read.
    pub(super) any: bool,
}

impl OwnerReads {
    /// A template that reads nothing but the owner, if anything.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn template(&mut self, text: String) -> Result<Part, String> {
        let read = |error: &minijinja::Error| {
            format!("the template cannot be read: {}", error.detail().unwrap_or("its syntax is off"))
        };
        let environment = template::environment();
        let parsed = environment.template_from_str(&text).map_err(|error| read(&error))?;
        let mut reads = Some(Value::UNDEFINED);
        for name in parsed.undeclared_variables(true) {
            if name == "now" {
                continue;
            }
            reads = None;
            if !self.add(&name) {
                return Err(format!(
                    "`{name}` is not known here; there are `owner.name`, `owner.vars.NAME` and `owner.secrets.NAME`, and \
                     everything else is known in the `request` of a step"
                ));
            }
        }
        let template = Template::compile(Filled::Template(text), template::Kind::Plain);
        template.map(|template| Part::Template { template, reads }).map_err(|error| read(&error))
    }

    /// Notes a name that a template reads; false when it is nothing of the owner's.
    pub(super) fn add(&mut self, name: &str) -> bool {
        let known = match name.split('.').collect::<Vec<_>>().as_slice() {
            ["owner", "name"] | ["owner", "vars" | "secrets"] => true,
            ["owner", kind @ ("vars" | "secrets"), value] => {
                self.values.insert(format!("{kind}.{value}"));
                true
            }
            _ => false,
        };
        self.any |= known;
        known
    }
}

impl Pipeline {
    /// What its dependencies read of an owner: `vars.NAME` and `secrets.NAME`.
    pub fn owner_values(&self) -> BTreeSet<&str> {
        self.dependencies.iter().flat_map(|dependency| &dependency.owner.values).map(String::as_str).collect()
    }
}

impl Dependency {
    /// Whether it is another dependency for each owner.
    pub fn reads_owner(&self) -> bool {
        self.owner.any
    }

    /// The dependency as its limits know it for this owner, without the owner's values: for whoever looks at limits and calls
    /// nobody. An address that is made of these values is not known here.
    pub fn seen_for(&self, owner: &str) -> Cow<'_, Self> {
        if !self.reads_owner() || self.owner.address.is_some() {
            return Cow::Borrowed(self);
        }
        let mut own = self.clone();
        own.base_url.set_fragment(Some(owner));
        Cow::Owned(own)
    }

    /// The dependency of this owner.
    ///
    /// # Errors
    /// A sentence that holds no secret, when the owner lacks a value, or its values lead where the dependency may not be called.
    pub fn for_owner(&self, owner: &OwnerView) -> Result<Self, String> {
        if !self.reads_owner() {
            return Ok(self.clone());
        }
        let (dependency, name) = (&self.name, &owner.name);
        let value = Value::from_pairs([("owner", owner.value())]);
        let failed = |_: minijinja::Error| match owner.lacking(&self.owner.values) {
            Some(option) => format!(
                "dependency `{dependency}` needs a value that the owner {name} does not have; set it by `penstock owners set \
                 {name} {option}`"
            ),
            None => format!(
                "dependency `{dependency}`: a template cannot be applied to the values of the owner {name}"
            ),
        };
        let mut own = self.clone();
        if let Some(address) = &self.owner.address {
            let text = address.for_owner(&value).map_err(failed)?;
            own.base_url = self.admitted("base_url", &text, name)?;
        }
        // It is never sent. Limits are kept by address, and these are the owner's own.
        own.base_url.set_fragment(Some(name));
        for (_, header) in &mut own.headers {
            *header = header.for_owner(&value).map_err(failed)?;
        }
        if let Some(auth) = &self.auth {
            own.auth = Some(auth.for_owner(&value).map_err(failed)?);
            if auth.token_url().is_some_and(LiveText::reads_owner)
                && let Some(url) = own.auth.as_ref().and_then(Auth::token_url)
            {
                self.admitted("token_url", url, name)?;
            }
        }
        own.owner = OwnerReads::default();
        Ok(own)
    }

    /// An address that was made of an owner's values: it must lead to one of the hosts, without a user, a query and a fragment.
    fn admitted(&self, key: &str, text: &LiveText, owner: &str) -> Result<Url, String> {
        let text = text.text(&NoFiles)?;
        let url = Url::parse(&text).ok().filter(|_| Format::Url.accepts(&text));
        let url = url.filter(|url| {
            url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        let wrong = |what: String| {
            format!(
                "dependency `{}`: the values of the owner {owner} make {what}; nobody was called",
                self.name
            )
        };
        let url = url.ok_or_else(|| wrong(format!("a {key} that is not an absolute http or https URL")))?;
        if !self.hosts.iter().any(|host| host.admits(&url)) {
            return Err(wrong(format!("a {key} that its `hosts` do not admit")));
        }
        Ok(url)
    }
}
