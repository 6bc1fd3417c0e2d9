//! `subscriptions`.

use clap::{Args, Subcommand};

/// `subscriptions`.
#[derive(Debug, Subcommand)]
pub enum Subscriptions {
    /// List them
    List,
    /// Have events sent to a URL; the secret is shown this once
    Create(NewSubscription),
    /// Show one
    Show {
        /// Its id
        id: String,
    },
    /// Send nothing more until it is resumed
    Pause {
        /// Its id
        id: String,
    },
    /// Go on where it was paused
    Resume {
        /// Its id
        id: String,
    },
    /// Make a new secret; the old one signs beside it for a while
    RotateSecret {
        /// Its id
        id: String,
        /// How long the old one goes on signing [default: a day]
        #[arg(long, value_name = "SECONDS")]
        keep_seconds: Option<u64>,
    },
    /// What was sent, newest first
    Deliveries {
        /// Its id
        id: String,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u64,
    },
    /// Send events again
    Resend(ResendEvents),
    /// Delete one, with its log
    Delete {
        /// Its id
        id: String,
    },
}

/// `subscriptions create`.
#[derive(Debug, Args)]
pub struct NewSubscription {
    /// Where events are sent
    #[arg(value_name = "URL")]
    pub target: String,
    /// For people
    #[arg(long)]
    pub name: Option<String>,
    /// Of orders of this type; this and the next three may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    pub order_types: Vec<String>,
    /// That lead into this status
    #[arg(long = "status", value_name = "STATUS")]
    pub statuses: Vec<String>,
    /// Of this kind, such as comanda.order.accepted
    #[arg(long = "event", value_name = "EVENT")]
    pub events: Vec<String>,
    /// Of orders for this customer
    #[arg(long = "customer", value_name = "CUSTOMER")]
    pub customers: Vec<String>,
    /// Send the order with each event
    #[arg(long)]
    pub include_order: bool,
    /// Begin with the oldest event that is kept
    #[arg(long)]
    pub from_oldest: bool,
    /// Sign with Ed25519: the receiver needs only a public key
    #[arg(long)]
    pub ed25519: bool,
    /// How many lanes' events are sent at the same time [default: 8]
    #[arg(long)]
    pub concurrency: Option<u32>,
    /// What is sent one after another: the events of a lane, or only those of an order [default: lane]
    #[arg(long, value_parser = ["lane", "order"])]
    pub ordering: Option<String>,
}

/// `subscriptions resend`.
#[derive(Debug, Args)]
pub struct ResendEvents {
    /// The subscription's id
    pub id: String,
    /// One event, by its id
    #[arg(long, conflicts_with_all = ["since", "until"], required_unless_present = "since")]
    pub event: Option<String>,
    /// What was recorded at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// And before this one
    #[arg(long, value_name = "TIME", requires = "since")]
    pub until: Option<String>,
}
