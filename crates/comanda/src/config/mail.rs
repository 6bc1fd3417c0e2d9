//! Reads `[mail]`: how e-mail is sent, if at all.

use std::net::IpAddr;
use std::path::PathBuf;

use comanda_deliver::mail::{MailOptions, MailTls};

use super::{ConfigError, SecretSource, secrets};

/// How e-mail is sent.
#[derive(Clone, Debug)]
pub struct Mail {
    /// All but the password.
    pub options: MailOptions,
    /// The user, and where the password is.
    pub login: Option<(String, SecretSource)>,
}

/// What stands in `[mail]`, each setting by itself sound.
pub(super) struct MailSettings {
    pub server: Option<(String, Option<u16>)>,
    pub from: String,
    pub tls: MailTls,
    pub insecure: bool,
    pub ca_file: Option<PathBuf>,
    pub user: String,
    pub password_env: String,
    pub password_file: String,
    pub connections_max: usize,
    pub templates: Option<PathBuf>,
    pub language: String,
}

impl MailSettings {
    /// The settings as a whole; `None` where there is no server. A fault names its setting.
    pub(super) fn read(self) -> Result<Option<Mail>, (&'static str, String)> {
        let Some((host, port)) = self.server else {
            return Ok(None);
        };
        if self.from.is_empty() {
            return Err(("mail.from", "must be set: whom messages are from".to_owned()));
        }
        if self.tls == MailTls::Off && !self.insecure && !is_loopback(&host) {
            let message = "\"none\" sends all in clear, and is only for a server on this machine; set insecure = true to do it all the same";
            return Err(("mail.tls", message.to_owned()));
        }
        let password = match (self.password_env.as_str(), self.password_file.as_str()) {
            ("", "") => None,
            (variable, "") => Some(SecretSource::Variable(variable.to_owned())),
            ("", file) => Some(SecretSource::File(file.into())),
            _ => {
                let message = "set password_env or password_file, not both";
                return Err(("mail.password_env", message.to_owned()));
            }
        };
        let login = match (self.user.is_empty(), password) {
            (true, None) => None,
            (false, Some(password)) => Some((self.user, password)),
            _ => {
                let message = "set it together with password_env or password_file, or leave them all out";
                return Err(("mail.user", message.to_owned()));
            }
        };
        Ok(Some(Mail {
            options: MailOptions {
                host,
                port,
                tls: self.tls,
                ca_file: self.ca_file,
                from: self.from,
                credentials: None,
                connections_max: self.connections_max,
                templates: self.templates,
                language: self.language,
            },
            login,
        }))
    }
}

impl Mail {
    /// What sends e-mail, with the password read.
    pub fn options(&self) -> Result<MailOptions, ConfigError> {
        let credentials = match &self.login {
            Some((user, source)) => Some((user.clone(), secrets::read_one("mail.password", source)?)),
            None => None,
        };
        Ok(MailOptions {
            credentials,
            ..self.options.clone()
        })
    }
}

/// `smtp.example.com`, `smtp.example.com:2525`, `[::1]:25`; empty for none.
pub(super) fn server(text: &str) -> Result<Option<(String, Option<u16>)>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || format!("`{text}` is no mail server; write a host, or a host and a port: smtp.example.com:587");
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
            (host, Some(port))
        }
        _ => (text, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    if host.is_empty() || !host.chars().all(plain) {
        return Err(wrong());
    }
    Ok(Some((host.to_owned(), port)))
}

pub(super) fn tls(text: &str) -> Result<MailTls, String> {
    match text {
        "starttls" => Ok(MailTls::StartTls),
        "tls" => Ok(MailTls::Tls),
        "none" => Ok(MailTls::Off),
        other => Err(format!("`{other}` is no protection; write starttls, tls or none")),
    }
}

pub(super) fn language(text: &str) -> Result<String, String> {
    match text {
        "en" | "es" | "pt" => Ok(text.to_owned()),
        other => Err(format!("there are no messages in `{other}`; write en, es or pt")),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}
