//! The shipped storefront order over an engine: its whole way, the failure of each step, and a race for the last units.
//! After each, stock and money are counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use comanda_builtin::customers::{Customer, Customers};
use comanda_builtin::inventory::{Inventory, Price};
use comanda_builtin::payments::{Sandbox, SandboxState};
use comanda_builtin::shipments::{CarrierSandbox, ShipmentState};
use comanda_builtin::{BuiltIns, Options};
use comanda_engine::{Change, Found, Precondition, Service, StepCall, StepRunner, Submission, WaitFor};
use comanda_model::decision::StepOutcome;
use comanda_model::{EventKind, Json, OrderId, Phase};
use comanda_order_type::{Bundle, Definition, Known, read, shipped};
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use comanda_store_sqlite::SqliteStore;
use jiff::Timestamp;

struct Nobody;

#[async_trait]
impl StepRunner for Nobody {
    async fn run(&self, _: StepCall<'_>) -> StepOutcome {
        StepOutcome::Failed {
            reason: "nobody is there".to_owned(),
            retry_after: None,
        }
    }
}

/// The shipped type, with a shorter patience.
fn storefront() -> Definition {
    let bundles = shipped();
    let bundle = bundles
        .iter()
        .find(|bundle| bundle.path.contains("storefront-order"))
        .expect("the type is shipped");
    let bundle = Bundle {
        text: bundle.text.replace("timeout = \"10s\"", "timeout = \"200ms\""),
        ..bundle.clone()
    };
    let read = read(&bundle, &Known::default());
    match read.definition {
        Some(definition) => definition,
        None => panic!("{}", comanda_order_type::render(&read.diagnostics, &bundle, false)),
    }
}

struct Shop {
    service: Service,
    store: Arc<dyn Store>,
}

impl Shop {
    async fn over(store: Arc<dyn Store>) -> Self {
        let options = Options {
            env: BTreeMap::new(),
            payments: Arc::new(Sandbox::new(store.clone())),
            customers: Arc::new(Customers::new(store.clone())),
            carrier: Arc::new(CarrierSandbox::new(store.clone())),
            inventory: None,
        };
        let steps = BuiltIns::new(options, store.clone(), Arc::new(Nobody));
        let options = comanda_engine::Options {
            wait_scale: 0.001,
            sweep: Duration::from_millis(20),
            ..comanda_engine::Options::default()
        };
        let service = Service::start(options, store.clone(), Arc::new(steps), vec![storefront()]);
        let shop = Self {
            service: service.await.unwrap(),
            store,
        };
        let customers = Customers::new(shop.store.clone());
        for (id, prepaid) in [("u-1", false), ("u-2", true), ("u-bad", false)] {
            let customer = Customer {
                id: id.to_owned(),
                name: "Ada".to_owned(),
                blocked: false,
                prepaid,
            };
            customers.register(customer).await.unwrap();
        }
        customers.set_blocked("u-bad", true).await.unwrap();
        shop
    }

    async fn new() -> Self {
        Self::over(Arc::new(MemoryStore::default())).await
    }

    async fn stocked(skus: &[(&str, u32)]) -> Self {
        let shop = Self::new().await;
        for (sku, quantity) in skus {
            shop.receive(sku, *quantity).await;
        }
        shop
    }

    async fn receive(&self, sku: &str, quantity: u32) {
        let inventory = Inventory::new(&*self.store);
        let price = Price {
            amount: "14.90".parse().unwrap(),
            currency: "EUR".to_owned(),
        };
        inventory.set_price(sku, &price).await.unwrap();
        inventory.receive(sku, quantity, None).await.unwrap();
    }

    async fn submit(&self, data: &str) -> OrderId {
        let submission = Submission {
            order_type: "storefront-order".to_owned(),
            key: None,
            data: Json::parse(data).unwrap(),
            value: None,
            status: None,
            due_at: None,
            idempotency: None,
            by: "local".into(),
            traceparent: None,
        };
        let accepted = self.service.submit(submission).await.unwrap();
        accepted.found.stored.order.id()
    }

    async fn rest(&self, id: OrderId) -> Found {
        let mut after = 0;
        loop {
            let changed = WaitFor::VersionAfter(after);
            let found = self.service.wait(id, changed, Duration::from_secs(30)).await;
            let found = found.unwrap().unwrap();
            let head = &found.stored.order.head;
            // A status's deadline is what happens if nobody acts: that is rest too.
            if head.work.as_ref().is_none_or(|work| work.due_at.is_none()) {
                return found;
            }
            assert_ne!(after, head.version, "it goes on by itself in time: {head:?}");
            after = head.version;
        }
    }

