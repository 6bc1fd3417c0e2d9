//! The commands about order types.

use std::path::PathBuf;

use clap::Args;

/// `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Files or directories [default: the configured directory of order types]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// `new`.
#[derive(Debug, Args)]
pub struct New {
    /// The type's name, in kebab-case
    #[arg(value_name = "TYPE")]
    pub name: String,
    /// Make the schema from a sample order
    #[arg(long, value_name = "SAMPLE.json")]
    pub from: Option<PathBuf>,
    /// Where to write [default: the configured directory of order types]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `try`.
#[derive(Debug, Args)]
pub struct Try {
    /// The order type: a name, or the path of its file
    #[arg(value_name = "TYPE")]
    pub order_type: String,
    /// The order as it would be sent; `-` for stdin; left out: the type's own sample
    #[arg(value_name = "SAMPLE.json")]
    pub sample: Option<PathBuf>,
    /// The directory of order types [default: the configured one]
    #[arg(long, value_name = "DIR")]
    pub order_types: Option<String>,
}
