//! `comanda dead-letters list|show --from`: failed orders read back from where they were archived. No server is asked.

use comanda_deliver::archive::{Archive, ArchivePlace, Archives, Entry};
use comanda_model::OrderId;
use serde_json::{Value, json};

use super::dead_letters::print;
use super::get::events_table;
use crate::cli::DeadLetterList;
use crate::config::Config;
use crate::config::archives::with_credentials;
use crate::failure::Failure;
use crate::output::{Output, cell};

/// The most objects that are read for a list.
const LISTED_MAX: u64 = 1000;

pub(super) async fn list(
    config: &Config,
    from: &str,
    args: DeadLetterList,
    output: &mut Output,
) -> Result<(), Failure> {
    if args.cause.is_some() {
        return Err(Failure::Usage(
            "--cause is not known to an archive; give --type, or read all with --output json".to_owned(),
        ));
    }
    let archive = open(config, from)?;
    let max = usize::try_from(args.limit.min(LISTED_MAX)).unwrap_or_default();
    let failed = |error| Failure::process("the archive could not be read", error);
    let entries = archive.newest(args.order_type.as_deref(), max).await.map_err(failed)?;
    let mut items = Vec::with_capacity(entries.len());
    for entry in &entries {
        items.push(read(&archive, entry).await?);
    }
    if output.is_json() {
        return Ok(output.json(&json!({"items": items}))?);
    }
    let row = |item: &Value| {
        let dead = &item["deadLetter"];
        [
            &dead["at"],
            &item["id"],
            &item["type"],
            &item["status"],
            &dead["step"],
            &dead["reason"],
        ]
        .map(cell)
        .to_vec()
    };
    let header = ["since", "id", "type", "status", "step", "reason"];
    output.table(&header, items.iter().map(row).collect())?;
    if entries.len() == max {
        eprintln!("There may be more: --limit (at most {LISTED_MAX})");
    }
    Ok(())
}

pub(super) async fn show(config: &Config, from: &str, id: &str, output: &mut Output) -> Result<(), Failure> {
    let order: OrderId = id
        .parse()
        .map_err(|_| Failure::Usage(format!("`{id}` is no id of an order")))?;
    let archive = open(config, from)?;
    let found = archive.find(order).await;
    let found = found.map_err(|error| Failure::process("the archive could not be read", error))?;
    let Some(entry) = found else {
        return Err(Failure::Usage(format!("order {order} is not in the archive {from}")));
    };
    let item = read(&archive, &entry).await?;
    if output.is_json() {
        return Ok(output.json(&item)?);
    }
    print(&item, output)?;
    output.line("")?;
    events_table(&item["events"], output)?;
    eprintln!("From {from}: {}", entry.key);
    Ok(())
}

/// An archive by its name, or the place that is named instead.
fn open(config: &Config, from: &str) -> Result<Archive, Failure> {
    let archives: Archives = with_credentials(&config.archives, &config.data)?;
    let is_name = archives.places.contains_key(from) || archives.default_directory.join(from).is_dir();
    let place = if is_name && !from.contains('/') {
        archives.place(from)
    } else {
        ArchivePlace::parse(from).map_err(|error| {
            let known: Vec<&str> = archives.places.keys().map(String::as_str).collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            Failure::Usage(format!("{error}; the archives that are set up: {known}"))
        })?
    };
    if let ArchivePlace::Directory(path) = &place
        && !path.is_dir()
    {
        return Err(Failure::Usage(format!("there is no directory {}", path.display())));
    }
    Archive::open(&place).map_err(|error| Failure::process("the archive could not be opened", error))
}

async fn read(archive: &Archive, entry: &Entry) -> Result<Value, Failure> {
    let failed = |error| Failure::process("the archive could not be read", error);
    let bytes = archive.read(&entry.key).await.map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|source| Failure::Json {
        path: entry.key.clone(),
        source,
    })
}
