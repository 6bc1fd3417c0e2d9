//! Reads `[intake.NAME]`: where orders come from besides the API, as the operator has set it up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use comanda_intake::{Configured, DirectoryOptions, KEPT, Kind, WebhookOptions};
use figment::value::{Dict, Value};

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
    Directory(DirectoryOptions),
}

const MEMBERS: [&str; 7] = ["kind", "type", "data", "kept", "secret", "path", "id"];

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
    let kind = text(members, "kind")?.ok_or("`kind` is missing: \"webhook\" or \"directory\"")?;
    let foreign: &[&str] = match kind.as_str() {
        "webhook" => &["path", "id"],
        "directory" => &["secret"],
        other => {
            return Err(format!(
                "there is no kind \"{other}\"; there are \"webhook\" and \"directory\""
            ));
        }
    };
    if let Some(foreign) = foreign.iter().find(|member| members.contains_key(**member)) {
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
