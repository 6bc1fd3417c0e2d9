//! `serve`.

use clap::Args;

/// `serve`. What is not given here comes from the environment, the configuration file, or the defaults.
#[derive(Clone, Debug, Default, Args)]
pub struct Serve {
    /// Where to listen [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where to keep the orders [default: ./comanda-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// What to keep them in: sqlite, memory (gone at the end), or postgres://… [default: sqlite]
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// Where your order types are, on top of those shipped [default: ./order-types]
    #[arg(long, value_name = "DIR")]
    pub order_types: Option<String>,
    /// Take orders of a type at another path too, such as /orders=sale; may be repeated
    #[arg(long = "mount", value_name = "PATH=TYPE")]
    pub mounts: Vec<String>,
    /// Read order types again when their files change
    #[arg(long)]
    pub watch: bool,
    /// Make a step fail that many times for each order, to try out failure; may be repeated
    #[arg(long = "break", value_name = "STEP=N")]
    pub breaks: Vec<String>,
    /// Shorten the waits between retries, to try out failure
    #[arg(long)]
    pub fast_retries: bool,
    /// Listen on other addresses than loopback without API keys: everyone who reaches it may do everything
    #[arg(long)]
    pub insecure: bool,
    /// Answer submissions without storing anything: only to measure the HTTP side
    #[arg(long, hide = true)]
    pub bench_no_store: bool,
    /// How to write logs: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What to log, such as info or debug,hyper=warn [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
}
