//! How e-mail is sent: which server, how it is protected, and who it is from.

use std::fmt;
use std::path::PathBuf;

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MailTls {
    /// TLS after STARTTLS (RFC 3207); without it nothing is sent. Port 587 unless said.
    #[default]
    StartTls,
    /// TLS from the first byte (RFC 8314). Port 465 unless said.
    Tls,
    /// None at all. Port 25 unless said. Meant for a server on the same machine.
    Off,
}

/// How e-mail is sent.
#[derive(Clone)]
pub struct MailOptions {
    /// The mail server: a host name or an IP address.
    pub host: String,
    /// Its port; that of the protection unless set.
    pub port: Option<u16>,
    /// How the connection is protected.
    pub tls: MailTls,
    /// A PEM file of an authority to trust beside the machine's.
    pub ca_file: Option<PathBuf>,
    /// Whom messages are from: `shop@example.com`, or with a name, `Shop <shop@example.com>`.
    pub from: String,
    /// The user and the password, where the server asks for them.
    pub credentials: Option<(String, String)>,
    /// The most connections at the same time, from 1.
    pub connections_max: usize,
    /// A directory of templates that go before those shipped.
    pub templates: Option<PathBuf>,
    /// The language of messages to addresses that subscriptions name: `en`, `es`, `pt`.
    pub language: String,
}

impl fmt::Debug for MailOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailOptions")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// Why e-mail could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// `from` cannot be read.
    #[error("`{0}` is no sender; write an address: shop@example.com, or Shop <shop@example.com>")]
    From(String),
    /// A file cannot be read.
    #[error("{path} could not be read")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate cannot be used.
    #[error("the certificates of the mail server's authority cannot be used")]
    Certificate(#[source] lettre::transport::smtp::Error),
    /// A template is not valid.
    #[error("the template {name} is not valid: {message}")]
    Template {
        /// Its file's name.
        name: String,
        /// What is wrong with it.
        message: String,
    },
}
