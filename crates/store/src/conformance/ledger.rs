//! The ledger: all lines or none, once, never below zero, nothing made or lost; and records.
//!
//! A store that keeps no ledger says so in its capabilities, and is held to refusing what it cannot do.

use std::sync::Arc;

use comanda_model::bounds::LEDGER_LINES_MAX;
use comanda_model::ledger::{LedgerLine, ON_HAND, OUTSIDE, stock_account};
use comanda_model::{Order, Shortage};

use super::sample::{Shop, done, json, plain};
use crate::{Commit, CommitError, Expect, PostError, Posted, Posting, PutError, Record, Store, StoreError};

/// A place of these checks: what stands at `held` must be held by the heads of orders.
const HELD: &str = "aside";

/// A movement.
pub fn line(sku: &str, from: &str, to: &str, quantity: u32, once_id: &str) -> LedgerLine {
    LedgerLine {
        account: stock_account(sku).into(),
        from: from.into(),
        to: to.into(),
        quantity,
        once_id: once_id.into(),
    }
}

/// A posting of these lines.
pub fn posting(once_id: &str, lines: Vec<LedgerLine>) -> Posting {
    Posting {
        once_id: once_id.to_owned(),
        fingerprint: [7; 32],
        lines,
        expect: None,
    }
}

async fn receive(store: &dyn Store, sku: &str, quantity: u32) {
    let lines = vec![line(sku, OUTSIDE, ON_HAND, quantity, "")];
    let posted = store.post(&posting(&format!("receive {sku}"), lines)).await;
    assert_eq!(posted.expect("stock comes in"), Posted::Applied);
}

async fn at(store: &dyn Store, sku: &str, place: &str) -> i64 {
    let accounts = store.accounts(&[stock_account(sku)]).await.expect("accounts are read");
    let [account] = accounts.as_slice() else {
        panic!("one account was asked for: {accounts:?}")
    };
    let sum: i64 = account.places.iter().map(|(_, quantity)| quantity).sum();
    assert_eq!(sum, 0, "nothing is made or lost: {account:?}");
    account.at(place)
}

/// The commit that does an order's next step and moves these lines.
fn moving(shop: &Shop, order: &Order, lines: Vec<LedgerLine>) -> Commit {
    let mut commit = shop.working(order, None, done(None));
    commit.ledger = lines;
    commit
}

/// Whether the store keeps a ledger; one that does not refuses what it cannot do.
async fn keeps_one(store: &Arc<dyn Store>) -> bool {
    if store.capabilities().ledger {
        return true;
    }
    let posted = store
        .post(&posting("p", vec![line("A", OUTSIDE, ON_HAND, 1, "")]))
        .await;
    assert!(
        matches!(posted, Err(PostError::Store(StoreError::Unsupported { .. }))),
        "a posting is refused: {posted:?}"
    );
    let shop = Shop::new(store, plain());
    let mut commit = shop.accepting("{}");
    commit.ledger = vec![line("A", OUTSIDE, ON_HAND, 1, "1")];
    let answer = shop.put(commit).await;
    assert!(
        matches!(answer, Err(CommitError::Store(StoreError::Unsupported { .. }))),
        "a commit with lines is refused: {answer:?}"
    );
    false
}

/// A commit's lines are applied with it, and read back.
pub async fn lines_move_with_their_commit(store: Arc<dyn Store>) {
    if !keeps_one(&store).await {
        return;
    }
    let shop = Shop::new(&store, plain());
    receive(&*store, "A", 5).await;
    assert_eq!(at(&*store, "A", OUTSIDE).await, -5, "what came in is counted outside");
    let order = shop.order(shop.accept("{}").await).await;
    let lines = vec![line("A", ON_HAND, HELD, 2, "1.1")];
    shop.put(moving(&shop, &order, lines.clone()))
        .await
        .expect("there is enough");
    assert_eq!((at(&*store, "A", ON_HAND).await, at(&*store, "A", HELD).await), (3, 2));
    assert_eq!(
        store.ledger_of(order.id()).await.unwrap(),
        lines,
        "the order's movements read back"
    );
}

