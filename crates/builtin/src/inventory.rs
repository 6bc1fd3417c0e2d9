//! Inventory: SKUs with what is on hand, held by orders and shipped, and the step that reserves.

use std::collections::BTreeMap;

use comanda_engine::{Effect, StepCall};
use comanda_model::Json;
use comanda_model::bounds::{HOLD_LINES_MAX, KEY_BYTES_MAX};
use comanda_model::decision::StepOutcome;
use comanda_model::ledger::{
    HELD, HoldLine, HoldMove, LedgerLine, ON_HAND, OUTSIDE, SHIPPED, STOCK_PREFIX, Shortage, shortages_text,
    stock_account,
};
use comanda_model::money::amount;
use comanda_model::order_type::BuiltIn;
use comanda_store::{Account, PostError, Posted, Posting, PutError, Record, Store, StoreError};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{failed_by_store, refused};

/// The kind of the records of prices.
const PRICE: &str = "sku";
/// How often a count or a price that others change at the same moment is decided again.
const TRIES_MAX: u32 = 16;

/// A SKU's stock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stock {
    /// The SKU.
    pub sku: String,
    /// What can be sold.
    pub on_hand: i64,
    /// What orders hold.
    pub held: i64,
    /// What has left for customers.
    pub shipped: i64,
    /// What has come in, less what was found missing: always `onHand + held + shipped`.
    pub received: i64,
    /// What one costs, as an exact decimal.
    pub price: Option<String>,
    /// The price's currency (ISO 4217).
    pub currency: Option<String>,
}

/// What one costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// The amount.
    pub amount: Decimal,
    /// Its currency (ISO 4217).
    pub currency: String,
}

/// Why nothing was changed in the inventory.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// There is no such SKU.
    #[error("there is no SKU `{0}`; receive stock of it first")]
    UnknownSku(String),
    /// A value cannot be taken.
    #[error("{0}")]
    Invalid(String),
    /// There is less than orders hold.
    #[error("orders hold {held} of `{sku}`, so that no fewer can be there; cancel some of them first")]
    Held {
        /// The SKU.
        sku: String,
        /// How many orders hold.
        held: i64,
    },
    /// The client's key was used for something else.
    #[error("the idempotency key was used before, for another change of the inventory")]
    KeyReused,
    /// Others change the same SKU all the time.
    #[error("the SKU is being changed by others")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The inventory, over a store.
#[derive(Clone, Copy)]
pub struct Inventory<'s> {
    store: &'s dyn Store,
}

impl<'s> Inventory<'s> {
    /// The inventory that a store keeps.
    pub fn new(store: &'s dyn Store) -> Self {
        Self { store }
    }

    /// A SKU's stock.
    pub async fn stock(&self, sku: &str) -> Result<Stock, InventoryError> {
        check_sku(sku)?;
        let accounts = self.store.accounts(&[stock_account(sku)]).await?;
        let price = price_of(self.store, sku).await?;
        match accounts.first() {
            Some(account) if !account.places.is_empty() || price.is_some() => Ok(stock(sku, account, price)),
            _ => Err(InventoryError::UnknownSku(sku.to_owned())),
        }
    }

    /// SKUs that stand after `after`, by name, at most `max`.
    pub async fn list(&self, after: Option<&str>, max: usize) -> Result<Vec<Stock>, InventoryError> {
        let after = after.map(stock_account);
        let accounts = self.store.accounts_after(STOCK_PREFIX, after.as_deref(), max).await?;
        let mut stocks = Vec::with_capacity(accounts.len());
        for account in &accounts {
            let sku = account.account.strip_prefix(STOCK_PREFIX).unwrap_or_default();
            stocks.push(stock(sku, account, price_of(self.store, sku).await?));
        }
        Ok(stocks)
    }

    /// Stock comes in. With the same `key` it does so once.
    pub async fn receive(&self, sku: &str, quantity: u32, key: Option<&str>) -> Result<Stock, InventoryError> {
        check_sku(sku)?;
        if quantity == 0 {
            return Err(InventoryError::Invalid("the quantity must be at least 1".to_owned()));
        }
        let posting = self.posting(
            sku,
            "receive",
            quantity,
            key,
            vec![movement(sku, OUTSIDE, ON_HAND, quantity)],
        );
        match self.store.post(&posting).await {
            Ok(Posted::Applied | Posted::Repeated) => self.stock(sku).await,
            Err(error) => Err(posting_error(error)),
        }
    }

