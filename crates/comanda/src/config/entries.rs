//! Reads the sections whose entries are named by whoever sets them: subscriptions, archives, intake, variables and secrets.

use std::collections::BTreeMap;

use figment::value::Value;

use super::SecretSource;
use super::archives::{Archive, archive};
use super::intake::{Source, source};
use super::reader::Reader;
use super::subscriptions::{Subscription, subscription};

impl Reader<'_> {
    pub(super) fn subscriptions(&mut self) -> Vec<Subscription> {
        let Some(Value::Array(_, items)) = self.value("subscriptions") else {
            self.fault(
                "subscriptions",
                "must be a list of tables: [[subscriptions]]".to_owned(),
            );
            return Vec::new();
        };
        let mut all: Vec<Subscription> = Vec::new();
        for item in &items {
            match subscription(item, secret) {
                Ok(one) if all.iter().any(|other| other.name == one.name) => {
                    self.fault("subscriptions", format!("`{}` stands there twice", one.name));
                }
                Ok(one) => all.push(one),
                Err(message) => self.fault("subscriptions", message),
            }
        }
        all
    }

    pub(super) fn archives(&mut self) -> BTreeMap<String, Archive> {
        let mut archives = BTreeMap::new();
        for (name, value) in self.section("archives") {
            match archive(&name, &value, secret) {
                Ok(archive) => {
                    archives.insert(name, archive);
                }
                Err(message) => self.fault(&format!("archives.{name}"), message),
            }
        }
        archives
    }

    pub(super) fn intake(&mut self) -> BTreeMap<String, Source> {
        let mut sources = BTreeMap::new();
        for (name, value) in self.section("intake") {
            match source(&name, &value, secret) {
                Ok(source) => {
                    sources.insert(name, source);
                }
                Err(message) => self.fault(&format!("intake.{name}"), message),
            }
        }
        sources
    }

    pub(super) fn env(&mut self) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        for (name, value) in self.section("env") {
            match value.as_str() {
                Some(text) => {
                    env.insert(name, text.to_owned());
                }
                None => self.fault(&format!("env.{name}"), "must be text in quotes".to_owned()),
            }
        }
        env
    }

    pub(super) fn secrets(&mut self) -> BTreeMap<String, SecretSource> {
        let mut secrets = BTreeMap::new();
        for (name, value) in self.section("secrets") {
            match secret(&value) {
                Some(source) => {
                    secrets.insert(name, source);
                }
                // The value is left out: it may be the secret itself.
                None => {
                    let message = "a secret is named, not written here: { env = \"NAME\" } or { file = \"PATH\" }";
                    self.fault(&format!("secrets.{name}"), message.to_owned());
                }
            }
        }
        secrets
    }
}

fn secret(value: &Value) -> Option<SecretSource> {
    let members = value.as_dict()?;
    let mut members = members.iter();
    let (Some((kind, place)), None) = (members.next(), members.next()) else {
        return None;
    };
    let place = place.as_str().filter(|place| !place.is_empty())?;
    match kind.as_str() {
        "env" => Some(SecretSource::Variable(place.to_owned())),
        "file" => Some(SecretSource::File(place.into())),
        _ => None,
    }
}
