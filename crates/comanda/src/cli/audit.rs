//! The options of `comanda audit`.

use clap::Args;

/// `audit`.
#[derive(Debug, Args)]
pub struct Audit {
    /// By this actor: key:ID, or local
    #[arg(long, value_name = "WHO")]
    pub by: Option<String>,
    /// This action, or all that begin with it, such as subscription
    #[arg(long)]
    pub action: Option<String>,
    /// To this, such as subscription:ID, customer:ID or order:ID
    #[arg(long)]
    pub subject: Option<String>,
    /// At or after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Go on after this cursor
    #[arg(long)]
    pub cursor: Option<String>,
}