    /// So many were found by counting, those that orders hold included; what can be sold follows. With the same `key` it
    /// happens once.
    pub async fn count(&self, sku: &str, quantity: u32, key: Option<&str>) -> Result<Stock, InventoryError> {
        check_sku(sku)?;
        for _ in 0..TRIES_MAX {
            let now = self.stock(sku).await?;
            let difference = i64::from(quantity) - now.on_hand - now.held;
            let line = match u32::try_from(difference.unsigned_abs()) {
                Ok(0) => None,
                Ok(found) if difference > 0 => Some(movement(sku, OUTSIDE, ON_HAND, found)),
                Ok(missing) => Some(movement(sku, ON_HAND, OUTSIDE, missing)),
                Err(_) => return Err(InventoryError::Invalid("the quantity is too large".to_owned())),
            };
            let mut posting = self.posting(sku, "count", quantity, key, line.into_iter().collect());
            posting.expect = Some((stock_account(sku), ON_HAND.to_owned(), now.on_hand));
            match self.store.post(&posting).await {
                Ok(Posted::Applied | Posted::Repeated) => return self.stock(sku).await,
                Err(PostError::Moved { .. }) => {}
                Err(PostError::Short(_)) => {
                    return Err(InventoryError::Held {
                        sku: sku.to_owned(),
                        held: now.held,
                    });
                }
                Err(error) => return Err(posting_error(error)),
            }
        }
        Err(InventoryError::Busy)
    }

    /// Sets what one costs.
    pub async fn set_price(&self, sku: &str, price: &Price) -> Result<(), InventoryError> {
        check_sku(sku)?;
        check_price(price)?;
        let value = json!({"price": price.amount.to_string(), "currency": price.currency});
        for _ in 0..TRIES_MAX {
            let found = self.store.record(PRICE, sku).await?;
            if found.as_ref().is_some_and(|found| found.value == Json::from(&value)) {
                return Ok(());
            }
            let record = Record {
                kind: PRICE.to_owned(),
                key: sku.to_owned(),
                version: found.map_or(0, |found| found.version) + 1,
                value: Json::from(&value),
            };
            match self.store.put_record(&record).await {
                Ok(()) => return Ok(()),
                Err(PutError::VersionMoved { .. }) => {}
                Err(PutError::TooLarge { what, bytes_max }) => {
                    return Err(InventoryError::Invalid(format!(
                        "{what} is larger than {bytes_max} bytes"
                    )));
                }
                Err(PutError::Store(error)) => return Err(error.into()),
            }
        }
        Err(InventoryError::Busy)
    }

    fn posting(&self, sku: &str, act: &str, quantity: u32, key: Option<&str>, lines: Vec<LedgerLine>) -> Posting {
        let key = key.map_or_else(|| Uuid::new_v4().to_string(), |key| format!("key:{key}"));
        Posting {
            once_id: format!("inventory:{key}"),
            fingerprint: Sha256::digest(format!("{act}\n{sku}\n{quantity}")).into(),
            lines,
            expect: None,
        }
    }
}

fn posting_error(error: PostError) -> InventoryError {
    match error {
        PostError::Reused => InventoryError::KeyReused,
        PostError::Short(short) => InventoryError::Invalid(shortages_text(&short)),
        PostError::Moved { .. } => InventoryError::Busy,
        PostError::TooLarge { what, max } => InventoryError::Invalid(format!("{what} is larger than {max} bytes")),
        PostError::Store(error) => error.into(),
    }
}

fn movement(sku: &str, from: &str, to: &str, quantity: u32) -> LedgerLine {
    LedgerLine {
        account: stock_account(sku).into(),
        from: from.into(),
        to: to.into(),
        quantity,
        once_id: "".into(),
    }
}

fn check_sku(sku: &str) -> Result<(), InventoryError> {
    let longest = KEY_BYTES_MAX - STOCK_PREFIX.len();
    if sku.is_empty() || sku.len() > longest || sku.chars().any(char::is_control) {
        let reason = format!("a SKU has 1 to {longest} bytes and no control characters");
        return Err(InventoryError::Invalid(reason));
    }
    Ok(())
}

fn check_price(price: &Price) -> Result<(), InventoryError> {
    if price.amount.is_sign_negative() {
        return Err(InventoryError::Invalid("a price is not below zero".to_owned()));
    }
    let currency = &price.currency;
    if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
        let reason = format!("`{currency}` is no currency; write one such as EUR (ISO 4217)");
        return Err(InventoryError::Invalid(reason));
    }
    Ok(())
}

fn stock(sku: &str, account: &Account, price: Option<Price>) -> Stock {
    let (amount, currency) = price.map(|price| (price.amount.to_string(), price.currency)).unzip();
    Stock {
        sku: sku.to_owned(),
        on_hand: account.at(ON_HAND),
        held: account.at(HELD),
        shipped: account.at(SHIPPED),
        received: -account.at(OUTSIDE),
        price: amount,
        currency,
    }
}

async fn price_of(store: &dyn Store, sku: &str) -> Result<Option<Price>, StoreError> {
    let Some(record) = store.record(PRICE, sku).await? else {
        return Ok(None);
    };
    let damaged = |detail: String| StoreError::Corrupt {
        what: format!("the price of `{sku}`"),
        detail,
    };
    let value = record.value.value().map_err(|error| damaged(error.to_string()))?;
    let price = amount(&value["price"]).map_err(|error| damaged(error.to_string()))?;
    let currency = value["currency"].as_str().unwrap_or_default().to_owned();
    Ok(Some(Price {
        amount: price,
        currency,
    }))
}

