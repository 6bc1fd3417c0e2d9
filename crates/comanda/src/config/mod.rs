//! Configuration: what can be set, where each value comes from, and that all of it is checked before anything starts.
//!
//! `default.toml` is both the documentation and the defaults. Over it lie the configuration file, the environment and
//! the flags, in this order. Every mistake of all of them is reported at once.

pub mod archives;
pub mod calls;
mod entries;
pub mod intake;
mod layer;
pub mod mail;
mod read;
mod reader;
pub mod secrets;
mod services;
mod show;
mod subscriptions;
pub mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use comanda_builtin::HttpInventoryOptions;
use comanda_builtin::payments::HttpPaymentsOptions;
use comanda_builtin::shipments::HttpCarrierOptions;
use comanda_model::order_type::HttpCall;

use crate::cli::Serve;

pub use read::{DatabaseAddress, StoreKind};
pub use secrets::SecretSource;
pub use show::Setting;
pub use subscriptions::Subscription;

/// The commented file that holds the defaults.
pub const DEFAULT: &str = include_str!("default.toml");

/// Variables that belong to the command line and are no settings.
pub(crate) const OTHER_VARIABLES: [&str; 4] = ["COMANDA_URL", "COMANDA_API_KEY", "COMANDA_OUTPUT", "COMANDA_CONFIG"];

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where others reach this server.
    pub public_url: String,
    /// Where the orders are kept.
    pub data: PathBuf,
    /// What they are kept in.
    pub store: StoreKind,
    /// The directory of order types.
    pub order_types: PathBuf,
    /// Further paths of types: (path, type).
    pub mounts: Vec<(String, String)>,
    /// The file of the API keys.
    pub keys_file: PathBuf,
    /// Whether types are read again when their files change.
    pub watch: bool,
    /// Steps that fail on purpose: (step, how often).
    pub breaks: Vec<(String, u32)>,
    /// Whether the waits between retries are shortened.
    pub fast_retries: bool,
    /// Whether other addresses than loopback go without keys.
    pub insecure: bool,
    /// Whether submissions are answered without being stored.
    pub bench_no_store: bool,
    /// Logs.
    pub log: Log,
    /// Where traces are sent, if anywhere.
    pub otlp_endpoint: Option<String>,
    /// The service that traces are said to be from. Only read where the `otlp` feature is built in.
    #[cfg_attr(
        not(feature = "otlp"),
        expect(dead_code, reason = "only the exporter of traces reads it")
    )]
    pub service_name: String,
    /// Bounds of the HTTP side.
    pub limits: Limits,
    /// How the engine works.
    pub engine: Engine,
    /// Bounds of outbound calls.
    pub calls: Calls,
    /// Who knows the customers, where that is not Comanda itself.
    pub customers: Option<HttpCall>,
    /// Who keeps the stock, where that is not Comanda itself.
    pub inventory: Option<HttpInventoryOptions>,
    /// Who takes payments, where that is not the sandbox.
    pub payments: Option<HttpPaymentsOptions>,
    /// Who carries parcels.
    pub shipments: Shipments,
    /// How long final orders are kept; `None` for ever.
    pub final_kept: Option<Duration>,
    /// How long entries of the audit log are kept.
    pub audit_kept: Duration,
    /// Where the key is that secrets in the store are sealed with, if it is named.
    pub encryption: Option<SecretSource>,
    /// How events are sent.
    pub deliveries: Deliveries,
    /// Whom events are sent to.
    pub subscriptions: Vec<Subscription>,
    /// How e-mail is sent; none without a mail server.
    pub mail: Option<mail::Mail>,
    /// Where failed orders are written, by the archive's name.
    pub archives: BTreeMap<String, archives::Archive>,
    /// Where orders come from besides the API, by name.
    pub intake: BTreeMap<String, intake::Source>,
    /// What templates may read as `env.NAME`, beside the environment.
    pub env: BTreeMap<String, String>,
    /// Where the secrets are that templates may read as `secret.NAME`.
    pub secrets: BTreeMap<String, SecretSource>,
}

/// How logs are written.
#[derive(Clone, Debug)]
pub struct Log {
    /// As JSON, one object a line, instead of for people.
    pub json: bool,
    /// The filter, in the form of `tracing_subscriber::EnvFilter`; it has been parsed once.
    pub level: String,
}

