//! `bench`.

use std::path::PathBuf;

use clap::Args;

/// `bench`.
#[derive(Clone, Debug, Args)]
pub struct Bench {
    /// Connections held open at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// How long to submit
    #[arg(long, default_value = "10s", value_parser = crate::config::units::duration)]
    pub duration: std::time::Duration,
    /// The order type; the orders are the type's own sample
    #[arg(long = "type", value_name = "TYPE", default_value = "sale")]
    pub order_type: String,
    /// Submit so many orders per request, through the batch route
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub batch: Option<u32>,
    /// Submit at this rate, whatever the answers take; left out: each connection waits for its answer
    #[arg(long, value_name = "ORDERS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Submit this JSON instead of the type's sample
    #[arg(long, value_name = "FILE")]
    pub body: Option<PathBuf>,
    /// Put one of so many texts at this place of each order, as for its customer or its lane; at most 10000
    #[arg(long, value_name = "POINTER=COUNT", value_parser = crate::command::bench::vary)]
    pub vary: Option<(String, u32)>,
    /// Send an `Idempotency-Key` of its own with each request
    #[arg(long)]
    pub idempotency_keys: bool,
    /// Follow one order in so many to its end
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub sample_every: u32,
    /// How long to wait afterwards until every order is final
    #[arg(long, default_value = "60s", value_parser = crate::config::units::duration)]
    pub settle: std::time::Duration,
    /// Do not check afterwards that every accepted order is there and final
    #[arg(long)]
    pub no_check: bool,
}
