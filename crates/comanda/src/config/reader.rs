//! Reads single settings out of the merged layers, and gathers every fault with where it was set.

use figment::Figment;
use figment::value::{Dict, Value};

use super::layer::{Layer, origin};
use super::{ConfigFault, units};

/// What reads them.
pub(super) struct Reader<'a> {
    pub(super) figment: Figment,
    pub(super) layers: &'a [Layer],
    pub(super) faults: Vec<ConfigFault>,
}

impl Reader<'_> {
    pub(super) fn fault(&mut self, key: &str, message: String) {
        let origin = origin(self.layers, key).of(key);
        self.faults.push(ConfigFault {
            key: key.to_owned(),
            origin,
            message,
        });
    }

    pub(super) fn value(&mut self, key: &str) -> Option<Value> {
        match self.figment.find_value(key) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(key, error.to_string());
                None
            }
        }
    }

    pub(super) fn parse<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let value = self.value(key)?;
        let parsed = match value.as_str() {
            Some(text) => parse(text.trim()),
            None => Err("must be text in quotes".to_owned()),
        };
        parsed.map_err(|message| self.fault(key, message)).ok()
    }

    pub(super) fn switch(&mut self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let switch = value.to_bool().or_else(|| match value.as_str()?.trim() {
            "true" | "1" => Some(true),
            "false" | "0" | "" => Some(false),
            _ => None,
        });
        if switch.is_none() {
            self.fault(key, "must be true or false".to_owned());
        }
        switch
    }

    pub(super) fn count(&mut self, key: &str, min: usize, max: usize) -> Option<usize> {
        let value = self.value(key)?;
        let number = match &value {
            Value::Num(_, number) => number
                .to_u128()
                .or_else(|| number.to_i128().and_then(|n| u128::try_from(n).ok())),
            other => other.as_str().and_then(|text| text.trim().parse().ok()),
        };
        let number = number
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.fault(key, format!("must be a whole number from {min} to {max}"));
        }
        number
    }

    pub(super) fn size(&mut self, key: &str, min: usize, max: usize) -> Option<usize> {
        self.parse(key, |text| {
            let size = units::size(text).map_err(|error| error.to_string())?;
            if (min..=max).contains(&size) {
                return Ok(size);
            }
            Err(format!("must be from {min}B to {max}B"))
        })
    }

    /// A list, or a text with commas, which is how the environment writes one.
    pub(super) fn list<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let texts: Option<Vec<String>> = match &value {
            Value::Array(_, items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            other => other.as_str().map(|text| {
                text.split(',')
                    .filter(|part| !part.trim().is_empty())
                    .map(str::to_owned)
                    .collect()
            }),
        };
        let Some(texts) = texts else {
            self.fault(key, "must be a list of texts".to_owned());
            return None;
        };
        let mut items = Vec::with_capacity(texts.len());
        let mut complete = true;
        for text in texts {
            match parse(text.trim()) {
                Ok(item) => items.push(item),
                Err(message) => {
                    complete = false;
                    self.fault(key, message);
                }
            }
        }
        complete.then_some(items)
    }

    pub(super) fn section(&mut self, key: &str) -> Dict {
        match self.value(key) {
            Some(Value::Dict(_, values)) => values,
            Some(_) => {
                self.fault(key, "must be a section".to_owned());
                Dict::new()
            }
            None => Dict::new(),
        }
    }
}