/// Bounds of the HTTP side.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body_bytes_max: usize,
    /// The most bytes of headers.
    pub header_bytes_max: usize,
    /// The most connections.
    pub connections_max: usize,
    /// How long the headers may take.
    pub header_read_timeout: Duration,
    /// How long an ordinary request may take.
    pub request_timeout: Duration,
    /// The most live streams.
    pub streams_max: usize,
}

/// How the engine works.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Steps that reach outside at the same time.
    pub concurrency: usize,
    /// Orders that are claimed at the same time.
    pub outstanding_max: usize,
    /// How long a claim lasts.
    pub lease: Duration,
    /// How often due work is looked for.
    pub sweep: Duration,
    /// How long an idempotency key is kept.
    pub idempotency_kept: Duration,
}

/// How events are sent to subscriptions.
#[derive(Clone, Debug)]
pub struct Deliveries {
    /// Whether subscriptions made through the API may lead to addresses that are not public.
    pub allow_private: bool,
    /// The waits after failed tries.
    pub retries: Vec<Duration>,
    /// How long a receiver may take to answer.
    pub timeout: Duration,
}

/// Bounds of outbound calls.
#[derive(Clone, Debug)]
pub struct Calls {
    /// Calls to one service at the same time.
    pub per_target_max: usize,
    /// After how many failures in a row calls to a service are held back.
    pub circuit_failures: u32,
    /// For how long they are held back.
    pub circuit_open: Duration,
    /// Whether calls whose host comes from an order may lead to addresses that are not public.
    pub allow_private: bool,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("the configuration file {path} could not be read")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A layer is not TOML, or could not be merged.
    #[error("{layer} is not valid: {detail}")]
    Syntax {
        /// Which layer.
        layer: String,
        /// What is wrong, with its place.
        detail: String,
    },
    /// Settings that are unknown or wrong: all of them.
    #[error("the configuration is not valid{}", .0.iter().map(|fault| format!("\n  {fault}")).collect::<String>())]
    Faults(Vec<ConfigFault>),
    /// A secret that could not be read.
    #[error("the secret `{name}` could not be read from {place}")]
    Secret {
        /// Its name.
        name: String,
        /// The file or variable.
        place: String,
        /// Why.
        #[source]
        source: SecretReadError,
    },
}

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretReadError {
    /// The variable is not set, or is not text.
    #[error(transparent)]
    Variable(#[from] std::env::VarError),
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
}

/// One setting that is unknown or wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} ({origin}): {message}")]
pub struct ConfigFault {
    /// The setting, dotted.
    pub key: String,
    /// Where it was set.
    pub origin: String,
    /// What is wrong with it.
    pub message: String,
}

/// Who carries parcels.
#[derive(Clone, Debug)]
pub enum Shipments {
    /// The sandbox: nobody.
    Sandbox,
    /// People, who write carrier and tracking number into the order.
    ByHand,
    /// A service.
    Carrier(Box<HttpCarrierOptions>),
}

/// Where the configuration is taken from, besides the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file that was named; `None` takes `./comanda.toml` if there is one.
    pub file: Option<PathBuf>,
    /// The environment: only `COMANDA_…` is looked at.
    pub environment: Vec<(String, String)>,
    /// The flags of `serve`.
    pub flags: Serve,
}

impl Sources {
    /// The file, this process's environment, and these flags.
    pub fn of_process(file: Option<PathBuf>, flags: Serve) -> Self {
        // A variable that is not text cannot be one of ours: our names and values are.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            file,
            environment,
            flags,
        }
    }
}

