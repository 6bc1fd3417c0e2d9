//! Reads `[archives.NAME]`: where failed orders are written, as the operator has set it up.

use std::collections::BTreeMap;
use std::path::Path;

use comanda_deliver::archive::{ArchivePlace, Archives, Credentials};
use figment::value::{Dict, Value};

use super::{ConfigError, SecretSource, secrets};

/// An archive of the configuration.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Where it is.
    pub place: ArchivePlace,
    /// Where the access key's id and its secret are.
    credentials: Option<(SecretSource, SecretSource)>,
}

const MEMBERS: [&str; 6] = [
    "url",
    "endpoint",
    "region",
    "access_key_id",
    "secret_access_key",
    "allow_http",
];

/// Reads one; what is wrong with it stands in the error.
pub(super) fn archive(
    name: &str,
    value: &Value,
    secret: impl Fn(&Value) -> Option<SecretSource>,
) -> Result<Archive, String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.len() > 64 || !name.bytes().all(is_plain) {
        return Err("an archive's name is in kebab-case, at most 64 letters".to_owned());
    }
    let Some(members) = value.as_dict() else {
        return Err("must be a table: url = \"s3://bucket/failures\"".to_owned());
    };
    if let Some(unknown) = members.keys().find(|key| !MEMBERS.contains(&key.as_str())) {
        return Err(format!(
            "there is no member `{unknown}`; there are: {}",
            MEMBERS.join(", ")
        ));
    }
    let url = text(members, "url")?.ok_or("`url` is missing: file:///… or s3://bucket/prefix")?;
    let mut place = ArchivePlace::parse(&url).map_err(|error| error.to_string())?;
    let allow_http = match members.get("allow_http") {
        None => false,
        Some(value) => value.to_bool().ok_or("`allow_http` must be true or false")?,
    };
    if let Some(endpoint) = text(members, "endpoint")? {
        place = place
            .with_endpoint(&endpoint, allow_http)
            .map_err(|error| error.to_string())?;
    }
    if let Some(region) = text(members, "region")? {
        place = place.with_region(region).map_err(|error| error.to_string())?;
    }
    let named = |member: &str| {
        members
            .get(member)
            .map(|value| {
                // The value is left out: it may be the secret itself.
                secret(value).ok_or_else(|| {
                    format!("`{member}` is named, not written: {{ env = \"NAME\" }} or {{ file = \"PATH\" }}")
                })
            })
            .transpose()
    };
    let credentials = match (named("access_key_id")?, named("secret_access_key")?) {
        (None, None) => None,
        (Some(id), Some(secret)) if matches!(place, ArchivePlace::Bucket(_)) => Some((id, secret)),
        (Some(_), Some(_)) => return Err("a directory needs no access key".to_owned()),
        _ => return Err("`access_key_id` and `secret_access_key` are set together, or neither".to_owned()),
    };
    Ok(Archive { place, credentials })
}

/// The archives with their credentials. One that is not set up is a directory within `archive` beside the data.
pub fn with_credentials(archives: &BTreeMap<String, Archive>, data: &Path) -> Result<Archives, ConfigError> {
    let mut places = BTreeMap::new();
    for (name, archive) in archives {
        let mut place = archive.place.clone();
        if let Some((id, secret)) = &archive.credentials {
            let read = |member: &str, source: &SecretSource| {
                let key = format!("archives.{name}.{member}");
                let mut read = secrets::read_all(&BTreeMap::from([(key.clone(), source.clone())]))?;
                Ok::<_, ConfigError>(read.remove(&key).unwrap_or_default())
            };
            let credentials = Credentials {
                access_key_id: read("access_key_id", id)?,
                secret_access_key: read("secret_access_key", secret)?,
            };
            // Only a bucket is read with credentials.
            place = place.clone().with_credentials(credentials).unwrap_or(place);
        }
        places.insert(name.clone(), place);
    }
    Ok(Archives {
        places,
        default_directory: data.join("archive"),
    })
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
