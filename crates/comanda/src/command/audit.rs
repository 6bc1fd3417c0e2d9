//! `comanda audit`: who changed what, newest first.

use serde_json::{Value, json};

use super::list::pages;
use crate::cli::Audit;
use crate::failure::Failure;
use crate::output::{Output, cell};
use crate::remote::Remote;

pub(super) async fn run(remote: &Remote, args: Audit, output: &mut Output) -> Result<(), Failure> {
    let filters = [
        ("by", args.by),
        ("action", args.action),
        ("subject", args.subject),
        ("since", args.since),
        ("until", args.until),
    ];
    let (entries, next) = pages(remote, "/v1/audit", &filters, args.limit, args.cursor).await?;
    if output.is_json() {
        return Ok(output.json(&json!({"items": entries, "nextCursor": next}))?);
    }
    let row = |entry: &Value| {
        let members = ["at", "by", "action", "subject", "outcome", "before", "after"];
        members.iter().map(|member| cell(&entry[*member])).collect()
    };
    let header = ["at", "by", "action", "subject", "outcome", "before", "after"];
    output.table(&header, entries.iter().map(row).collect())?;
    if let Some(next) = next {
        eprintln!("There are more: --limit, or --cursor {next}");
    }
    Ok(())
}
