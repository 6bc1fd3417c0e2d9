//! The commands of the built-in steps.

use clap::Subcommand;

/// `inventory`.
#[derive(Debug, Subcommand)]
pub enum InventoryCommand {
    /// List the stock, by SKU
    List {
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// Show the stock of a SKU
    Show {
        /// The SKU
        sku: String,
    },
    /// Stock comes in
    Receive {
        /// The SKU
        sku: String,
        /// How many
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        quantity: u32,
        /// What one costs from now on: an exact decimal
        #[arg(long, requires = "currency")]
        price: Option<String>,
        /// The price's currency (ISO 4217)
        #[arg(long, requires = "price")]
        currency: Option<String>,
        /// Under the same key it comes in once
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// So many were found by counting, those that orders hold included
    Count {
        /// The SKU
        sku: String,
        /// How many
        quantity: u32,
        /// Under the same key it is counted once
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
}

/// `customers`.
#[derive(Debug, Subcommand)]
pub enum CustomersCommand {
    /// List customers, by id
    List {
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// Show a customer
    Show {
        /// The customer's id
        id: String,
    },
    /// Register a customer, or replace what is known of one
    Register {
        /// The customer's id, as orders name it
        id: String,
        /// The name
        #[arg(long, default_value = "")]
        name: String,
        /// Orders are paid for in advance
        #[arg(long)]
        prepaid: bool,
    },
    /// Refuse a customer's orders from now on
    Block {
        /// The customer's id
        id: String,
    },
    /// Take a customer's orders again
    Unblock {
        /// The customer's id
        id: String,
    },
}

/// `payments`.
#[derive(Debug, Subcommand)]
pub enum PaymentsCommand {
    /// The book of the payment sandbox
    Sandbox {
        /// Only those of this order
        #[arg(long, value_name = "ID")]
        order: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
}

/// `shipments`.
#[derive(Debug, Subcommand)]
pub enum ShipmentsCommand {
    /// The book of the carrier sandbox
    Sandbox {
        /// Only those of this order
        #[arg(long, value_name = "ID")]
        order: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
}

/// `demo`.
#[derive(Debug, Subcommand)]
pub enum DemoCommand {
    /// Register customers and receive stock, so that the storefront's sample order goes through
    Seed,
}
