//! The layers that the configuration is made of, weakest first, each with its name.

use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{ConfigError, DEFAULT, OTHER_VARIABLES, Sources};
use crate::cli::Serve;

/// One layer.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) origin: Origin,
    pub(super) values: Dict,
}

/// Where a layer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File(String),
    Environment,
    Flags,
}

impl Origin {
    /// How to name the place of one setting of this layer.
    pub(super) fn of(&self, key: &str) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::File(path) => path.clone(),
            Self::Environment => format!("COMANDA_{}", key.to_uppercase().replace('.', "__")),
            Self::Flags => format!("--{}", flag_of(key)),
        }
    }
}

/// The flag that sets a setting. Two differ in more than the spelling, because a flag names one of several.
fn flag_of(key: &str) -> String {
    match key {
        "mounts" => "mount".to_owned(),
        other => other.replace(['.', '_'], "-"),
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(match &self.origin {
            Origin::Default => "default".to_owned(),
            Origin::File(path) => path.clone(),
            Origin::Environment => "environment".to_owned(),
            Origin::Flags => "flags".to_owned(),
        })
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

/// All layers, weakest first.
pub(super) fn layers(sources: &Sources) -> Result<Vec<Layer>, ConfigError> {
    let mut layers = vec![Layer {
        origin: Origin::Default,
        values: toml("the default configuration", DEFAULT)?,
    }];
    let default_path = Path::new("comanda.toml");
    let path = match &sources.file {
        Some(path) => Some(path.as_path()),
        None => default_path.exists().then_some(default_path),
    };
    if let Some(path) = path {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source,
        })?;
        let name = path.display().to_string();
        layers.push(Layer {
            values: toml(&name, &text)?,
            origin: Origin::File(name),
        });
    }
    layers.push(Layer {
        origin: Origin::Environment,
        values: environment(&sources.environment),
    });
    layers.push(Layer {
        origin: Origin::Flags,
        values: flags(&sources.flags),
    });
    Ok(layers)
}

/// What the layers come to.
pub(super) fn merged(layers: &[Layer]) -> Figment {
    layers
        .iter()
        .fold(Figment::new(), |figment, layer| figment.merge(layer.clone()))
}

/// The strongest layer that sets a setting.
pub(super) fn origin<'a>(layers: &'a [Layer], key: &str) -> &'a Origin {
    let sets = |layer: &&Layer| find(&layer.values, key).is_some();
    layers
        .iter()
        .rev()
        .find(sets)
        .map_or(&Origin::Default, |layer| &layer.origin)
}

pub(super) fn find<'a>(values: &'a Dict, key: &str) -> Option<&'a Value> {
    let (first, rest) = key
        .split_once('.')
        .map_or((key, None), |(first, rest)| (first, Some(rest)));
    let value = values.get(first)?;
    match rest {
        None => Some(value),
        Some(rest) => find(value.as_dict()?, rest),
    }
}

fn toml(layer: &str, text: &str) -> Result<Dict, ConfigError> {
    let mut profiles = Toml::string(text).data().map_err(|error| ConfigError::Syntax {
        layer: layer.to_owned(),
        detail: error.to_string(),
    })?;
    Ok(profiles.remove(&Profile::Default).unwrap_or_default())
}

/// `COMANDA_LOG__LEVEL` sets `log.level`. Values stay text here: each setting knows how it is read.
fn environment(variables: &[(String, String)]) -> Dict {
    let mut values = Dict::new();
    for (name, value) in variables {
        let Some(key) = name
            .strip_prefix("COMANDA_")
            .filter(|_| !OTHER_VARIABLES.contains(&name.as_str()))
        else {
            continue;
        };
        let key = key.to_lowercase().replace("__", ".");
        insert(&mut values, &key, Value::from(value.as_str()));
    }
    values
}

fn insert(values: &mut Dict, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            values.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let entry = values
                .entry(section.to_owned())
                .or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, section) = entry {
                insert(section, rest, value);
            }
        }
    }
}

fn flags(flags: &Serve) -> Dict {
    let mut values = Dict::new();
    let texts = [
        ("listen", &flags.listen),
        ("data", &flags.data),
        ("store", &flags.store),
        ("order_types", &flags.order_types),
        ("log.format", &flags.log_format),
        ("log.level", &flags.log_level),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            insert(&mut values, key, Value::from(text.as_str()));
        }
    }
    for (key, list) in [("mounts", &flags.mounts), ("break", &flags.breaks)] {
        if !list.is_empty() {
            insert(&mut values, key, Value::from(list.clone()));
        }
    }
    let switches = [
        ("watch", flags.watch),
        ("fast_retries", flags.fast_retries),
        ("insecure", flags.insecure),
        ("bench_no_store", flags.bench_no_store),
    ];
    for (key, on) in switches.into_iter().filter(|(_, on)| *on) {
        insert(&mut values, key, Value::from(on));
    }
    values
}
