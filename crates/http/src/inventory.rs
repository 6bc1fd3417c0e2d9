//! `/v1/inventory`: stock that comes in and is counted, and what orders hold of it.

use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use comanda_builtin::inventory::{Inventory, InventoryError, Price, Stock};
use comanda_model::ledger::STOCK_PREFIX;
use comanda_model::money::amount;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::access::Caller;
use crate::keys::Scope;
use crate::listing::Page;
use crate::orders::{order_id, unknown};
use crate::problem::Problem;
use crate::request::Query;
use crate::respond::json_response;
use crate::{App, body, request};

/// Stock that comes in.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ReceiveBody {
    /// How many, from 1.
    #[schema(minimum = 1)]
    quantity: u32,
    /// What one costs from now on, as a number or as text: an exact decimal.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    price: Option<Box<RawValue>>,
    /// The price's currency (ISO 4217); a price needs one.
    #[serde(default)]
    currency: Option<String>,
}

/// What was found by counting.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CountBody {
    /// How many are there, those that orders hold included.
    quantity: u32,
}

/// A SKU's stock.
#[derive(utoipa::ToSchema)]
#[schema(as = Stock, rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "only its description is used; the answer is `comanda_builtin`'s"
)]
pub(crate) struct StockView {
    sku: String,
    /// What can be sold.
    on_hand: i64,
    /// What orders hold.
    held: i64,
    /// What has left for customers.
    shipped: i64,
    /// What has come in: always `onHand + held + shipped`.
    received: i64,
    /// What one costs, as an exact decimal.
    price: Option<String>,
    currency: Option<String>,
}

impl From<InventoryError> for Problem {
    fn from(error: InventoryError) -> Self {
        let detail = error.to_string();
        match error {
            InventoryError::UnknownSku(_) => Self::new("unknown-sku", detail),
            InventoryError::Invalid(_) => Self::new("invalid-request", detail),
            InventoryError::Held { .. } => Self::new("stock-held", detail),
            InventoryError::KeyReused => Self::new("idempotency-key-reused", detail),
            InventoryError::Busy => Self::new("busy", detail),
            InventoryError::Store(error) => error.into(),
        }
    }
}

fn answer(stock: &Stock) -> Response {
    json_response(StatusCode::OK, &stock)
}

pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let mut query = Query::parse(request.uri().query());
    let (limit, cursor) = (query.take_limit()?, query.take("cursor"));
    query.end()?;
    let inventory = Inventory::new(&**app.service.store());
    let items = inventory.list(cursor.as_deref(), limit).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit)
        .map(|stock| stock.sku.clone());
    Ok(Page { items, next_cursor }.respond(request.uri()))
}

pub(crate) async fn one(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(sku): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    Ok(answer(&Inventory::new(&**app.service.store()).stock(&sku).await?))
}

pub(crate) async fn receive(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(sku): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let (parts, body) = request.into_parts();
    body::is_json(&parts.headers)?;
    let key = request::idempotency_key(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let body: ReceiveBody = body::parse(&bytes)?;
    let price = price(&body)?;
    let inventory = Inventory::new(&**app.service.store());
    let change = async {
        if let Some(price) = &price {
            inventory.set_price(&sku, price).await?;
        }
        Ok(inventory.receive(&sku, body.quantity, key.as_deref()).await?)
    };
    app.change_stock(&caller, "inventory.received", &sku, change).await
}

impl App {
    /// Changes a SKU's stock, with its entry in the audit log.
    async fn change_stock(
        &self,
        caller: &Caller,
        action: &'static str,
        sku: &str,
        change: impl Future<Output = Result<Stock, Problem>>,
    ) -> Result<Response, Problem> {
        let before = match Inventory::new(&**self.service.store()).stock(sku).await {
            Ok(stock) => Some(json!(stock)),
            Err(InventoryError::UnknownSku(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let after = |stock: &Stock| Some(json!(stock));
        let subject = format!("sku:{sku}");
        let stock = self.audited(caller, action, subject, before, change, after).await?;
        Ok(answer(&stock))
    }
}

fn price(body: &ReceiveBody) -> Result<Option<Price>, Problem> {
    let invalid = |detail: &str| Problem::new("invalid-request", detail);
    match (&body.price, &body.currency) {
        (None, None) => Ok(None),
        (Some(price), Some(currency)) => {
            let value: Value = serde_json::from_str(price.get()).map_err(|error| invalid(&error.to_string()))?;
            let amount = amount(&value).map_err(|error| invalid(&format!("`price` {error}")))?;
            Ok(Some(Price {
                amount,
                currency: currency.clone(),
            }))
        }
        _ => Err(invalid("`price` and `currency` go together")),
    }
}

pub(crate) async fn count(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(sku): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let (parts, body) = request.into_parts();
    body::is_json(&parts.headers)?;
    let key = request::idempotency_key(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let body: CountBody = body::parse(&bytes)?;
    let inventory = Inventory::new(&**app.service.store());
    let change = async { Ok(inventory.count(&sku, body.quantity, key.as_deref()).await?) };
    app.change_stock(&caller, "inventory.counted", &sku, change).await
}

/// What an order holds.
pub(crate) async fn holds(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let id = order_id(&id)?;
    let stored = app.service.store().order(id).await?.ok_or_else(|| unknown(id))?;
    let items: Vec<Value> = stored
        .order
        .head
        .holds
        .iter()
        .map(|hold| {
            let lines = hold.lines.iter().map(|line| {
                let sku = line.account.strip_prefix(STOCK_PREFIX).unwrap_or(&line.account);
                json!({"sku": sku, "quantity": line.quantity, "short": line.short})
            });
            json!({"state": hold.state, "until": hold.until, "lines": lines.collect::<Vec<_>>()})
        })
        .collect();
    Ok(json_response(StatusCode::OK, &json!({"items": items})))
}
