//! `keys`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use comanda_http::{RATE_MAX, Rate};

/// `keys`.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key; its secret is shown this once
    Create {
        /// What it is for
        name: String,
        /// What it may do; may be repeated
        #[arg(long = "scope", value_enum, required = true)]
        scopes: Vec<Scope>,
        /// How much it may ask.
        #[command(flatten)]
        rate: RateChoice,
        /// Where the keys are.
        #[command(flatten)]
        place: KeyPlace,
    },
    /// List keys, without their secrets
    List {
        /// Where the keys are.
        #[command(flatten)]
        place: KeyPlace,
    },
    /// Give a key another rate; without --rate, none: then it may ask as much as it likes
    Limit {
        /// The key's id
        id: String,
        /// How much it may ask.
        #[command(flatten)]
        rate: RateChoice,
        /// Where the keys are.
        #[command(flatten)]
        place: KeyPlace,
    },
    /// Make a key invalid at once
    Revoke {
        /// The key's id
        id: String,
        /// Where the keys are.
        #[command(flatten)]
        place: KeyPlace,
    },
}

/// How much a key may ask.
#[derive(Clone, Copy, Debug, Args)]
pub struct RateChoice {
    /// At most so many requests: 100/s, 600/m or 1000/h; each order of a batch counts as one [default: any number]
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,
    /// At most so many at once after a rest [default: what the rate gives in its second, minute or hour]
    #[arg(long, value_name = "REQUESTS", requires = "rate", value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    pub burst: Option<u32>,
}

/// Where the keys are.
#[derive(Debug, Args)]
pub struct KeyPlace {
    /// The data directory that the keys stand in [default: the configured one]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Submit, edit, transition and cancel orders
    Submit,
    /// Read everything
    Read,
    /// Work queues
    Work,
    /// Redrive and discard dead letters
    Operate,
}
