//! The options of `comanda intake`.

use clap::{Args, Subcommand};

/// `intake`.
#[derive(Debug, Subcommand)]
pub enum IntakeCommand {
    /// List the sources
    List,
    /// Show the messages of a source that no order could be made of, with the reasons
    Rejected {
        /// The source
        name: String,
    },
    /// Make orders of rejected messages, with the settings and types as they are now
    Retry(IntakeChoice),
    /// Keep rejected messages no longer
    Discard(IntakeChoice),
}

/// Which rejected messages.
#[derive(Debug, Args)]
pub struct IntakeChoice {
    /// The source
    pub name: String,
    /// These messages
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// All of the source
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
}