/// One line that is short and nothing is applied, neither of the order nor of the ledger; what is short is told by line.
pub async fn all_lines_or_none(store: Arc<dyn Store>) {
    if !keeps_one(&store).await {
        return;
    }
    let shop = Shop::new(&store, plain());
    receive(&*store, "A", 5).await;
    receive(&*store, "B", 1).await;
    let order = shop.order(shop.accept("{}").await).await;
    let lines = vec![
        line("A", ON_HAND, HELD, 5, "1.1"),
        line("B", ON_HAND, HELD, 2, "1.1"),
        line("C", ON_HAND, HELD, 1, "1.1"),
    ];
    let answer = shop.put(moving(&shop, &order, lines)).await;
    let Err(CommitError::Short(short)) = answer else {
        panic!("two lines are short: {answer:?}")
    };
    let told: Vec<(&str, u64, u64)> = short
        .iter()
        .map(
            |Shortage {
                 account, wanted, there, ..
             }| (&**account, *wanted, *there),
        )
        .collect();
    assert_eq!(
        told,
        [("stock:B", 2, 1), ("stock:C", 1, 0)],
        "each line that is short is told"
    );
    assert_eq!(shop.order(order.id()).await, order, "the order is as it was");
    assert_eq!(at(&*store, "A", HELD).await, 0, "no line was applied");
    assert!(store.ledger_of(order.id()).await.unwrap().is_empty());
}

/// Lines of one account are taken together, before it is judged whether there is enough.
pub async fn lines_are_summed_per_account(store: Arc<dyn Store>) {
    if !keeps_one(&store).await {
        return;
    }
    let shop = Shop::new(&store, plain());
    receive(&*store, "A", 5).await;
    let order = shop.order(shop.accept("{}").await).await;
    let over = vec![line("A", ON_HAND, HELD, 3, "1.1"), line("A", ON_HAND, HELD, 3, "1.2")];
    let answer = shop.put(moving(&shop, &order, over)).await;
    assert!(
        matches!(&answer, Err(CommitError::Short(short)) if short[0].wanted == 6 && short[0].there == 5),
        "six are wanted: {answer:?}"
    );
    let through = vec![line("A", ON_HAND, HELD, 5, "1.1"), line("A", HELD, "shipped", 5, "1.2")];
    shop.put(moving(&shop, &order, through))
        .await
        .expect("what comes in may go on");
    assert_eq!(
        (at(&*store, "A", HELD).await, at(&*store, "A", "shipped").await),
        (0, 5)
    );
}

/// One shortage in a batch fails no neighbour, and each sees what those before it have left.
pub async fn a_shortage_fails_alone(store: Arc<dyn Store>) {
    if !keeps_one(&store).await {
        return;
    }
    let shop = Shop::new(&store, plain());
    receive(&*store, "A", 5).await;
    let mut commits = Vec::new();
    for quantity in [2, 4, 3] {
        let order = shop.order(shop.accept("{}").await).await;
        commits.push(moving(&shop, &order, vec![line("A", ON_HAND, HELD, quantity, "1.1")]));
    }
    let mut outcomes = Vec::new();
    for ticket in store.commit(commits) {
        outcomes.push(ticket.await.is_ok());
    }
    assert_eq!(outcomes, [true, false, true]);
    assert_eq!((at(&*store, "A", ON_HAND).await, at(&*store, "A", HELD).await), (0, 5));
}