    /// Submits an order and answers with its status when it rests.
    async fn status_of(&self, data: &str) -> (OrderId, String) {
        let id = self.submit(data).await;
        let found = self.rest(id).await;
        assert_ne!(
            found.stored.order.head.phase,
            Phase::Dead,
            "{:?}",
            found.stored.order.head.dead
        );
        (id, found.stored.order.head.status.to_string())
    }

    /// On hand, held, shipped; and that nothing is made or lost.
    async fn stock(&self, sku: &str) -> (i64, i64, i64) {
        let stock = Inventory::new(&*self.store).stock(sku).await.unwrap();
        assert_eq!(stock.received, stock.on_hand + stock.held + stock.shipped, "{stock:?}");
        (stock.on_hand, stock.held, stock.shipped)
    }

    /// The states of an order's payments.
    async fn payments(&self, id: OrderId) -> Vec<SandboxState> {
        let book = Sandbox::new(self.store.clone()).book(None, 100_000).await.unwrap();
        let of_order = book.iter().filter(|payment| payment.order_id == id.to_string());
        of_order.map(|payment| payment.state).collect()
    }

    /// The states of an order's shipments.
    async fn shipments(&self, id: OrderId) -> Vec<ShipmentState> {
        let book = CarrierSandbox::new(self.store.clone())
            .book(None, 100_000)
            .await
            .unwrap();
        let of_order = book.iter().filter(|shipment| shipment.order_id == id.to_string());
        of_order.map(|shipment| shipment.state).collect()
    }

    /// The order's data as its mount shows it.
    async fn shown(&self, id: OrderId) -> String {
        let found = self.service.find(id).await.unwrap().unwrap();
        found.shown().as_str().to_owned()
    }

    async fn reason(&self, id: OrderId) -> String {
        let events = self.store.history(id, 0, 100).await.unwrap();
        let reasons = events.into_iter().rev().find_map(|event| event.reason);
        reasons.unwrap_or_default()
    }
}

