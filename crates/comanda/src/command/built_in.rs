//! `comanda inventory`, `comanda customers`, `comanda payments`, `comanda shipments`, and `comanda demo seed`: what the built-in steps rest on.

use http::HeaderName;
use serde_json::{Map, Value, json};

use super::list::pages;
use crate::cli::{CustomersCommand, DemoCommand, InventoryCommand, PaymentsCommand, ShipmentsCommand};
use crate::failure::Failure;
use crate::output::{Output, cell};
use crate::remote::{Remote, segment};

/// What `demo seed` fills in: SKU, quantity, price. The prices' cents tell the sandbox nothing.
const DEMO_STOCK: [(&str, u32, &str); 3] = [("A-1", 1000, "14.90"), ("B-2", 100, "249.00"), ("C-3", 3, "5.25")];
/// The customers: id, name, whether they have paid in advance.
const DEMO_CUSTOMERS: [(&str, &str, bool); 2] = [("u-1", "Ada", false), ("u-2", "Grace", true)];

pub(super) async fn inventory(remote: &Remote, command: InventoryCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        InventoryCommand::List { limit } => {
            let (items, _) = pages(remote, "/v1/inventory", &[], limit, None).await?;
            stocks(items, output)
        }
        InventoryCommand::Show { sku } => {
            let stock = remote.get(&format!("/v1/inventory/{}", segment(&sku)), &[]).await?.body;
            one_stock(stock, output)
        }
        InventoryCommand::Receive {
            sku,
            quantity,
            price,
            currency,
            idempotency_key,
        } => {
            let mut body = Map::new();
            body.insert("quantity".to_owned(), json!(quantity));
            if let (Some(price), Some(currency)) = (price, currency) {
                body.insert("price".to_owned(), json!(price));
                body.insert("currency".to_owned(), json!(currency));
            }
            let stock = change(remote, &sku, "receive", &Value::Object(body), idempotency_key).await?;
            one_stock(stock, output)
        }
        InventoryCommand::Count {
            sku,
            quantity,
            idempotency_key,
        } => {
            let stock = change(remote, &sku, "count", &json!({"quantity": quantity}), idempotency_key).await?;
            one_stock(stock, output)
        }
    }
}

async fn change(remote: &Remote, sku: &str, act: &str, body: &Value, key: Option<String>) -> Result<Value, Failure> {
    let headers: Vec<_> = key
        .map(|key| (HeaderName::from_static("idempotency-key"), key))
        .into_iter()
        .collect();
    let path = format!("/v1/inventory/{}/{act}", segment(sku));
    Ok(remote.post(&path, body, &headers).await?.body)
}

fn one_stock(stock: Value, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&stock)?);
    }
    stocks(vec![stock], output)
}

fn stocks(items: Vec<Value>, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&json!({"items": items}))?);
    }
    let columns = ["sku", "onHand", "held", "shipped", "received", "price", "currency"];
    let row = |item: &Value| columns.iter().map(|column| cell(&item[*column])).collect();
    let titles = ["sku", "on hand", "held", "shipped", "received", "price", "currency"];
    Ok(output.table(&titles, items.iter().map(row).collect())?)
}

pub(super) async fn customers(remote: &Remote, command: CustomersCommand, output: &mut Output) -> Result<(), Failure> {
    let items = match command {
        CustomersCommand::List { limit } => pages(remote, "/v1/customers", &[], limit, None).await?.0,
        CustomersCommand::Show { id } => {
            vec![remote.get(&format!("/v1/customers/{}", segment(&id)), &[]).await?.body]
        }
        CustomersCommand::Register { id, name, prepaid } => {
            let body = json!({"id": id, "name": name, "prepaid": prepaid});
            vec![remote.post("/v1/customers", &body, &[]).await?.body]
        }
        CustomersCommand::Block { id } => vec![block(remote, &id, "block").await?],
        CustomersCommand::Unblock { id } => vec![block(remote, &id, "unblock").await?],
    };
    if output.is_json() {
        return Ok(output.json(&json!({"items": items}))?);
    }
    let columns = ["id", "name", "blocked", "prepaid"];
    let row = |item: &Value| columns.iter().map(|column| cell(&item[*column])).collect();
    Ok(output.table(&columns, items.iter().map(row).collect())?)
}

async fn block(remote: &Remote, id: &str, act: &str) -> Result<Value, Failure> {
    let path = format!("/v1/customers/{}/{act}", segment(id));
    Ok(remote.post(&path, &json!({}), &[]).await?.body)
}

pub(super) async fn payments(remote: &Remote, command: PaymentsCommand, output: &mut Output) -> Result<(), Failure> {
    let PaymentsCommand::Sandbox { order, limit } = command;
    let columns = ["id", "state", "amount", "currency", "requests"];
    book(remote, "/v1/sandbox/payments", order, limit, &columns, output).await
}

pub(super) async fn shipments(remote: &Remote, command: ShipmentsCommand, output: &mut Output) -> Result<(), Failure> {
    let ShipmentsCommand::Sandbox { order, limit } = command;
    let columns = ["id", "state", "trackingNumber", "requests"];
    book(remote, "/v1/sandbox/shipments", order, limit, &columns, output).await
}

/// Prints a sandbox's book.
async fn book(
    remote: &Remote,
    path: &str,
    order: Option<String>,
    limit: u64,
    columns: &[&str],
    output: &mut Output,
) -> Result<(), Failure> {
    let (items, _) = pages(remote, path, &[("order", order)], limit, None).await?;
    if output.is_json() {
        return Ok(output.json(&json!({"items": items}))?);
    }
    let row = |item: &Value| columns.iter().map(|column| cell(&item[*column])).collect();
    Ok(output.table(columns, items.iter().map(row).collect())?)
}

/// Fills in what the storefront's sample order needs. Doing it again changes nothing.
pub(super) async fn demo(remote: &Remote, command: DemoCommand, output: &mut Output) -> Result<(), Failure> {
    let DemoCommand::Seed = command;
    for (id, name, prepaid) in DEMO_CUSTOMERS {
        let body = json!({"id": id, "name": name, "prepaid": prepaid});
        remote.post("/v1/customers", &body, &[]).await?;
    }
    let mut items = Vec::new();
    for (sku, quantity, price) in DEMO_STOCK {
        let body = json!({"quantity": quantity, "price": price, "currency": "EUR"});
        items.push(change(remote, sku, "receive", &body, Some(format!("demo-seed:{sku}"))).await?);
    }
    stocks(items, output)?;
    eprintln!(
        "Customers u-1 and u-2 are registered. Try an order:\n  curl -X POST {}/storefront-order -H 'content-type: \
         application/json' -d '{{\"userId\":\"u-1\",\"products\":[{{\"sku\":\"A-1\",\"quantity\":2}}]}}'\n\
         and see what the payment sandbox makes of \"payment\":\"decline\" (or timeout, twice, down) in it, and the carrier \
         sandbox of \"shipping\":{{\"service\":\"refuse\"}} (or timeout, twice, down).",
        remote.url()
    );
    Ok(())
}
