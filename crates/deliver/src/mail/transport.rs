//! The connections to the mail server: pooled, bounded in number and in time, protected as it is set up.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comanda_outbound::Secrets;
use lettre::message::Mailbox;
use lettre::transport::smtp::PoolConfig;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use tokio::sync::Semaphore;

use super::message::Letter;
use super::options::{MailError, MailOptions, MailTls};
use crate::target::{Outcome, Tried, chain};

/// How long one answer of the server may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a message may take as a whole.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection is kept that nobody uses.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Replies that say no for good, but to us rather than to one message: commands that are not understood, a host that takes
/// no mail, and all that has to do with logging in (RFC 5321, RFC 7504, RFC 4954).
const OF_THE_SERVER: [u16; 11] = [500, 501, 502, 503, 504, 521, 523, 530, 534, 535, 538];
/// The server closes (RFC 5321), or cannot check who we are just now (RFC 4954).
const CLOSING: [u16; 2] = [421, 454];

/// What speaks with the mail server.
#[derive(Debug)]
pub(super) struct Transport {
    smtp: AsyncSmtpTransport<Tokio1Executor>,
    places: Semaphore,
    from: Mailbox,
    /// A server may say what it was told when it does not take a login.
    secrets: Secrets,
}

impl Transport {
    pub(super) fn new(options: MailOptions) -> Result<Self, MailError> {
        let from: Mailbox = options
            .from
            .parse()
            .map_err(|_| MailError::From(options.from.clone()))?;
        let connections_max = options.connections_max.clamp(1, 64);
        let tls = match options.tls {
            MailTls::Off => Tls::None,
            MailTls::StartTls => Tls::Required(parameters(&options)?),
            MailTls::Tls => Tls::Wrapper(parameters(&options)?),
        };
        let port = options.port.unwrap_or(match options.tls {
            MailTls::StartTls => 587,
            MailTls::Tls => 465,
            MailTls::Off => 25,
        });
        let idle = u32::try_from(connections_max).unwrap_or(u32::MAX);
        let mut smtp = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(options.host)
            .port(port)
            .tls(tls)
            .timeout(Some(ANSWER_TIMEOUT))
            .pool_config(PoolConfig::new().max_size(idle).idle_timeout(IDLE_TIMEOUT));
        let mut secrets = Secrets::default();
        if let Some((user, password)) = options.credentials {
            // As it is sent by the mechanisms LOGIN and PLAIN (RFC 4616).
            secrets = Secrets::new([password.clone(), STANDARD.encode(format!("\0{user}\0{password}"))]);
            smtp = smtp.credentials(Credentials::new(user, password));
        }
        Ok(Self {
            smtp: smtp.build(),
            // The pool bounds only those that rest.
            places: Semaphore::new(connections_max),
            from,
            secrets,
        })
    }

    pub(super) async fn send(&self, letter: Letter<'_>, begun: Instant) -> Tried {
        let message = match letter.message(&self.from) {
            Ok(message) => message,
            Err(error) => return Tried::new(Outcome::Refused(chain(&error)), begun),
        };
        // Only a transport that has ended closes it, and then nobody sends.
        let _place = self.places.acquire().await;
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.smtp.send(message)).await;
        let error = match sent {
            Ok(Ok(answer)) => {
                return Tried {
                    status: Some(answer.code().into()),
                    ..Tried::new(Outcome::Delivered, begun)
                };
            }
            Ok(Err(error)) => error,
            Err(_) => {
                let reason = format!("the mail server took longer than {} s", SEND_TIMEOUT.as_secs());
                return Tried::new(Outcome::failed(reason), begun);
            }
        };
        let status = error.status().map(u16::from);
        let reason = self.secrets.hide(chain(&error));
        let outcome = match status {
            Some(code) if OF_THE_SERVER.contains(&code) || CLOSING.contains(&code) => Outcome::failed(reason),
            Some(500..) => Outcome::Refused(reason),
            Some(_) => Outcome::failed_alone(reason),
            None => Outcome::failed(reason),
        };
        Tried {
            status,
            ..Tried::new(outcome, begun)
        }
    }
}

fn parameters(options: &MailOptions) -> Result<TlsParameters, MailError> {
    let mut builder = TlsParameters::builder(options.host.clone());
    if let Some(path) = &options.ca_file {
        let pem = std::fs::read(path).map_err(|source| MailError::File {
            path: path.clone(),
            source,
        })?;
        builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(MailError::Certificate)?);
    }
    builder.build_rustls().map_err(MailError::Certificate)
}
