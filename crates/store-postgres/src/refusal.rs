//! Why a server cannot be used, and what a person does about it: no connection to it, or settings that would break a promise.

use std::error::Error;

use rustls::CertificateError;
use tokio_postgres::error::SqlState;

/// A server that cannot be used, or cannot be reached, with its cause and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ServerError {
    what: String,
    advice: &'static str,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ServerError {
    /// What is wrong with a server that answers.
    pub(crate) fn of_server(what: impl Into<String>, advice: &'static str) -> Self {
        Self {
            what: what.into(),
            advice,
            source: None,
        }
    }

    /// Why no connection was made.
    pub(crate) fn of_connection(error: tokio_postgres::Error) -> Self {
        Self {
            what: NO_CONNECTION.to_owned(),
            advice: advice(&error),
            source: Some(Box::new(error)),
        }
    }

    /// The role may not do it.
    pub(crate) fn of_privilege(error: tokio_postgres::Error) -> Self {
        Self {
            what: "the role lacks a privilege".to_owned(),
            advice: "To make or widen the schema, let a role that may do so run `comanda migrate up`; to serve, grant the role what \
                     docs/postgresql.md lists",
            source: Some(Box::new(error)),
        }
    }

    /// Nothing answered in time.
    pub(crate) fn of_silence() -> Self {
        let silence = std::io::Error::new(std::io::ErrorKind::TimedOut, "nothing answered in time");
        Self {
            what: NO_CONNECTION.to_owned(),
            advice: REACH,
            source: Some(Box::new(silence)),
        }
    }

    /// What to do about it, as a sentence without its full stop.
    pub const fn advice(&self) -> &'static str {
        self.advice
    }
}

const NO_CONNECTION: &str = "no connection to the database";
const REACH: &str = "Check host and port of the address, and that the server runs and can be reached from here";

fn advice(error: &tokio_postgres::Error) -> &'static str {
    if let Some(code) = error.code() {
        return advice_of_code(code);
    }
    let Some(cause) = error.source() else { return REACH };
    if let Some(error) = cause
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        .and_then(|error| error.downcast_ref::<rustls::Error>())
    {
        return advice_of_tls(error);
    }
    // The client has no name for it but this text.
    if cause.to_string() == "server does not support TLS" {
        return "Switch TLS on at the server (ssl = on); or, where nobody can listen in between, write ?sslmode=disable \
                behind the address";
    }
    REACH
}

fn advice_of_code(code: &SqlState) -> &'static str {
    match *code {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "Check user and password of the address, and what the server's pg_hba.conf asks of this machine: a password, TLS, \
             a client's certificate (?sslcert=…&sslkey=…)"
        }
        SqlState::INVALID_CATALOG_NAME => "Make it with createdb, or name another in the address",
        SqlState::INSUFFICIENT_PRIVILEGE => "Grant the role CONNECT on the database",
        SqlState::TOO_MANY_CONNECTIONS => {
            "Raise max_connections of the server, or have others use fewer: a node holds up to 9"
        }
        SqlState::CANNOT_CONNECT_NOW => "Try again when the server has started",
        _ => "The server's log says more",
    }
}

fn advice_of_tls(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "Name the certificate of the authority that signed the server's: ?sslrootcert=/path/ca.pem behind the address"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "Write a name that the server's certificate has as the host of the address",
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "Give the server a certificate that has not expired; or set this machine's clock, if it is that"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "Set this machine's clock, or give the server a certificate that is valid already",
        rustls::Error::AlertReceived(_) => {
            "The server did not take the client's certificate: check ?sslcert=…&sslkey=…, and ssl_ca_file of the server"
        }
        _ => "Check the server's certificate",
    }
}
