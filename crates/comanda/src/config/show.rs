//! What `comanda config` shows: each setting, its value as TOML, and where it came from.

use figment::value::Value;
use serde::Serialize;

use super::DatabaseAddress;
use super::layer::{Layer, find, origin};
use super::read::{known_settings, leaves};

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name, dotted.
    pub key: String,
    /// Its value, as TOML. Of a secret this is where it is, never what it is.
    pub value: String,
    /// Where it was set: `default`, a file, a variable, or a flag.
    pub origin: String,
}

/// All settings, by name; a section's stand together.
pub(super) fn settings(layers: &[Layer]) -> Vec<Setting> {
    let mut keys = known_settings(layers);
    for layer in layers {
        let mut own = Vec::new();
        leaves(&layer.values, "", &mut own);
        for key in own {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    let value_of = |key: &str| layers.iter().rev().find_map(|layer| find(&layer.values, key));
    keys.into_iter()
        .filter_map(|key| {
            let value = match value_of(&key)? {
                Value::String(_, text) if key == "store" => format!("{:?}", DatabaseAddress(text.clone()).shown()),
                value => toml(value),
            };
            let origin = origin(layers, &key).of(&key);
            Some(Setting { key, value, origin })
        })
        .collect()
}

fn toml(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, character) => format!("{:?}", character.to_string()),
        Value::Bool(_, switch) => switch.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_u128()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(whole)) => whole.to_string(),
            (None, None) => number.to_f64().map(|number| number.to_string()).unwrap_or_default(),
        },
        Value::Empty(..) => "\"\"".to_owned(),
        Value::Array(_, items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Dict(_, members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("{name} = {}", toml(value)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
    }
}