/// `inventory.reserve`: decides what to take. It is taken by the commit that answers the step, and if others were quicker
/// the step is decided again.
pub(crate) async fn reserve(store: &dyn Store, call: &StepCall<'_>, built_in: &BuiltIn, told: &Value) -> Effect {
    let wanted = match wanted(&told["lines"]) {
        Ok(wanted) => wanted,
        Err(reason) => return refused(reason).into(),
    };
    let held: usize = call.order.head.holds.iter().map(|hold| hold.lines.len()).sum();
    if wanted.len() + held > HOLD_LINES_MAX {
        return refused(format!("an order can hold at most {HOLD_LINES_MAX} different items")).into();
    }
    let backorder = match &told["backorder"] {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        other => return refused(format!("`backorder` is true or false, not {other}")).into(),
    };
    match take(store, &wanted, backorder, built_in).await {
        Ok(effect) => effect,
        Err(error) => failed_by_store(&error).into(),
    }
}

async fn take(
    store: &dyn Store,
    wanted: &BTreeMap<String, u32>,
    backorder: bool,
    built_in: &BuiltIn,
) -> Result<Effect, StoreError> {
    let names: Vec<String> = wanted.keys().map(|sku| stock_account(sku)).collect();
    let accounts = store.accounts(&names).await?;
    let mut lines = Vec::with_capacity(wanted.len());
    let mut short = Vec::new();
    let mut unknown = Vec::new();
    let mut told = Vec::with_capacity(wanted.len());
    let mut total = Some(Decimal::ZERO);
    let mut currency: Option<String> = None;
    for ((sku, wanted), account) in wanted.iter().zip(&accounts) {
        let price = price_of(store, sku).await?;
        if account.places.is_empty() && price.is_none() {
            unknown.push(sku.as_str());
            continue;
        }
        let there = u32::try_from(account.at(ON_HAND).max(0)).unwrap_or(u32::MAX);
        let taken = (*wanted).min(there);
        if taken < *wanted {
            short.push(Shortage {
                account: account.account.as_str().into(),
                place: ON_HAND.into(),
                wanted: u64::from(*wanted),
                there: u64::from(there),
            });
        }
        lines.push(HoldLine {
            account: account.account.as_str().into(),
            quantity: taken,
            short: *wanted - taken,
        });
        let mut line = Map::new();
        line.insert("sku".to_owned(), json!(sku));
        line.insert("quantity".to_owned(), json!(wanted));
        line.insert("held".to_owned(), json!(taken));
        if let Some(price) = &price {
            line.insert("price".to_owned(), json!(price.amount.to_string()));
        }
        told.push(Value::Object(line));
        total = match (total, &price) {
            (Some(sum), Some(price)) => Decimal::from(*wanted)
                .checked_mul(price.amount)
                .and_then(|amount| sum.checked_add(amount)),
            _ => None,
        };
        match (&currency, price) {
            (Some(one), Some(price)) if *one != price.currency => {
                let reason = format!("one order cannot have prices in {one} and in {}", price.currency);
                return Ok(refused(reason).into());
            }
            (None, Some(price)) => currency = Some(price.currency),
            _ => {}
        }
    }
    if !unknown.is_empty() {
        return Ok(refused(format!("there is no SKU {}", unknown.join(", "))).into());
    }
    if !short.is_empty() && !backorder {
        return Ok(refused(shortages_text(&short)).into());
    }
    let mut result = Map::new();
    result.insert("backordered".to_owned(), json!(!short.is_empty()));
    if let (Some(total), Some(currency)) = (total, currency) {
        result.insert("total".to_owned(), json!(total.to_string()));
        result.insert("currency".to_owned(), json!(currency));
    }
    result.insert("lines".to_owned(), Value::Array(told));
    let lasts = built_in.hold.unwrap_or_default();
    Ok(Effect {
        outcome: StepOutcome::Done {
            result: Some(Json::from(&Value::Object(result))),
        },
        hold: Some(HoldMove::Take {
            lines,
            lasts_ms: u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX),
        }),
    })
}

/// The lines that are wanted, summed per SKU.
fn wanted(lines: &Value) -> Result<BTreeMap<String, u32>, String> {
    let Value::Array(lines) = lines else {
        return Err("`lines` is a list of {sku, quantity}".to_owned());
    };
    let mut wanted: BTreeMap<String, u32> = BTreeMap::new();
    for line in lines {
        let sku = line["sku"].as_str().filter(|sku| check_sku(sku).is_ok());
        let sku = sku.ok_or_else(|| format!("{line} has no `sku`"))?;
        let quantity = line["quantity"]
            .as_u64()
            .and_then(|quantity| u32::try_from(quantity).ok());
        let quantity = quantity
            .filter(|quantity| *quantity > 0)
            .ok_or_else(|| format!("{line} has no `quantity` that is a whole number from 1"))?;
        let sum = wanted.entry(sku.to_owned()).or_default();
        *sum = sum
            .checked_add(quantity)
            .ok_or_else(|| format!("too many of `{sku}` are wanted"))?;
    }
    if wanted.is_empty() {
        return Err("there is nothing to reserve".to_owned());
    }
    Ok(wanted)
}