fn order(user: &str, lines: &[(&str, u32)], rest: &str) -> String {
    let lines: Vec<String> = lines
        .iter()
        .map(|(sku, quantity)| format!(r#"{{"sku":"{sku}","quantity":{quantity}}}"#))
        .collect();
    format!(r#"{{"userId":"{user}","products":[{}]{rest}}}"#, lines.join(","))
}

fn change() -> Change {
    Change {
        by: "local".into(),
        reason: None,
        precondition: Precondition::None,
    }
}

#[tokio::test]
async fn the_whole_way() {
    let shop = Shop::stocked(&[("A-1", 5), ("B-1", 5)]).await;
    let lines = [("A-1", 2), ("B-1", 1), ("A-1", 1)];
    let (id, status) = shop.status_of(&order("u-1", &lines, "")).await;
    assert_eq!(status, "processing");
    assert_eq!(shop.stock("A-1").await, (2, 0, 3), "two lines of one SKU are summed");
    assert_eq!(shop.stock("B-1").await, (4, 0, 1));
    assert_eq!(shop.payments(id).await, [SandboxState::Captured]);
    let found = shop.rest(id).await;
    let results: BTreeMap<_, _> = found.stored.order.results.iter().cloned().collect();
    let reserved = results["reserve"].value().unwrap();
    assert_eq!(
        (&reserved["total"], &reserved["currency"], &reserved["backordered"]),
        (&"59.60".into(), &"EUR".into(), &false.into()),
        "money is exact"
    );
    assert_eq!(shop.shipments(id).await, [ShipmentState::Created]);
    let tracking = results["label"].value().unwrap()["trackingNumber"].clone();
    let shown: serde_json::Value = serde_json::from_str(&shop.shown(id).await).unwrap();
    assert_eq!(shown["shipping"]["trackingNumber"], tracking);
    assert_eq!(shown["shipping"]["carrier"], "Sandbox");
    // A person knows better: what the order says goes before what the carrier said.
    let patch = Json::parse(r#"{"shipping":{"trackingNumber":"X-1"}}"#).unwrap();
    shop.service.edit(id, patch, change()).await.unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shop.shown(id).await).unwrap();
    assert_eq!(
        (&shown["shipping"]["trackingNumber"], &shown["shipping"]["carrier"]),
        (&"X-1".into(), &"Sandbox".into())
    );
    shop.service.transition(id, "delivered", None, change()).await.unwrap();
}

#[tokio::test]
async fn a_label_whose_answer_was_lost_is_found_and_not_made_again() {
    let shop = Shop::stocked(&[("A-1", 5)]).await;
    for service in ["timeout", "twice", "down"] {
        let data = order(
            "u-1",
            &[("A-1", 1)],
            &format!(r#","shipping":{{"service":"{service}"}}"#),
        );
        let (id, status) = shop.status_of(&data).await;
        assert_eq!(status, "processing", "{service}");
        assert_eq!(shop.shipments(id).await, [ShipmentState::Created], "{service}");
    }
}

#[tokio::test]
async fn a_prepaid_customer_pays_nothing() {
    let shop = Shop::stocked(&[("A-1", 5)]).await;
    let (id, status) = shop.status_of(&order("u-2", &[("A-1", 1)], "")).await;
    assert_eq!(status, "processing");
    assert!(shop.payments(id).await.is_empty());
}

#[tokio::test]
async fn whoever_says_no_takes_back_what_was_done() {
    let shop = Shop::stocked(&[("A-1", 5), ("B-1", 1)]).await;
    for (data, said) in [
        (order("nobody", &[("A-1", 1)], ""), "there is no customer `nobody`"),
        (order("u-bad", &[("A-1", 1)], ""), "the customer `u-bad` is blocked"),
        (order("u-1", &[("A-1", 1), ("X", 1)], ""), "there is no SKU X"),
        (
            order("u-1", &[("A-1", 1), ("B-1", 2)], ""),
            "too little stock: B-1: 2 wanted, 1 there",
        ),
        (
            order("u-1", &[("A-1", 1)], r#","payment":"decline""#),
            "the payment was declined",
        ),
        (
            order("u-1", &[("A-1", 1)], r#","shipping":{"service":"refuse"}"#),
            "the carrier does not take the shipment",
        ),
    ] {
        let (id, status) = shop.status_of(&data).await;
        assert_eq!(status, "canceled", "{data}");
        let events = shop.store.history(id, 0, 100).await.unwrap();
        let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.as_deref()).collect();
        assert!(reasons.contains(&said), "{reasons:?} lacks {said}");
        assert_eq!(shop.stock("A-1").await, (5, 0, 0), "{data}");
        let payments = shop.payments(id).await;
        let gone = |state: &SandboxState| !matches!(state, SandboxState::Authorized | SandboxState::Captured);
        assert!(payments.iter().all(gone), "{data}: {payments:?}");
    }
}

#[tokio::test]
async fn a_payment_whose_answer_was_lost_is_found_and_not_made_again() {
    let shop = Shop::stocked(&[("A-1", 5)]).await;
    for source in ["timeout", "twice", "down"] {
        let data = order("u-1", &[("A-1", 1)], &format!(r#","payment":"{source}""#));
        let (id, status) = shop.status_of(&data).await;
        assert_eq!(status, "processing", "{source}");
        assert_eq!(shop.payments(id).await, [SandboxState::Captured], "{source}");
    }
}

#[tokio::test]
async fn a_cancel_brings_stock_and_money_back() {
    let shop = Shop::stocked(&[("A-1", 5)]).await;
    let (id, status) = shop.status_of(&order("u-1", &[("A-1", 2)], "")).await;
    assert_eq!((status.as_str(), shop.stock("A-1").await), ("processing", (3, 0, 2)));
    shop.service.cancel(id, change()).await.unwrap();
    let found = shop.rest(id).await;
    assert_eq!(&*found.stored.order.head.status, "canceled");
    assert_eq!(shop.stock("A-1").await, (5, 0, 0));
    assert_eq!(shop.shipments(id).await, [ShipmentState::Canceled]);
    assert!(
        !shop.shown(id).await.contains("shipping"),
        "what was canceled is not shown"
    );
    assert_eq!(shop.payments(id).await, [SandboxState::Refunded]);
}

#[tokio::test]
async fn a_backordered_order_waits_and_takes_the_rest_when_it_ships() {
    let shop = Shop::stocked(&[("A-1", 1)]).await;
    let (id, status) = shop
        .status_of(&order("u-1", &[("A-1", 3)], r#","backorder":true"#))
        .await;
    assert_eq!((status.as_str(), shop.stock("A-1").await), ("backordered", (0, 1, 0)));
    shop.receive("A-1", 5).await;
    shop.service.transition(id, "processing", None, change()).await.unwrap();
    let found = shop.rest(id).await;
    assert_eq!(&*found.stored.order.head.status, "processing");
    assert_eq!(shop.stock("A-1").await, (3, 0, 3));
}

#[tokio::test]
async fn a_backordered_order_that_cannot_be_filled_is_paid_back() {
    let shop = Shop::stocked(&[("A-1", 1)]).await;
    let (id, _) = shop
        .status_of(&order("u-1", &[("A-1", 3)], r#","backorder":true"#))
        .await;
    shop.service.transition(id, "processing", None, change()).await.unwrap();
    let found = shop.rest(id).await;
    assert_eq!(
        &*found.stored.order.head.status,
        "canceled",
        "{}",
        shop.reason(id).await
    );
    assert_eq!(shop.stock("A-1").await, (1, 0, 0));
    assert_eq!(shop.payments(id).await, [SandboxState::Voided]);
}

/// A store whose time the test moves on.
fn clocked() -> (Arc<MemoryStore>, Arc<AtomicI64>) {
    let ahead = Arc::new(AtomicI64::new(0));
    let seconds = ahead.clone();
    let clock = move || {
        let ahead = jiff::SignedDuration::from_secs(seconds.load(Ordering::SeqCst));
        Timestamp::now().checked_add(ahead).unwrap()
    };
    (Arc::new(MemoryStore::with_clock(Arc::new(clock))), ahead)
}

async fn until_lapsed(shop: &Shop, id: OrderId) {
    let mut after = 0;
    loop {
        let found = shop
            .service
            .wait(id, WaitFor::VersionAfter(after), Duration::from_secs(20))
            .await;
        after = found.unwrap().unwrap().stored.order.head.version;
        let events = shop.store.history(id, 0, 100).await.unwrap();
        if events.iter().any(|event| event.kind == EventKind::HoldLapsed) {
            return;
        }
    }
}

#[tokio::test]
async fn a_hold_lapses_and_is_taken_again_where_it_is_needed() {
    let (store, ahead) = clocked();
    let shop = Shop::over(store).await;
    shop.receive("A-1", 1).await;
    let (id, status) = shop
        .status_of(&order("u-1", &[("A-1", 2)], r#","backorder":true"#))
        .await;
    assert_eq!((status.as_str(), shop.stock("A-1").await), ("backordered", (0, 1, 0)));
    ahead.store(16 * 60, Ordering::SeqCst);
    until_lapsed(&shop, id).await;
    assert_eq!(shop.stock("A-1").await, (1, 0, 0), "others can buy it");
    shop.receive("A-1", 1).await;
    shop.service.transition(id, "processing", None, change()).await.unwrap();
    assert_eq!(&*shop.rest(id).await.stored.order.head.status, "processing");
    assert_eq!(shop.stock("A-1").await, (0, 0, 2));
}

/// How many of `buyers` get one of `units`; stock and money are right afterwards.
async fn race(shop: Shop, buyers: usize, units: u32) {
    shop.receive("A-1", units).await;
    let shop = Arc::new(shop);
    let mut ids = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..16 {
        let shop = shop.clone();
        tasks.spawn(async move {
            let mut ids = Vec::new();
            for _ in (part..buyers).step_by(16) {
                ids.push(shop.submit(&order("u-1", &[("A-1", 1)], "")).await);
            }
            ids
        });
    }
    while let Some(part) = tasks.join_next().await {
        ids.extend(part.unwrap());
    }
    let mut bought = Vec::new();
    for id in &ids {
        let found = shop.rest(*id).await;
        match &*found.stored.order.head.status {
            "processing" => bought.push(*id),
            "canceled" => {}
            other => panic!("{id} is {other}: {:?}", found.stored.order.head.dead),
        }
    }
    assert_eq!(bought.len(), units as usize);
    assert_eq!(shop.stock("A-1").await, (0, 0, i64::from(units)));
    let book = Sandbox::new(shop.store.clone()).book(None, 100_000).await.unwrap();
    let mut charged: Vec<String> = book
        .iter()
        .filter(|payment| payment.state == SandboxState::Captured)
        .map(|payment| payment.order_id.clone())
        .collect();
    charged.sort();
    let mut paid: Vec<String> = bought.iter().map(ToString::to_string).collect();
    paid.sort();
    assert_eq!(charged, paid, "who bought has paid, and nobody else");
    shop.service.stop(Duration::from_secs(5)).await;
    shop.store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_buyers_for_the_last_hundred_units() {
    race(Shop::new().await, 10_000, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_embedded_store_sells_no_unit_twice_either() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(comanda_store_sqlite::Options::new(directory.path())).unwrap();
    race(Shop::over(Arc::new(store)).await, 10_000, 100).await;
    let report = comanda_store_sqlite::verify(directory.path(), &|_, _| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.faults);
}