/// A commit that is repeated, and a line whose id was used before, move nothing again.
pub async fn a_line_moves_once(store: Arc<dyn Store>) {
    if !keeps_one(&store).await {
        return;
    }
    let shop = Shop::new(&store, plain());
    receive(&*store, "A", 5).await;
    let order = shop.order(shop.accept("{}").await).await;
    let commit = moving(&shop, &order, vec![line("A", ON_HAND, HELD, 3, "1.1")]);
    shop.put(commit.clone()).await.expect("there is enough");
    shop.put(commit).await.expect("its repetition has succeeded");
    let order = shop.order(order.id()).await;
    let again = moving(&shop, &order, vec![line("A", ON_HAND, HELD, 3, "1.1")]);
    shop.put(again).await.expect("a line that was moved is passed over");
    assert_eq!((at(&*store, "A", ON_HAND).await, at(&*store, "A", HELD).await), (2, 3));
}

/// Key, token, version and bounds are judged before the ledger.
pub async fn the_ledger_is_judged_last(store: Arc<dyn Store>) {
    if !keeps_one(&store).await {
        return;
    }
    let shop = Shop::new(&store, plain());
    let order = shop.order(shop.accept("{}").await).await;
    let short = vec![line("A", ON_HAND, HELD, 1, "1.1")];
    let mut moved = moving(&shop, &order, short.clone());
    moved.expect = Expect::At {
        version: 9,
        token: None,
    };
    let answer = shop.put(moved).await;
    assert!(
        matches!(answer, Err(CommitError::VersionMoved { actual: 1 })),
        "{answer:?}"
    );
    let mut many = Vec::new();
    for number in 0..=LEDGER_LINES_MAX {
        many.push(line(&number.to_string(), ON_HAND, HELD, 1, "1.1"));
    }
    let answer = shop.put(moving(&shop, &order, many)).await;
    assert!(matches!(answer, Err(CommitError::TooLarge { .. })), "{answer:?}");
    let answer = shop.put(moving(&shop, &order, short)).await;
    assert!(matches!(answer, Err(CommitError::Short(_))), "{answer:?}");
}

/// Many orders want the last units of one SKU at once: exactly as many get one as there are.
pub async fn a_race_for_the_last_units(store: Arc<dyn Store>) {
    if !keeps_one(&store).await {
        return;
    }
    let shop = Shop::new(&store, plain());
    receive(&*store, "A", 10).await;
    let mut buyers = Vec::new();
    for _ in 0..100 {
        let shop = shop.clone();
        buyers.push(tokio::spawn(async move {
            let order = shop.order(shop.accept("{}").await).await;
            let commit = moving(&shop, &order, vec![line("A", ON_HAND, HELD, 1, "1.1")]);
            match shop.put(commit).await {
                Ok(_) => 1,
                Err(CommitError::Short(_)) => 0,
                Err(error) => panic!("neither sold nor short: {error}"),
            }
        }));
    }
    let mut sold = 0;
    for buyer in buyers {
        sold += buyer.await.expect("the buyer has an answer");
    }
    assert_eq!(sold, 10);
    assert_eq!((at(&*store, "A", ON_HAND).await, at(&*store, "A", HELD).await), (0, 10));
}

/// A posting is applied once under its id; another under the same id is told.
pub async fn a_posting_happens_once(store: Arc<dyn Store>) {
    if !keeps_one(&store).await {
        return;
    }
    let one = posting("p", vec![line("A", OUTSIDE, ON_HAND, 3, "")]);
    assert_eq!(store.post(&one).await.unwrap(), Posted::Applied);
    assert_eq!(store.post(&one).await.unwrap(), Posted::Repeated);
    let other = Posting {
        fingerprint: [8; 32],
        ..one
    };
    assert!(matches!(store.post(&other).await, Err(PostError::Reused)));
    assert_eq!(at(&*store, "A", ON_HAND).await, 3);
    let out = posting("q", vec![line("A", ON_HAND, OUTSIDE, 4, "")]);
    assert!(
        matches!(store.post(&out).await, Err(PostError::Short(_))),
        "no more goes than is there"
    );
    let expecting = Posting {
        expect: Some((stock_account("A"), ON_HAND.to_owned(), 2)),
        ..posting("r", vec![line("A", ON_HAND, OUTSIDE, 1, "")])
    };
    assert!(matches!(
        store.post(&expecting).await,
        Err(PostError::Moved { actual: 3 })
    ));
}

