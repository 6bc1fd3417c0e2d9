//! `comanda export`: all orders as NDJSON, newest first, in the form of `/v1/orders`.

use std::path::Path;
use std::sync::Arc;

use comanda_engine::{Found, Registry};
use comanda_store::{ListQuery, Store};
use comanda_store_sqlite::SqliteStore;

use super::list::PAGE_MAX;
use crate::cli::Export;
use crate::failure::Failure;
use crate::output::{Output, progress};
use crate::remote::{Remote, segment};

pub(super) async fn from_server(remote: &Remote, args: Export, output: &mut Output) -> Result<(), Failure> {
    if let Some(customer) = &args.customer {
        let path = format!("/v1/customers/{}/export", segment(customer));
        return remote.copy(&path, output).await;
    }
    let bar = progress(0, "exporting");
    let mut cursor = None;
    loop {
        let query = [
            ("type", args.order_type.clone()),
            ("limit", Some(PAGE_MAX.to_string())),
            ("cursor", cursor.take()),
        ];
        let page = remote.get("/v1/orders", &query).await?.body;
        for order in page["items"].as_array().into_iter().flatten() {
            output.buffered_line(&order.to_string())?;
            bar.inc(1);
        }
        output.flush()?;
        cursor = page["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    bar.finish_and_clear();
    eprintln!("{} orders", bar.position());
    Ok(())
}

pub(super) async fn from_data(data: &Path, args: Export, output: &mut Output) -> Result<(), Failure> {
    let options = comanda_store_sqlite::Options::new(data);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open_read_only(options)?);
    let registry = Registry::new(store.clone());
    let bar = progress(0, "exporting");
    let mut query = ListQuery {
        order_type: args.order_type,
        limit: usize::try_from(PAGE_MAX).unwrap_or(500),
        ..ListQuery::default()
    };
    loop {
        let page = store.list(&query).await?;
        for stored in page.orders {
            let hash = stored.order.head.type_hash;
            let id = stored.order.id();
            let definition = registry.version(hash).await?.ok_or_else(|| {
                Failure::Usage(format!(
                    "order {id} is of version {hash} of its type, which this program cannot read"
                ))
            })?;
            let view = Found { stored, definition }.view(store.now());
            let line = serde_json::to_string(&view)
                .map_err(|error| Failure::process("an order could not be written", error))?;
            output.buffered_line(&line)?;
            bar.inc(1);
        }
        output.flush()?;
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    bar.finish_and_clear();
    eprintln!("{} orders", bar.position());
    Ok(store.close().await?)
}
