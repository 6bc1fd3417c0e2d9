//! What can go wrong in a command, and what to do about each: an error text that does not say that is half an error
//! text.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use comanda_engine::StartError;
use comanda_http::BindError;
use comanda_store::StoreError;
use comanda_store_postgres::ServerError;

use crate::config::ConfigError;
use crate::output::OutputError;
use crate::remote::RemoteError;
use crate::types::TypesError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or its input makes no sense. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A file could not be read or written.
    #[error("{path} could not be {act}")]
    File {
        /// The file.
        path: PathBuf,
        /// `read`, `written`, …
        act: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not the JSON that was expected.
    #[error("{path} is not valid JSON")]
    Json {
        /// The file, or `stdin`.
        path: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// Nothing could be printed.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The order types are wrong.
    #[error(transparent)]
    Types(#[from] TypesError),
    /// The server answered with an error, or not at all.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server could not listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The address is taken.
    #[error("port {} is in use", .0.port())]
    PortInUse(SocketAddr),
    /// The address is not loopback and there are no keys.
    #[error("{0} is not a loopback address, and there are no API keys")]
    KeysNeeded(SocketAddr),
    /// Something of the process could not be set up, or ended badly.
    #[error("{what}")]
    Process {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Everything has been said already.
    #[error("failed")]
    Reported,
}

impl Failure {
    /// Wraps why something of the process failed.
    pub fn process(what: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Process {
            what,
            source: source.into(),
        }
    }

    /// Prints the error with its causes and what to do about it, and answers the exit code.
    pub fn report(&self) -> ExitCode {
        if self.is_broken_pipe() {
            // Whoever read our output has seen enough (`comanda list | head`); that is no failure of ours.
            return ExitCode::SUCCESS;
        }
        if !matches!(self, Self::Reported) {
            eprintln!("error: {}", Told(self));
        }
        ExitCode::from(if matches!(self, Self::Usage(_)) { 2 } else { 1 })
    }

    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(OutputError(error)) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What to do about it.
    fn advice(&self) -> Option<String> {
        match self {
            Self::PortInUse(address) => {
                let mut other = *address;
                other.set_port(address.port().checked_add(1).unwrap_or(8080));
                Some(format!("Try: comanda serve --listen {other}"))
            }
            Self::KeysNeeded(_) => Some(
                "Make one: comanda keys create NAME --scope submit --scope read. \
                 Or say that everyone may do everything: comanda serve --insecure"
                    .to_owned(),
            ),
            Self::Remote(error) => error.advice(),
            Self::Store(error) | Self::Start(StartError::Store(error)) => store_advice(error),
            Self::Start(StartError::LiveType { .. }) => Some(
                "Bring that version of the type back, or go on with an older comanda until those orders are final"
                    .to_owned(),
            ),
            Self::Start(StartError::MissingStep { step, .. }) => Some(format!(
                "Register it where your program begins: comanda::builder().step(\"{step}\", …).main()"
            )),
            Self::Types(error) => error.advice(),
            Self::Config(ConfigError::Faults(_)) => Some("\nSee: comanda config --default".to_owned()),
            _ => None,
        }
    }
}

fn store_advice(error: &StoreError) -> Option<String> {
    if let StoreError::Full(cause) | StoreError::ReadOnly(cause) | StoreError::Failed { source: cause, .. } = error
        && let Some(refused) = cause.downcast_ref::<ServerError>()
    {
        return Some(refused.advice().to_owned());
    }
    match error {
        StoreError::Locked { .. } => Some("Talk to it: comanda list --url http://127.0.0.1:8080".to_owned()),
        StoreError::Full(_) => Some("Make room, then go on: nothing that was accepted is lost".to_owned()),
        StoreError::ReadOnly(_) => Some("Check the permissions and the mount of the data directory".to_owned()),
        _ => None,
    }
}

/// An error with the chain of its causes, then the advice.
struct Told<'a>(&'a Failure);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = chain(self.0);
        f.write_str(&text)?;
        match self.0.advice() {
            Some(advice) if advice.starts_with('\n') => f.write_str(&advice),
            Some(advice) if text.ends_with(['.', '?', '!']) => write!(f, " {advice}"),
            Some(advice) => write!(f, ". {advice}"),
            None => Ok(()),
        }
    }
}

/// An error and its causes in one line. A cause whose text the error has already said is not said twice.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do() {
        let told = |failure: Failure| Told(&failure).to_string();
        assert_eq!(
            told(Failure::PortInUse(SocketAddr::from(([127, 0, 0, 1], 8080)))),
            "port 8080 is in use. Try: comanda serve --listen 127.0.0.1:8081"
        );
        let locked = StoreError::Locked {
            path: "./comanda-data".to_owned(),
            pid: "4121".to_owned(),
        };
        assert_eq!(
            told(locked.into()),
            "./comanda-data is open in process 4121. Talk to it: comanda list --url http://127.0.0.1:8080"
        );
    }

    #[test]
    fn a_broken_pipe_is_quiet() {
        let failure = Failure::Output(OutputError(io::Error::from(io::ErrorKind::BrokenPipe)));
        assert_eq!(failure.report(), ExitCode::SUCCESS);
    }
}
