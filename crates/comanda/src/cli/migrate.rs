//! `migrate`: a database's format, and moving a store's orders into one.

use clap::{Args, Subcommand};

/// `migrate`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Migrate {
    /// What is to be done with the database's format.
    #[command(subcommand)]
    pub format: Option<MigrateFormat>,
    /// Move all orders out of this embedded store, sqlite:DIR. Interrupted, it goes on when it is run again
    #[arg(long, value_name = "STORE")]
    pub from: Option<String>,
    /// The database that they are moved to, postgres://… [default: the configured one]
    #[arg(long, value_name = "STORE", requires = "from")]
    pub to: Option<String>,
}

/// What is to be done with a database's format.
#[derive(Debug, Subcommand)]
pub enum MigrateFormat {
    /// Show the database's format and the newest one; changes nothing
    Status(MigratePlace),
    /// Bring the database up to date. Nodes of the version before go on working
    Up(MigratePlace),
}

/// Which database is meant.
#[derive(Debug, Args)]
pub struct MigratePlace {
    /// The database, postgres://… [default: the configured one]
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
}
