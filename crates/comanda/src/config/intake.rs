//! Reads `[intake.NAME]`: where orders come from besides the API, as the operator has set it up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use comanda_intake::{Configured, DirectoryOptions, FeedOptions, KEPT, Kind, WebhookOptions};
use figment::value::{Dict, Value};
use reqwest::Url;

use super::{ConfigError, SecretSource, secrets, units};

/// A source of the configuration.
#[derive(Clone, Debug)]
pub struct Source {
    order_type: String,
    data: String,
    kept: Duration,
    kind: SourceKind,
}

#[derive(Clone, Debug)]
enum SourceKind {
    Webhook(Vec<SecretSource>),
    /// Without the `Authorization` header, and where that is.
    Feed(FeedOptions, Option<SecretSource>),
    Directory(DirectoryOptions),
}

/// How often a feed is asked again where nothing else is said.
const INTERVAL: Duration = Duration::from_secs(30);

const MEMBERS: [&str; 12] = [
    "kind",
    "type",
    "data",
    "kept",
    "secret",
    "path",
    "id",
    "url",
    "items",
    "cursor",
    "interval",
    "authorization",
];
/// The members of every kind, and those of each.
const COMMON: [&str; 4] = ["kind", "type", "data", "kept"];
const OF_WEBHOOK: [&str; 1] = ["secret"];
const OF_FEED: [&str; 6] = ["url", "id", "items", "cursor", "interval", "authorization"];
const OF_DIRECTORY: [&str; 2] = ["path", "id"];

/// Reads one; what is wrong with it stands in the error.
pub(super) fn source(
    name: &str,
    value: &Value,
    secret: impl Fn(&Value) -> Option<SecretSource>,
) -> Result<Source, String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
        return Err("a source's name is in kebab-case, at most 64 letters".to_owned());
    }
    let Some(members) = value.as_dict() else {
        return Err("must be a table: kind = \"webhook\", type = \"sale\", …".to_owned());
    };
    if let Some(unknown) = members.keys().find(|key| !MEMBERS.contains(&key.as_str())) {
        return Err(format!(
            "there is no member `{unknown}`; there are: {}",
            MEMBERS.join(", ")
        ));
    }
    let kind = text(members, "kind")?.ok_or("`kind` is missing: \"webhook\", \"feed\" or \"directory\"")?;
    let own: &[&str] = match kind.as_str() {
        "webhook" => &OF_WEBHOOK,
        "feed" => &OF_FEED,
        "directory" => &OF_DIRECTORY,
        other => {
            return Err(format!(
                "there is no kind \"{other}\"; there are \"webhook\", \"feed\" and \"directory\""
            ));
        }
    };
    let is_known = |key: &str| own.contains(&key) || COMMON.contains(&key);
    if let Some(foreign) = members.keys().find(|key| !is_known(key)) {
        return Err(format!("`{foreign}` does not belong to a {kind}"));
    }
    let source = if kind == "webhook" {
        let listed = members.get("secret").map(|value| match value.as_array() {
            Some(list) => list.to_vec(),
            None => vec![value.clone()],
        });
        let secrets: Option<Vec<SecretSource>> = listed.unwrap_or_default().iter().map(secret).collect();
        let named = secrets.filter(|secrets| !secrets.is_empty() && secrets.len() <= 4);
        // The value is left out: it may be the secret itself.
        SourceKind::Webhook(named.ok_or(
            "`secret` is named, not written: { env = \"NAME\" } or { file = \"PATH\" }, or a list of up to four",
        )?)
    } else if kind == "feed" {
        feed(members, secret)?
    } else {
        SourceKind::Directory(DirectoryOptions {
            path: PathBuf::from(text(members, "path")?.ok_or("`path` is missing: the directory")?),
            id: pointer(members, "id")?.filter(|pointer| !pointer.is_empty()),
        })
    };
    let kept = match text(members, "kept")? {
        Some(text) => units::duration(&text).map_err(|error| format!("`kept`: {error}"))?,
        None => KEPT,
    };
    Ok(Source {
        order_type: text(members, "type")?.ok_or("`type` is missing: the order type")?,
        data: pointer(members, "data")?.unwrap_or_default(),
        kept,
        kind: source,
    })
}

fn feed(members: &Dict, secret: impl Fn(&Value) -> Option<SecretSource>) -> Result<SourceKind, String> {
    let url = text(members, "url")?.ok_or("`url` is missing: where the feed begins")?;
    let is_sound = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    };
    let url = Url::parse(&url).ok().filter(is_sound);
    let url = url.ok_or("`url` is no URL of a feed; write one such as https://shop.example/orders")?;
    let authorization = match members.get("authorization") {
        // The value is left out: it may be the secret itself.
        Some(value) => Some(
            secret(value).ok_or("`authorization` is named, not written: { env = \"NAME\" } or { file = \"PATH\" }")?,
        ),
        None => None,
    };
    let interval = match text(members, "interval")? {
        Some(text) => units::duration(&text).map_err(|error| format!("`interval`: {error}"))?,
        None => INTERVAL,
    };
    if interval < Duration::from_millis(100) {
        return Err("`interval` must be at least 100ms".to_owned());
    }
    let options = FeedOptions {
        url,
        id: pointer(members, "id")?
            .filter(|pointer| !pointer.is_empty())
            .ok_or("`id` is missing: where a message has its id, such as \"/id\"")?,
        items: pointer(members, "items")?.unwrap_or_default(),
        cursor: pointer(members, "cursor")?.filter(|pointer| !pointer.is_empty()),
        interval,
        authorization: None,
    };
    Ok(SourceKind::Feed(options, authorization))
}

impl Source {
    /// The order type that its messages become.
    pub fn order_type(&self) -> &str {
        &self.order_type
    }
}

/// The sources with their secrets.
pub fn with_secrets(sources: &BTreeMap<String, Source>) -> Result<Vec<Configured>, ConfigError> {
    let mut all = Vec::with_capacity(sources.len());
    for (name, source) in sources {
        let kind = match &source.kind {
            SourceKind::Webhook(named) => {
                let keys = (0..).map(|number| format!("intake.{name}.secret.{number}"));
                let read = secrets::read_all(&keys.zip(named.iter().cloned()).collect())?;
                Kind::Webhook(WebhookOptions {
                    secrets: read.into_values().collect(),
                })
            }
            SourceKind::Feed(options, authorization) => {
                let key = format!("intake.{name}.authorization");
                let named = authorization
                    .iter()
                    .map(|source| (key.clone(), source.clone()))
                    .collect();
                let authorization = secrets::read_all(&named)?.remove(&key);
                Kind::Feed(FeedOptions {
                    authorization,
                    ..options.clone()
                })
            }
            SourceKind::Directory(options) => Kind::Directory(options.clone()),
        };
        all.push(Configured {
            name: name.clone(),
            order_type: source.order_type.clone(),
            data: source.data.clone(),
            kept: source.kept,
            kind,
        });
    }
    Ok(all)
}

/// A JSON pointer (RFC 6901).
fn pointer(members: &Dict, member: &str) -> Result<Option<String>, String> {
    match text(members, member)? {
        Some(pointer) if !pointer.is_empty() && !pointer.starts_with('/') => {
            Err(format!("`{member}` must be a JSON pointer, such as \"/data\""))
        }
        pointer => Ok(pointer),
    }
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
