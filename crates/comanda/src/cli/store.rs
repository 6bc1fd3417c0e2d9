//! The commands about the store as a whole.

use std::path::PathBuf;

use clap::Args;

/// `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Read this data directory instead of asking a server; no server may have it open
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub order_type: Option<String>,
    /// Everything that is known of this customer: orders, events and attempts
    #[arg(long, conflicts_with_all = ["data", "order_type"])]
    pub customer: Option<String>,
}

/// `backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// The file to write; it must not be there yet
    pub file: PathBuf,
    /// The data directory [default: the configured one]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup
    pub file: PathBuf,
    /// The data directory to make; it must hold no store yet [default: the configured one]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The store, such as postgres://… [default: the configured one]
    #[arg(long, value_name = "STORE", conflicts_with = "data")]
    pub store: Option<String>,
    /// The data directory [default: the configured one]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}
