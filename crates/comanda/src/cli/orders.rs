//! The commands about single orders and many.

use std::path::PathBuf;

use clap::Args;

/// `submit`.
#[derive(Debug, Args)]
pub struct Submit {
    /// The order type
    #[arg(value_name = "TYPE")]
    pub order_type: String,
    /// The order's data as JSON; `-` or left out: stdin
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Your own id for the order
    #[arg(long)]
    pub key: Option<String>,
    /// The status to begin in, where the type leaves a choice
    #[arg(long)]
    pub status: Option<String>,
    /// When to begin: an RFC 3339 time
    #[arg(long, value_name = "TIME")]
    pub due_at: Option<String>,
    /// Wait until the order is final, so many seconds (60 at most)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30", require_equals = true,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    pub wait: Option<u64>,
    /// Submitting again under the same key answers with the first order
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// NDJSON, one order a line: {"type", "key"?, "data", "status"?, "dueAt"?}; `-` for stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Orders sent at once
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub batch: u64,
}

/// `get`.
#[derive(Debug, Args)]
pub struct Get {
    /// The order's id
    pub id: String,
    /// Also show its events and attempts
    #[arg(long)]
    pub history: bool,
    /// Wait until it rests, so many seconds (60 at most)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30", require_equals = true,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    pub wait: Option<u64>,
}

/// `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub order_type: Option<String>,
    /// In this status
    #[arg(long)]
    pub status: Option<String>,
    /// For this customer
    #[arg(long)]
    pub customer: Option<String>,
    /// With this group key
    #[arg(long)]
    pub group: Option<String>,
    /// Accepted at or after this RFC 3339 time
    #[arg(long, value_name = "TIME")]
    pub accepted_after: Option<String>,
    /// Accepted before this RFC 3339 time
    #[arg(long, value_name = "TIME")]
    pub accepted_before: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Go on where an earlier list ended
    #[arg(long)]
    pub cursor: Option<String>,
}

/// `events`.
#[derive(Debug, Args)]
pub struct Events {
    /// The order; left out: all orders
    pub id: Option<String>,
    /// Stay, and show events as they happen
    #[arg(long, short)]
    pub follow: bool,
    /// Go on after this cursor
    #[arg(long)]
    pub cursor: Option<String>,
    /// Without `--follow`: at most so many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Of all orders: only of this type; can be repeated
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "id")]
    pub types: Vec<String>,
    /// Of all orders: only what leads to this status; can be repeated
    #[arg(long = "status", value_name = "STATUS", conflicts_with = "id")]
    pub statuses: Vec<String>,
    /// Of all orders: only this event, such as `comanda.order.dead-lettered`; can be repeated
    #[arg(long = "event", value_name = "EVENT", conflicts_with = "id")]
    pub events: Vec<String>,
    /// Of all orders: only of this customer; can be repeated
    #[arg(long = "customer", value_name = "CUSTOMER", conflicts_with = "id")]
    pub customers: Vec<String>,
}

impl Events {
    /// The filter, as the API takes it.
    pub fn filter(&self) -> Vec<(&'static str, String)> {
        let lists = [
            ("type", &self.types),
            ("status", &self.statuses),
            ("event", &self.events),
            ("customer", &self.customers),
        ];
        let each = lists
            .into_iter()
            .flat_map(|(name, list)| list.iter().map(move |one| (name, one.clone())));
        each.collect()
    }
}

/// `cancel`.
#[derive(Debug, Args)]
pub struct Cancel {
    /// The order's id
    pub id: String,
    /// Why
    #[arg(long)]
    pub reason: Option<String>,
}

/// `approve`.
#[derive(Debug, Args)]
pub struct Approve {
    /// The order's id
    pub id: String,
    /// Why
    #[arg(long)]
    pub reason: Option<String>,
}

/// `reject`.
#[derive(Debug, Args)]
pub struct Reject {
    /// The order's id
    pub id: String,
    /// Why
    #[arg(long)]
    pub reason: String,
}