/// Reads and checks the configuration. Answers it with each setting's origin, for `comanda config`.
pub fn load(sources: &Sources) -> Result<(Config, Vec<Setting>), ConfigError> {
    let layers = layer::layers(sources)?;
    let config = read::read(&layers)?;
    Ok((config, show::settings(&layers)))
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("comanda.toml");
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    fn setting<'a>(settings: &'a [Setting], key: &str) -> &'a Setting {
        settings.iter().find(|setting| setting.key == key).unwrap()
    }

    #[test]
    fn the_defaults_are_valid_and_complete() {
        let (config, settings) = load(&Sources::default()).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.limits.body_bytes_max, 1 << 20);
        assert_eq!(config.keys_file, PathBuf::from("./comanda-data/keys.json"));
        assert!(config.final_kept.is_none() && config.otlp_endpoint.is_none());
        assert!(settings.iter().all(|setting| setting.origin == "default"));
    }

    #[test]
    fn flags_win_over_the_environment_over_the_file_over_the_defaults() {
        let (_directory, path) =
            file("listen = \"127.0.0.1:1\"\ndata = \"/file\"\nstore = \"memory\"\n[log]\nlevel = \"warn\"");
        let sources = Sources {
            file: Some(path.clone()),
            environment: environment(&[
                ("COMANDA_LISTEN", "127.0.0.1:2"),
                ("COMANDA_DATA", "/environment"),
                ("COMANDA_LOG__FORMAT", "json"),
                ("COMANDA_MOUNTS", "/orders=sale, /a=purchase"),
                ("COMANDA_ENGINE__CONCURRENCY", "7"),
                ("COMANDA_URL", "http://elsewhere"),
                ("HOME", "/nowhere"),
            ]),
            flags: Serve {
                listen: Some("127.0.0.1:3".to_owned()),
                watch: true,
                ..Serve::default()
            },
        };
        let (config, settings) = load(&sources).unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.data, PathBuf::from("/environment"));
        assert_eq!(config.store, StoreKind::Memory);
        assert!(config.log.json && config.watch);
        assert_eq!(config.log.level, "warn");
        assert_eq!(config.engine.concurrency, 7);
        assert_eq!(
            config.mounts,
            [
                ("/orders".to_owned(), "sale".to_owned()),
                ("/a".to_owned(), "purchase".to_owned())
            ]
        );
        assert_eq!(setting(&settings, "listen").origin, "--listen");
        assert_eq!(setting(&settings, "data").origin, "COMANDA_DATA");
        assert_eq!(setting(&settings, "store").origin, path.display().to_string());
        assert_eq!(setting(&settings, "log.format").origin, "COMANDA_LOG__FORMAT");
        assert_eq!(setting(&settings, "engine.sweep").origin, "default");
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_place_and_the_nearest_name() {
        let (_directory, path) = file(
            "listn = 1\nwatch = \"perhaps\"\n[limits]\nbody_bytes_max = \"1MB\"\nconnections_max = 0\n[log]\nlevel = \"a=b=c\"\n[secrets]\npayments = \"hunter2\"",
        );
        let sources = Sources {
            file: Some(path),
            environment: environment(&[("COMANDA_STOR", "sqlite"), ("COMANDA_LISTEN", "nowhere")]),
            flags: Serve {
                breaks: vec!["record".to_owned()],
                mounts: vec!["orders".to_owned()],
                ..Serve::default()
            },
        };
        let text = load(&sources).unwrap_err().to_string();
        for part in [
            "listn (",
            "did you mean `listen`?",
            "watch (",
            "limits.body_bytes_max (",
            "1MiB",
            "limits.connections_max (",
            "log.level (",
            "stor (COMANDA_STOR): there is no such setting; did you mean `store`?",
            "listen (COMANDA_LISTEN): `nowhere`",
            "break (--break): `record`",
            "mounts (--mount): `orders`",
            "secrets.payments (",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let sources = Sources {
            file: Some(PathBuf::from("/nowhere/comanda.toml")),
            ..Sources::default()
        };
        assert!(matches!(load(&sources), Err(ConfigError::File { .. })));
    }

    #[test]
    fn the_password_of_a_database_is_never_shown() {
        let sources = Sources {
            environment: environment(&[("COMANDA_STORE", "postgres://me:hunter2@db/orders?password=hunter2")]),
            ..Sources::default()
        };
        let (config, settings) = load(&sources).unwrap();
        assert!(matches!(&config.store, StoreKind::Postgres(address) if address.shown() == "postgres://me@db/orders"));
        assert!(!format!("{settings:?}{config:?}").contains("hunter2"));
    }

    #[test]
    fn secrets_are_never_shown() {
        let (directory, path) = file("[secrets]\npayments = { file = \"secret.txt\" }");
        let secret = directory.path().join("secret.txt");
        std::fs::write(&secret, "hunter2\n").unwrap();
        std::fs::write(
            &path,
            format!("[secrets]\npayments = {{ file = {:?} }}", secret.display().to_string()),
        )
        .unwrap();
        let (config, settings) = load(&Sources {
            file: Some(path),
            ..Sources::default()
        })
        .unwrap();
        let secrets = secrets::read_all(&config.secrets).unwrap();
        assert_eq!(secrets["payments"], "hunter2");
        assert!(!format!("{settings:?}{config:?}").contains("hunter2"));
    }
}
