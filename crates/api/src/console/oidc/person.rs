//! Who signed in, as the provider's claims say.

use serde_json::Value;

/// Characters of a name that are kept, and of one that stands before the subject.
const NAME: usize = 100;
const CHOSEN: usize = 40;

/// A person at the provider.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Person {
    /// Who it is, permanently: names change.
    pub subject: String,
    /// What it is called, for people to read: an address that the provider has verified, or what it calls itself and its subject.
    pub name: String,
    /// The groups that it is in; none when the provider did not say.
    pub groups: Option<Vec<String>>,
}

impl Person {
    /// The person of that subject and these claims.
    pub fn new(subject: String, claims: &Value, groups_claim: &str) -> Self {
        let mut person = Self { name: String::new(), subject, groups: None };
        person.learn(claims, groups_claim);
        person
    }

    /// What more claims say.
    pub fn learn(&mut self, claims: &Value, groups_claim: &str) {
        if self.name.is_empty() || self.name == self.subject {
            let text = |claim: &str| claims[claim].as_str().map(str::trim).filter(|text| !text.is_empty());
            let is_verified = claims["email_verified"] == true || claims["email_verified"] == "true";
            // Many providers let people choose what they are called (OpenID Connect Core, 5.7): who chose the name of somebody else is
            // told apart by the subject.
            let named = text("email").filter(|_| is_verified).map(str::to_owned);
            let chosen = || ["preferred_username", "email", "name"].into_iter().find_map(text);
            let name = named.or_else(|| {
                let subject = &self.subject;
                let chosen = chosen().filter(|name| name != subject);
                chosen.map(|name| format!("{} ({subject})", name.chars().take(CHOSEN).collect::<String>()))
            });
            let name = name.unwrap_or_else(|| self.subject.clone());
            self.name = name.chars().filter(|c| !c.is_control()).take(NAME).collect();
        }
        if self.groups.is_none() {
            self.groups = groups(claims, groups_claim);
        }
    }
}

/// A list of names, or one name; a claim that begins with `/` is a JSON pointer.
fn groups(claims: &Value, claim: &str) -> Option<Vec<String>> {
    let found = if claim.starts_with('/') { claims.pointer(claim) } else { claims.get(claim) };
    match found? {
        Value::String(group) => Some(vec![group.clone()]),
        Value::Array(groups) => {
            Some(groups.iter().filter_map(|group| group.as_str().map(str::to_owned)).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_tell_a_name_and_groups() {
        let claims =
            json!({ "email": "a@acme.example", "groups": ["staff", 7, "ops"], "realm": { "roles": "one" } });
        let person = Person::new("s1".into(), &claims, "groups");
        assert_eq!(person.name, "a@acme.example (s1)");
        assert_eq!(person.groups.unwrap(), ["staff", "ops"]);
        assert_eq!(Person::new("s1".into(), &claims, "/realm/roles").groups.unwrap(), ["one"]);
        let mut unknown = Person::new("s1".into(), &json!({ "groups": { "a": 1 } }), "groups");
        assert_eq!((unknown.name.as_str(), &unknown.groups), ("s1", &None));
        unknown.learn(&json!({ "preferred_username": "ann\n", "groups": [] }), "groups");
        assert_eq!((unknown.name.as_str(), unknown.groups.unwrap().len()), ("ann (s1)", 0));
        let named = |claims: serde_json::Value| Person::new("s1".into(), &claims, "groups").name;
        let verified =
            json!({ "preferred_username": "ops", "email": "a@acme.example", "email_verified": true });
        assert_eq!(named(verified), "a@acme.example");
        assert_eq!(named(json!({ "preferred_username": "s1" })), "s1");
    }
}
