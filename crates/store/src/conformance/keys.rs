//! Keys: each leads to one order, and an order is made with all of its keys or not at all.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::OrderId;

use super::sample::{Shop, key, pass, plain};
use crate::{Commit, CommitError, KeyClaim, Store};

fn under(shop: &Shop, keys: &[KeyClaim]) -> Commit {
    Commit {
        keys: keys.to_vec(),
        ..shop.accepting("{}")
    }
}

/// A key leads to its order and tells the fingerprint; the same key in another scope is another key.
pub async fn a_key_leads_to_its_order(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    assert_eq!(
        store.key("type:plain", "A-1").await.unwrap(),
        None,
        "no key before it is claimed"
    );
    let commit = under(
        &shop,
        &[
            key("type:plain", "A-1"),
            KeyClaim {
                fingerprint: [9; 32],
                ..key("idempotency:k", "A-1")
            },
        ],
    );
    let id = commit.order.id();
    shop.put(commit).await.expect("the keys are free");
    assert_eq!(store.key("type:plain", "A-1").await.unwrap(), Some((id, [7; 32])));
    assert_eq!(store.key("idempotency:k", "A-1").await.unwrap(), Some((id, [9; 32])));
    for (scope, name) in [
        ("type:plain", "A-2"),
        ("type:other", "A-1"),
        ("type:plain", "a-1"),
        ("type:plain", ""),
    ] {
        assert_eq!(
            store.key(scope, name).await.unwrap(),
            None,
            "`{scope}` `{name}` is another key"
        );
    }
    let other = under(&shop, &[key("type:other", "A-1")]);
    shop.put(other).await.expect("the key is free in another scope");
}

/// A taken key is answered with its order and fingerprint, and nothing of the commit is applied, not even its other
/// keys. Within a batch, too.
pub async fn a_taken_key_is_told_and_nothing_applied(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let first = under(&shop, &[key("type:plain", "A-1")]);
    let first_id = first.order.id();
    let again = KeyClaim {
        fingerprint: [8; 32],
        ..key("type:plain", "A-1")
    };
    let second = under(&shop, &[key("idempotency:k", "fresh"), again]);
    let second_id = second.order.id();
    let third = under(&shop, &[key("idempotency:k", "fresh")]);
    let third_id = third.order.id();
    let mut answers = Vec::new();
    for ticket in store.commit(vec![first, second, third]) {
        answers.push(ticket.await);
    }
    assert!(answers[0].is_ok(), "the first is accepted: {:?}", answers[0]);
    match &answers[1] {
        Err(CommitError::KeyTaken {
            scope,
            key,
            order,
            fingerprint,
        }) => {
            assert_eq!(
                (scope.as_str(), key.as_str()),
                ("type:plain", "A-1"),
                "it is told which key"
            );
            assert_eq!(
                (*order, *fingerprint),
                (first_id, [7; 32]),
                "it is told what the key leads to"
            );
        }
        other => panic!("the key is taken: {other:?}"),
    }
    assert!(
        answers[2].is_ok(),
        "the second order's other key stays free: {:?}",
        answers[2]
    );
    assert!(
        store.order(second_id).await.unwrap().is_none(),
        "the second order was not made"
    );
    assert_eq!(
        store.key("idempotency:k", "fresh").await.unwrap().map(|found| found.0),
        Some(third_id)
    );
}

/// An expired key leads nowhere, and can be claimed for another order.
pub async fn an_expired_key_is_free(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let soon = store.now() + Duration::from_millis(20);
    let expiring = |at| KeyClaim {
        expires_at: Some(at),
        ..key("idempotency:k", "K")
    };
    let first = under(&shop, &[expiring(soon)]);
    let first_id = first.order.id();
    shop.put(first).await.expect("the key is free");
    pass(&*store, soon).await;
    assert_eq!(
        store.key("idempotency:k", "K").await.unwrap(),
        None,
        "an expired key leads nowhere"
    );
    let later = store.now() + Duration::from_secs(3600);
    let second = under(&shop, &[expiring(later)]);
    let second_id = second.order.id();
    shop.put(second).await.expect("an expired key is free");
    assert_eq!(
        store.key("idempotency:k", "K").await.unwrap().map(|found| found.0),
        Some(second_id)
    );
    let answer = shop.put(under(&shop, &[expiring(later)])).await;
    assert!(
        matches!(answer, Err(CommitError::KeyTaken { order, .. }) if order == second_id),
        "taken again: {answer:?}"
    );
    shop.order(first_id).await;
}

/// Of many who submit under one key at once, one order is made, and all others are told of it.
pub async fn one_of_many_submitters_gets_the_key(store: Arc<dyn Store>) {
    for round in 0..5 {
        let name = format!("K-{round}");
        let mut submitters = Vec::new();
        for _ in 0..8 {
            let shop = Shop::new(&store, plain());
            let commit = under(&shop, &[key("type:plain", &name)]);
            submitters.push(tokio::spawn(async move {
                let id = commit.order.id();
                (id, shop.put(commit).await)
            }));
        }
        let mut made: Vec<OrderId> = Vec::new();
        let mut told = Vec::new();
        for submitter in submitters {
            match submitter.await.expect("the submitter is answered") {
                (id, Ok(_)) => made.push(id),
                (_, Err(CommitError::KeyTaken { order, .. })) => told.push(order),
                (_, Err(error)) => panic!("the key is free or taken: {error:?}"),
            }
        }
        assert_eq!(made.len(), 1, "one order was made under the key");
        assert!(told.iter().all(|order| *order == made[0]), "the others were told of it");
    }
}
