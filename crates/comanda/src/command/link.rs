//! `comanda link`: a link that shows one order to its customer.

use serde_json::json;

use crate::failure::Failure;
use crate::output::{Output, cell};
use crate::remote::{Remote, segment};

/// Whose order, and for how long.
#[derive(Debug, clap::Args)]
pub struct Link {
    /// The order's id
    pub order: String,
    /// For how many seconds it is good, at most 90 days [default: seven days]
    #[arg(long, value_name = "SECONDS")]
    pub expires_in: Option<u64>,
}

pub(super) async fn run(remote: &Remote, args: Link, output: &mut Output) -> Result<(), Failure> {
    let path = format!("/v1/orders/{}/links", segment(&args.order));
    let body = args
        .expires_in
        .map_or_else(|| json!({}), |seconds| json!({"expiresIn": seconds}));
    let link = remote.post(&path, &body, &[]).await?.body;
    match output.is_json() {
        true => Ok(output.json(&link)?),
        false => Ok(output.line(&cell(&link["url"]))?),
    }
}
