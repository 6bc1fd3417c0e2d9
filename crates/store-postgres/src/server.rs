//! The server: how it is reached, and one statement asked of it.
//!
//! No connection carries state of its own: no prepared statements, no settings, no session locks, no open transactions
//! between calls. So a proxy that hands connections from one transaction to the next (PgBouncer) changes nothing, and a
//! broken connection loses nothing but its statement.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use comanda_store::StoreError;
use deadpool_postgres::{ConfigConnectImpl, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::connect::Settled;
use crate::failure::{Failure, Remedy};

/// How long reaching the server may take, and waiting for a free connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection may be silent while data is on its way before it is given up.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How often a statement that met other transactions is tried.
const TRIES_MAX: u32 = 8;

/// A parameter with its type, so that a statement needs no round trip of its own to be prepared.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A bounded number of connections to the server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pool: Pool,
    answer_time_max: Duration,
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is no PostgreSQL address.
    #[error(
        "not a PostgreSQL address: expected postgres://USER:PASSWORD@HOST:PORT/DATABASE, with what is no letter or digit in user \
         and password percent-encoded, and only known parameters behind it"
    )]
    Syntax(#[source] tokio_postgres::Error),
    /// `sslmode` is none that we know.
    #[error("sslmode `{0}` is not known: use `disable` or `verify-full`")]
    SslMode(String),
    /// The certificates of `sslrootcert` or `sslcert`, or the key of `sslkey`, could not be read.
    #[error("the certificates or the key in {path} could not be read")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// Of `sslcert` and `sslkey` only one is given.
    #[error("sslcert and sslkey belong together: name both")]
    HalfACertificate,
    /// TLS could not be set up.
    #[error("TLS could not be set up")]
    Tls(#[source] rustls::Error),
}

/// Where the server is, and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Address {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

impl Address {
    /// Reads an address. Four parameters are ours: `sslmode` (`disable`, or `verify-full`; `require` and `verify-ca` are
    /// taken as `verify-full`, for encryption to just anyone protects nobody), `sslrootcert`, a PEM file that takes
    /// the place of the system's certificates, and `sslcert` with `sslkey`, PEM files of a certificate that we show and of its
    /// key. Without `sslmode`, a server on another machine is spoken to with TLS.
    pub(crate) fn parse(text: &str) -> Result<Self, AddressError> {
        let (rest, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut files, mut others) = (None, CertificateFiles::default(), Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value.to_owned()),
                Some(("sslrootcert", value)) => files.authorities = Some(PathBuf::from(value)),
                Some(("sslcert", value)) => files.own = Some(PathBuf::from(value)),
                Some(("sslkey", value)) => files.own_key = Some(PathBuf::from(value)),
                _ => others.push(pair),
            }
        }
        let mut plain = rest.to_owned();
        if !others.is_empty() {
            plain = format!("{plain}?{}", others.join("&"));
        }
        let mut config = Config::from_str(&plain).map_err(AddressError::Syntax)?;
        let is_near = config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
            Host::Unix(_) => true,
        });
        let encrypt = match mode.as_deref() {
            None => !is_near,
            Some("disable") => false,
            Some("require" | "verify-ca" | "verify-full") => true,
            Some(other) => return Err(AddressError::SslMode(other.to_owned())),
        };
        config
            .ssl_mode(if encrypt { SslMode::Require } else { SslMode::Disable })
            .application_name("comanda")
            .connect_timeout(CONNECT_TIME_MAX)
            .keepalives_idle(SILENCE_MAX)
            .keepalives_interval(Duration::from_secs(3))
            .keepalives_retries(3)
            .tcp_user_timeout(SILENCE_MAX);
        let tls = encrypt.then(|| tls(files)).transpose()?;
        Ok(Self { config, tls })
    }
}

/// The files that an address names for TLS, in PEM.
#[derive(Default)]
struct CertificateFiles {
    /// Of whom the server's certificate must be; `None`: of whom the system trusts.
    authorities: Option<PathBuf>,
    /// What we show of ourselves, with what leads to its authority.
    own: Option<PathBuf>,
    own_key: Option<PathBuf>,
}

fn tls(files: CertificateFiles) -> Result<MakeRustlsConnect, AddressError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(AddressError::Tls)?;
    let builder = match files.authorities {
        None => builder.with_platform_verifier().map_err(AddressError::Tls)?,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates(&path)? {
                roots.add(certificate).map_err(AddressError::Tls)?;
            }
            builder.with_root_certificates(roots)
        }
    };
    let config = match (files.own, files.own_key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let failed = |source| AddressError::Certificates {
                path: key.clone(),
                source,
            };
            let own_key = PrivateKeyDer::from_pem_file(&key).map_err(failed)?;
            let own = read_certificates(&certificate)?;
            builder.with_client_auth_cert(own, own_key).map_err(AddressError::Tls)?
        }
        _ => return Err(AddressError::HalfACertificate),
    };
    Ok(MakeRustlsConnect::new(config))
}

/// The certificates of a file, of which there is one at least.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AddressError> {
    let failed = |source| AddressError::Certificates {
        path: path.to_owned(),
        source,
    };
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect();
    let certificates = read.map_err(failed)?;
    if certificates.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

impl Server {
    /// A pool of up to `connections_max` connections, made when they are first needed, on the caller's runtime.
    pub(crate) fn new(
        address: &Address,
        connections_max: usize,
        answer_time_max: Duration,
    ) -> Result<Self, StoreError> {
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = match &address.tls {
            Some(tls) => {
                let connect = ConfigConnectImpl { tls: tls.clone() };
                Manager::from_connect(address.config.clone(), Settled::here(connect), recycling)
            }
            None => {
                let connect = ConfigConnectImpl { tls: NoTls };
                Manager::from_connect(address.config.clone(), Settled::here(connect), recycling)
            }
        };
        let pool = Pool::builder(manager)
            .max_size(connections_max)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECT_TIME_MAX))
            .create_timeout(Some(CONNECT_TIME_MAX))
            .build()
            .map_err(|error| StoreError::failed("set up the connections", error))?;
        Ok(Self { pool, answer_time_max })
    }

    /// A connection.
    pub(crate) async fn connection(&self, what: &'static str) -> Result<Object, Failure> {
        self.pool.get().await.map_err(|error| Failure::unasked(what, error))
    }

    /// Asks one statement, which is one transaction. A connection whose answer is late is given up.
    pub(crate) async fn ask(
        &self,
        what: &'static str,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Failure> {
        let connection = self.connection(what).await?;
        let answer = tokio::time::timeout(self.answer_time_max, connection.query_typed(statement, parameters)).await;
        match answer {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => Err(Failure::statement(what, error)),
            Err(_) => {
                drop(Object::take(connection));
                Err(Failure::late(what))
            }
        }
    }

    /// Asks a statement that met other transactions again: nothing of it was applied.
    pub(crate) async fn ask_again(
        &self,
        what: &'static str,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.ask(what, statement, parameters).await {
                Err(Failure::NotApplied {
                    error,
                    remedy: Remedy::Again,
                }) if tries < TRIES_MAX => {
                    tracing::debug!(%error, tries, what, "it met another transaction, and is tried again");
                    // The other transaction is ahead by milliseconds; nodes that met step apart by their own number.
                    let apart = u64::from(std::process::id() % 7);
                    tokio::time::sleep(Duration::from_millis(u64::from(tries) * (1 + apart))).await;
                }
                answer => return answer,
            }
        }
    }

    /// Closes all connections.
    pub(crate) fn close(&self) {
        self.pool.close();
    }
}
