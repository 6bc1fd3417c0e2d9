//! Reads the merged layers into [`Config`], setting by setting, and gathers every fault instead of stopping at the
//! first.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use figment::value::{Dict, Value};

use comanda_store_postgres::AddressError;

use super::layer::{Layer, Origin, merged};
use super::reader::Reader;
use super::{Calls, Config, ConfigError, ConfigFault, Deliveries, Engine, Limits, Log, SecretSource, units};
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

pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

pub(super) fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
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
