//! Reads the merged layers into [`Config`], setting by setting, and gathers every fault instead of stopping at the
//! first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use figment::Figment;
use figment::value::{Dict, Value};

use comanda_builtin::HttpInventoryOptions;
use comanda_builtin::payments::HttpPaymentsOptions;
use comanda_builtin::shipments::HttpCarrierOptions;
use comanda_model::order_type::HttpCall;
use comanda_store_postgres::AddressError;

use super::archives::{Archive, archive};
use super::calls;
use super::intake::{Source, source};
use super::layer::{Layer, Origin, merged, origin};
use super::mail::{self, Mail, MailSettings};
use super::subscriptions::{Subscription, subscription};
use super::{Calls, Config, ConfigError, ConfigFault, Deliveries, Engine, Limits, Log, SecretSource, Shipments, units};
use crate::failure::chain;

/// What orders are kept in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// The embedded store.
    Sqlite,
    /// Memory: gone at the end.
    Memory,
    /// A PostgreSQL database, which other nodes may use too.
    Postgres(DatabaseAddress),
}

/// Where a database is. It may hold a password, so it is never shown whole.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseAddress(pub String);

impl std::fmt::Debug for DatabaseAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

impl DatabaseAddress {
    /// The address without what may be secret in it: the password, and all parameters.
    pub fn shown(&self) -> String {
        let address = self.0.split_once('?').map_or(&*self.0, |(address, _)| address);
        let parts = address
            .split_once("://")
            .and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?)));
        match parts {
            Some((scheme, (who, place))) => {
                let user = who.split_once(':').map_or(who, |(user, _)| user);
                format!("{scheme}://{user}@{place}")
            }
            None => address.to_owned(),
        }
    }
}

/// The most tries of a delivery after the first.
const RETRIES_MAX: usize = 30;
/// The longest wait between two tries.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Sections whose members the user names.
const FREE_SECTIONS: [&str; 4] = ["archives", "env", "intake", "secrets"];

pub(super) fn read(layers: &[Layer]) -> Result<Config, ConfigError> {
    let mut reader = Reader {
        figment: merged(layers),
        layers,
        faults: unknown_settings(layers),
    };
    let config = reader.config();
    match config {
        Some(config) if reader.faults.is_empty() => Ok(config),
        _ => Err(ConfigError::Faults(reader.faults)),
    }
}

/// Every setting that there is, dotted.
pub(super) fn known_settings(layers: &[Layer]) -> Vec<String> {
    let mut known = Vec::new();
    for layer in layers.iter().filter(|layer| layer.origin == Origin::Default) {
        leaves(&layer.values, "", &mut known);
    }
    known
}

pub(super) fn leaves(values: &Dict, section: &str, found: &mut Vec<String>) {
    for (name, value) in values {
        let key = if section.is_empty() {
            name.clone()
        } else {
            format!("{section}.{name}")
        };
        match value {
            Value::Dict(_, inner) if !FREE_SECTIONS.contains(&section) => leaves(inner, &key, found),
            _ => found.push(key),
        }
    }
}

fn unknown_settings(layers: &[Layer]) -> Vec<ConfigFault> {
    let known = known_settings(layers);
    let is_free = |key: &str| {
        FREE_SECTIONS
            .iter()
            .any(|section| key.split('.').next() == Some(section))
    };
    let mut faults = Vec::new();
    for layer in layers {
        let mut keys = Vec::new();
        leaves(&layer.values, "", &mut keys);
        for key in keys.into_iter().filter(|key| !known.contains(key) && !is_free(key)) {
            let distance = |candidate: &&String| strsim::damerau_levenshtein(candidate, &key);
            let nearest = known
                .iter()
                .min_by_key(distance)
                .filter(|candidate| distance(candidate) <= 4);
            let message = match nearest {
                Some(nearest) => format!("there is no such setting; did you mean `{nearest}`?"),
                None => "there is no such setting; `comanda config --default` prints all".to_owned(),
            };
            faults.push(ConfigFault {
                origin: layer.origin.of(&key),
                key,
                message,
            });
        }
    }
    faults
}

