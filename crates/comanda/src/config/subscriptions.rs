//! Reads `[[subscriptions]]`: whom events are sent to, as the operator has written it down.

use comanda_deliver::{Request, SecretKind};
use comanda_store::subscription::{EventFilter, Ordering};
use figment::value::{Dict, Value};

use super::SecretSource;

/// A subscription of the configuration.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its name, which is its id.
    pub name: String,
    /// What is asked for.
    pub request: Request,
    /// Where the secret is that is signed with; none for e-mail.
    pub secret: Option<SecretSource>,
}

const MEMBERS: [&str; 11] = [
    "name",
    "url",
    "secret",
    "types",
    "statuses",
    "events",
    "customers",
    "include",
    "from",
    "concurrency",
    "ordering",
];

/// Reads one; what is wrong with it stands in the error.
pub(super) fn subscription(
    value: &Value,
    secret: impl Fn(&Value) -> Option<SecretSource>,
) -> Result<Subscription, String> {
    let Some(members) = value.as_dict() else {
        return Err("each must be a table: [[subscriptions]]".to_owned());
    };
    if let Some(unknown) = members.keys().find(|key| !MEMBERS.contains(&key.as_str())) {
        return Err(format!(
            "there is no member `{unknown}`; there are: {}",
            MEMBERS.join(", ")
        ));
    }
    let name = text(members, "name")?.ok_or("`name` is missing")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 100 || !name.bytes().all(is_plain) {
        return Err(format!(
            "`{name}` is no name; write letters, digits, `-`, `_` and `.`, at most 100"
        ));
    }
    let wrong = |member: &str, wanted: &str| format!("`{name}`: `{member}` must be {wanted}");
    let url = text(members, "url")?.ok_or_else(|| wrong("url", "there: where the events are sent"))?;
    // The value is left out: it may be the secret itself.
    let secret = match members.get("secret") {
        None if url.starts_with("mailto:") => None,
        given => Some(given.and_then(secret).ok_or_else(|| {
            wrong(
                "secret",
                "named, not written: { env = \"NAME\" } or { file = \"PATH\" }",
            )
        })?),
    };
    let include_order = match text(members, "include")?.as_deref() {
        None => false,
        Some("order") => true,
        Some(_) => return Err(wrong("include", "\"order\"")),
    };
    let from_oldest = match text(members, "from")?.as_deref() {
        None | Some("newest") => false,
        Some("oldest") => true,
        Some(_) => return Err(wrong("from", "\"newest\" or \"oldest\"")),
    };
    let concurrency = match members.get("concurrency") {
        None => 8,
        Some(value) => value
            .to_i128()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| (1..=64).contains(number))
            .ok_or_else(|| wrong("concurrency", "a whole number from 1 to 64"))?,
    };
    let ordering = match text(members, "ordering")?.as_deref() {
        None | Some("lane") => Ordering::Lane,
        Some("order") => Ordering::Order,
        Some(_) => return Err(wrong("ordering", "\"lane\" or \"order\"")),
    };
    let request = Request {
        name: name.clone(),
        url,
        filter: EventFilter {
            types: texts(members, "types")?,
            statuses: texts(members, "statuses")?,
            events: texts(members, "events")?,
            customers: texts(members, "customers")?,
        },
        include_order,
        concurrency,
        ordering,
        from_oldest,
        // The secret is the operator's; none is made.
        secret: SecretKind::Symmetric,
    };
    Ok(Subscription { name, request, secret })
}

fn text(members: &Dict, member: &str) -> Result<Option<String>, String> {
    match members.get(member) {
        None => Ok(None),
        Some(value) => match value.as_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(format!("`{member}` must be text in quotes")),
        },
    }
}

fn texts(members: &Dict, member: &str) -> Result<Vec<String>, String> {
    let Some(value) = members.get(member) else {
        return Ok(Vec::new());
    };
    let list = value
        .as_array()
        .map(|items| items.iter().map(|item| item.as_str().map(str::to_owned)));
    list.and_then(Iterator::collect)
        .ok_or_else(|| format!("`{member}` must be a list of texts"))
}
