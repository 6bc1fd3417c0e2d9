//! The options of `comanda erase` and `comanda jobs`.

use clap::{Args, Subcommand};

/// `erase`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Erase {
    /// All orders of this customer
    #[arg(long, required_unless_present = "order")]
    pub customer: Option<String>,
    /// This order
    #[arg(long, value_name = "ID", conflicts_with_all = ["customer", "cancel_first", "dry_run"])]
    pub order: Option<String>,
    /// Cancel orders that are not final, and erase them when they are
    #[arg(long)]
    pub cancel_first: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// `jobs`.
#[derive(Debug, Subcommand)]
pub enum Jobs {
    /// List them, newest first
    List,
    /// Show one, with what it left as it was
    Show {
        /// The job's id
        id: String,
        /// Wait until it has ended
        #[arg(long)]
        wait: bool,
    },
    /// Stop one where it is; what it has done stays done
    Stop {
        /// The job's id
        id: String,
    },
}