struct Reader<'a> {
    figment: Figment,
    layers: &'a [Layer],
    faults: Vec<ConfigFault>,
}

impl Reader<'_> {
    /// Reads everything; `None` if anything is wrong, which then stands in `faults`. Each setting is read before the
    /// answer is put together, so that one fault hides no other.
    fn config(&mut self) -> Option<Config> {
        let listen = self.parse("listen", listen);
        let public_url = self.parse("public_url", endpoint);
        let data = self.parse("data", path);
        let store = self.parse("store", store);
        let order_types = self.parse("order_types", path);
        let mounts = self.list("mounts", mount);
        let keys_file = self.parse("keys_file", |text| Ok(PathBuf::from(text)));
        let watch = self.switch("watch");
        let breaks = self.list("break", step_break);
        let fast_retries = self.switch("fast_retries");
        let insecure = self.switch("insecure");
        let bench_no_store = self.switch("bench_no_store");
        let json = self.parse("log.format", |text| match text {
            "human" => Ok(false),
            "json" => Ok(true),
            other => Err(format!("`{other}` is no log format; write human or json")),
        });
        let level = self.parse("log.level", |text| match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(format!("`{text}` is no log filter: {error}")),
        });
        let otlp_endpoint = self.parse("telemetry.otlp_endpoint", endpoint);
        let service_name = self.parse("telemetry.service_name", |text| Ok(text.to_owned()));
        let limits = self.limits();
        let engine = self.engine();
        let calls = self.calls();
        let final_kept = self.parse("retention.final_kept", |text| {
            if text.is_empty() {
                Ok(None)
            } else {
                positive(text).map(Some)
            }
        });
        let audit_kept = self.parse("retention.audit_kept", positive);
        let encryption = self.encryption();
        let deliveries = self.deliveries();
        let subscriptions = self.subscriptions();
        let customers = self.customers();
        let inventory = self.inventory();
        let payments = self.payments();
        let shipments = self.shipments();
        let mail = self.mail();
        let archives = self.archives();
        let intake = self.intake();
        let env = self.env();
        let secrets = self.secrets();
        let (data, listen) = (data?, listen?);
        Some(Config {
            public_url: public_url?.unwrap_or_else(|| format!("http://{listen}")),
            listen,
            store: store?,
            order_types: order_types?,
            mounts: mounts?,
            keys_file: keys_file.map(|path| {
                if path.as_os_str().is_empty() {
                    data.join("keys.json")
                } else {
                    path
                }
            })?,
            data,
            watch: watch?,
            breaks: breaks?,
            fast_retries: fast_retries?,
            insecure: insecure?,
            bench_no_store: bench_no_store?,
            log: Log {
                json: json?,
                level: level?,
            },
            otlp_endpoint: otlp_endpoint?,
            service_name: service_name?,
            limits: limits?,
            engine: engine?,
            calls: calls?,
            customers: customers?,
            inventory: inventory?,
            payments: payments?,
            shipments: shipments?,
            final_kept: final_kept?,
            audit_kept: audit_kept?,
            encryption: encryption?,
            deliveries: deliveries?,
            subscriptions,
            mail: mail?,
            archives,
            intake,
            env,
            secrets,
        })
    }

    fn limits(&mut self) -> Option<Limits> {
        let body_bytes_max = self.size("limits.body_bytes_max", 1 << 10, 1 << 30);
        let header_bytes_max = self.size("limits.header_bytes_max", 1 << 10, 1 << 20);
        let connections_max = self.count("limits.connections_max", 1, 1_000_000);
        let header_read_timeout = self.parse("limits.header_read_timeout", positive);
        let request_timeout = self.parse("limits.request_timeout", positive);
        let streams_max = self.count("limits.streams_max", 0, 1_000_000);
        Some(Limits {
            body_bytes_max: body_bytes_max?,
            header_bytes_max: header_bytes_max?,
            connections_max: connections_max?,
            header_read_timeout: header_read_timeout?,
            request_timeout: request_timeout?,
            streams_max: streams_max?,
        })
    }

    fn engine(&mut self) -> Option<Engine> {
        let concurrency = self.count("engine.concurrency", 1, 100_000);
        let outstanding_max = self.count("engine.outstanding_max", 1, 1_000_000);
        let lease = self.parse("engine.lease", positive);
        let sweep = self.parse("engine.sweep", positive);
        let idempotency_kept = self.parse("engine.idempotency_kept", positive);
        Some(Engine {
            concurrency: concurrency?,
            outstanding_max: outstanding_max?,
            lease: lease?,
            sweep: sweep?,
            idempotency_kept: idempotency_kept?,
        })
    }

    /// `Some(None)`: neither is named.
    fn encryption(&mut self) -> Option<Option<SecretSource>> {
        let file = self.parse("encryption.key_file", optional_path);
        let variable = self.parse("encryption.key_env", text);
        let variable = variable?;
        match (file?, variable.is_empty()) {
            (None, true) => Some(None),
            (Some(file), true) => Some(Some(SecretSource::File(file))),
            (None, false) => Some(Some(SecretSource::Variable(variable))),
            (Some(_), false) => {
                self.fault(
                    "encryption.key_env",
                    "is set, and key_file too; name one place".to_owned(),
                );
                None
            }
        }
    }

    fn deliveries(&mut self) -> Option<Deliveries> {
        let allow_private = self.switch("deliveries.allow_private");
        let retries = self.list("deliveries.retries", positive);
        let timeout = self.parse("deliveries.timeout", positive);
        let retries = retries?;
        if !(1..=RETRIES_MAX).contains(&retries.len()) || retries.iter().any(|wait| *wait > RETRY_WAIT_MAX) {
            let message = format!("must be 1 to {RETRIES_MAX} durations of at most 30d each");
            self.fault("deliveries.retries", message);
            return None;
        }
        Some(Deliveries {
            allow_private: allow_private?,
            retries,
            timeout: timeout?,
        })
    }

    fn calls(&mut self) -> Option<Calls> {
        let per_target_max = self.count("calls.per_target_max", 1, 100_000);
        let circuit_failures = self.count("calls.circuit_failures", 1, 1_000_000);
        let circuit_open = self.parse("calls.circuit_open", positive);
        let allow_private = self.switch("calls.allow_private");
        Some(Calls {
            per_target_max: per_target_max?,
            circuit_failures: u32::try_from(circuit_failures?).unwrap_or(u32::MAX),
            circuit_open: circuit_open?,
            allow_private: allow_private?,
        })
    }

    /// `Some(None)`: Comanda keeps them itself.
    fn customers(&mut self) -> Option<Option<HttpCall>> {
        let find = self.parse("customers.find", calls::call);
        let authorization = self.parse("customers.authorization", calls::shared);
        let sign = self.parse("customers.sign", calls::shared);
        let (find, authorization, sign) = (find?, authorization?, sign?);
        Some(find.map(|call| calls::authorized(call, &authorization, &sign)))
    }

    /// `Some(None)`: Comanda keeps it itself.
    fn inventory(&mut self) -> Option<Option<HttpInventoryOptions>> {
        let names = ["reserve", "ship", "release", "release_by_key", "find"];
        let [reserve, ship, release, release_by_key, find] = self.service_calls("inventory", names)?;
        if [&reserve, &ship, &release, &release_by_key, &find]
            .iter()
            .all(|call| call.is_none())
        {
            return Some(None);
        }
        let options = || {
            Some(HttpInventoryOptions {
                reserve: reserve?,
                ship: ship?,
                release: release?,
                release_by_key: release_by_key?,
                find: find?,
            })
        };
        self.all_or_none("inventory", &names, options()).map(Some)
    }

    /// The calls to a service, with what they share: the `Authorization` header and the secret that signs.
    fn service_calls<const N: usize>(&mut self, service: &str, names: [&str; N]) -> Option<[Option<HttpCall>; N]> {
        let read = names.map(|name| self.parse(&format!("{service}.{name}"), calls::call));
        let authorization = self.parse(&format!("{service}.authorization"), calls::shared);
        let sign = self.parse(&format!("{service}.sign"), calls::shared);
        let (authorization, sign) = (authorization?, sign?);
        if read.iter().any(Option::is_none) {
            return None;
        }
        let with = |call: HttpCall| calls::authorized(call, &authorization, &sign);
        Some(read.map(|call| call.flatten().map(with)))
    }

    /// The options, or a fault that says that the calls belong together.
    fn all_or_none<T>(&mut self, service: &str, names: &[&str], options: Option<T>) -> Option<T> {
        if options.is_none() {
            let (last, others) = names.split_last()?;
            let message = format!("{} and {last} are set together, or none of them", others.join(", "));
            self.fault(&format!("{service}.{}", names.first()?), message);
        }
        options
    }

    /// `Some(None)`: the sandbox takes them.
    fn payments(&mut self) -> Option<Option<HttpPaymentsOptions>> {
        let names = ["authorize", "capture", "void", "void_by_key", "refund", "find"];
        let [authorize, capture, void, void_by_key, refund, find] = self.service_calls("payments", names)?;
        if [&authorize, &capture, &void, &void_by_key, &refund, &find]
            .iter()
            .all(|call| call.is_none())
        {
            return Some(None);
        }
        let options = || {
            Some(HttpPaymentsOptions {
                authorize: authorize?,
                capture: capture?,
                void: void?,
                void_by_key: void_by_key?,
                refund: refund?,
                find: find?,
            })
        };
        self.all_or_none("payments", &names, options()).map(Some)
    }

    fn shipments(&mut self) -> Option<Shipments> {
        let names = ["create", "cancel", "cancel_by_key", "find"];
        let by_hand = self.switch("shipments.by_hand");
        let calls = self.service_calls("shipments", names);
        let (by_hand, [create, cancel, cancel_by_key, find]) = (by_hand?, calls?);
        if [&create, &cancel, &cancel_by_key, &find]
            .iter()
            .all(|call| call.is_none())
        {
            return Some(if by_hand { Shipments::ByHand } else { Shipments::Sandbox });
        }
        if by_hand {
            let message = "a shop ships by hand or by a carrier: set by_hand or the calls";
            self.fault("shipments.by_hand", message.to_owned());
            return None;
        }
        let options = || {
            Some(HttpCarrierOptions {
                create: create?,
                cancel: cancel?,
                cancel_by_key: cancel_by_key?,
                find: find?,
            })
        };
        let options = self.all_or_none("shipments", &names, options())?;
        Some(Shipments::Carrier(Box::new(options)))
    }

    /// `Some(None)`: there is no mail server.
    fn mail(&mut self) -> Option<Option<Mail>> {
        let server = self.parse("mail.server", mail::server);
        let [from, user, password_env, password_file] =
            ["from", "user", "password_env", "password_file"].map(|name| self.parse(&format!("mail.{name}"), text));
        let tls = self.parse("mail.tls", mail::tls);
        let insecure = self.switch("mail.insecure");
        let [ca_file, templates] =
            ["ca_file", "templates"].map(|name| self.parse(&format!("mail.{name}"), optional_path));
        let connections_max = self.count("mail.connections_max", 1, 64);
        let language = self.parse("mail.language", mail::language);
        let settings = MailSettings {
            server: server?,
            from: from?,
            tls: tls?,
            insecure: insecure?,
            ca_file: ca_file?,
            user: user?,
            password_env: password_env?,
            password_file: password_file?,
            connections_max: connections_max?,
            templates: templates?,
            language: language?,
        };
        let read = settings.read();
        read.map_err(|(key, message)| self.fault(key, message)).ok()
    }

    fn fault(&mut self, key: &str, message: String) {
        let origin = origin(self.layers, key).of(key);
        self.faults.push(ConfigFault {
            key: key.to_owned(),
            origin,
            message,
        });
    }

    fn value(&mut self, key: &str) -> Option<Value> {
        match self.figment.find_value(key) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(key, error.to_string());
                None
            }
        }
    }

    fn parse<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let value = self.value(key)?;
        let parsed = match value.as_str() {
            Some(text) => parse(text.trim()),
            None => Err("must be text in quotes".to_owned()),
        };
        parsed.map_err(|message| self.fault(key, message)).ok()
    }

    fn switch(&mut self, key: &str) -> Option<bool> {
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

    fn count(&mut self, key: &str, min: usize, max: usize) -> Option<usize> {
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

    fn size(&mut self, key: &str, min: usize, max: usize) -> Option<usize> {
        self.parse(key, |text| {
            let size = units::size(text).map_err(|error| error.to_string())?;
            if (min..=max).contains(&size) {
                return Ok(size);
            }
            Err(format!("must be from {min}B to {max}B"))
        })
    }

    /// A list, or a text with commas, which is how the environment writes one.
    fn list<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
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

    fn section(&mut self, key: &str) -> Dict {
        match self.value(key) {
            Some(Value::Dict(_, values)) => values,
            Some(_) => {
                self.fault(key, "must be a section".to_owned());
                Dict::new()
            }
            None => Dict::new(),
        }
    }

    fn subscriptions(&mut self) -> Vec<Subscription> {
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

    fn archives(&mut self) -> BTreeMap<String, Archive> {
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

    fn intake(&mut self) -> BTreeMap<String, Source> {
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

    fn env(&mut self) -> BTreeMap<String, String> {
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

    fn secrets(&mut self) -> BTreeMap<String, SecretSource> {
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

fn listen(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("`{text}` is no address; write an IP address and a port, such as 127.0.0.1:8080"))
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        Err("must not be empty".to_owned())
    } else {
        Ok(PathBuf::from(text))
    }
}

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

fn store(text: &str) -> Result<StoreKind, String> {
    match text {
        "sqlite" => Ok(StoreKind::Sqlite),
        "memory" => Ok(StoreKind::Memory),
        other if other.starts_with("postgres://") || other.starts_with("postgresql://") => {
            match comanda_store_postgres::Options::new(other) {
                Ok(_) => Ok(StoreKind::Postgres(DatabaseAddress(other.to_owned()))),
                // The cause quotes what may be a part of the password.
                Err(error @ AddressError::Syntax(_)) => Err(error.to_string()),
                Err(error) => Err(chain(&error)),
            }
        }
        other => Err(format!("`{other}` is no store; write sqlite, memory or postgres://…")),
    }
}

fn mount(text: &str) -> Result<(String, String), String> {
    let parts = text
        .split_once('=')
        .filter(|(path, name)| path.starts_with('/') && path.len() > 1 && !name.is_empty());
    let (path, name) = parts.ok_or_else(|| format!("`{text}` is no mount; write a path and a type: /orders=sale"))?;
    Ok((path.trim_end_matches('/').to_owned(), name.to_owned()))
}

fn step_break(text: &str) -> Result<(String, u32), String> {
    let parts = text
        .split_once('=')
        .and_then(|(step, times)| Some((step.trim(), times.trim().parse().ok()?)));
    let (step, times) = parts
        .filter(|(step, _)| !step.is_empty())
        .ok_or_else(|| format!("`{text}` breaks nothing; write a step and how often it fails: record=2"))?;
    Ok((step.to_owned(), times))
}

fn endpoint(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Some(text.trim_end_matches('/').to_owned())),
        _ => Err(format!(
            "`{text}` is no URL of a collector; write one such as http://127.0.0.1:4318"
        )),
    }
}

fn positive(text: &str) -> Result<Duration, String> {
    let duration = units::duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        Err("must be longer than nothing".to_owned())
    } else {
        Ok(duration)
    }
}