/// Accounts come in pages, by name.
pub async fn accounts_come_in_pages(store: Arc<dyn Store>) {
    if !keeps_one(&store).await {
        return;
    }
    for sku in ["C", "A", "B"] {
        receive(&*store, sku, 1).await;
    }
    let first = store.accounts_after("stock:", None, 2).await.unwrap();
    let names = |accounts: &[crate::Account]| accounts.iter().map(|one| one.account.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first), ["stock:A", "stock:B"]);
    let rest = store.accounts_after("stock:", Some("stock:B"), 2).await.unwrap();
    assert_eq!(names(&rest), ["stock:C"]);
    assert!(store.accounts_after("other:", None, 2).await.unwrap().is_empty());
}

/// What an order moved goes with it, and the balances stay.
pub async fn balances_outlive_their_orders(store: Arc<dyn Store>) {
    if !keeps_one(&store).await {
        return;
    }
    let shop = Shop::new(&store, plain());
    receive(&*store, "A", 5).await;
    let order = shop.order(shop.accept("{}").await).await;
    shop.put(moving(&shop, &order, vec![line("A", ON_HAND, "shipped", 2, "1.1")]))
        .await
        .unwrap();
    let order = shop.order(order.id()).await;
    shop.put(shop.working(&order, None, done(None))).await.unwrap();
    super::sample::pass(&*store, store.now()).await;
    assert_eq!(
        store.retain(store.now(), 10).await.unwrap(),
        1,
        "the order is final and goes"
    );
    assert!(store.ledger_of(order.id()).await.unwrap().is_empty());
    assert_eq!(
        (at(&*store, "A", ON_HAND).await, at(&*store, "A", "shipped").await),
        (3, 2)
    );
}

/// A record is written whole, under the version that follows, and comes in pages.
pub async fn records_are_versioned(store: Arc<dyn Store>) {
    if !keeps_one(&store).await {
        return;
    }
    let record = |key: &str, version, value: &str| Record {
        kind: "customer".to_owned(),
        key: key.to_owned(),
        version,
        value: json(value),
    };
    assert!(store.record("customer", "u-1").await.unwrap().is_none());
    store.put_record(&record("u-1", 1, r#"{"n":1.10}"#)).await.unwrap();
    let again = store.put_record(&record("u-1", 1, r#"{"n":2}"#)).await;
    assert!(matches!(again, Err(PutError::VersionMoved { actual: 1 })), "{again:?}");
    store.put_record(&record("u-1", 2, r#"{"n":3.0}"#)).await.unwrap();
    store.put_record(&record("u-2", 1, "{}")).await.unwrap();
    let found = store.record("customer", "u-1").await.unwrap();
    assert_eq!(
        found,
        Some(record("u-1", 2, r#"{"n":3.0}"#)),
        "it reads back to the letter"
    );
    assert!(store.record("sku", "u-1").await.unwrap().is_none(), "kinds are apart");
    let page = store.records_after("customer", Some("u-1"), 10).await.unwrap();
    assert_eq!(page.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), ["u-2"]);
    assert_eq!(store.records_after("customer", None, 1).await.unwrap().len(), 1);
    let gone = ["u-1".to_owned(), "u-3".to_owned()];
    assert_eq!(store.remove_records("customer", &gone).await.unwrap(), 1);
    assert_eq!(
        store.remove_records("sku", &["u-2".to_owned()]).await.unwrap(),
        0,
        "kinds are apart"
    );
    assert!(store.record("customer", "u-1").await.unwrap().is_none());
    store.put_record(&record("u-1", 1, "{}")).await.unwrap();
}
