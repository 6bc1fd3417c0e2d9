//! Leases and fencing: leases only let work be taken over; that the old holder's result does not count is the token's.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::Token;
use comanda_model::decision::Command;
use uuid::Uuid;

use super::sample::{LONG, SHORT, Shop, done, pass, plain};
use crate::{Claim, CommitError, Expect, Store};

async fn claim_briefly(shop: &Shop) -> Claim {
    let mut claims = shop
        .store
        .claim(10, SHORT)
        .await
        .expect("due orders are claimed")
        .claims;
    assert_eq!(claims.len(), 1, "one order is due");
    let claim = claims.remove(0);
    pass(&*shop.store, claim.lease_until).await;
    claim
}

/// A commit that ends the claim makes its token stale, for results and renewals.
pub async fn an_ended_claim_is_stale(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let claim = shop.claim_one().await;
    shop.work(&claim, done(None)).await.expect("the result counts once");
    let answer = shop.work(&claim, done(None)).await;
    assert!(
        matches!(answer, Err(CommitError::TokenStale)),
        "it does not count twice: {answer:?}"
    );
    let renewed = store.renew(&claim.token, LONG).await;
    assert!(
        matches!(renewed, Err(CommitError::TokenStale)),
        "nor can it be renewed: {renewed:?}"
    );
    assert_eq!(
        store.attempts(id, 0, 10).await.unwrap().len(),
        1,
        "one attempt is recorded"
    );
    let claim = shop.claim_one().await;
    shop.command(
        id,
        Command::Cancel {
            reason: None,
            in_flight: false,
            begun: false,
        },
    )
    .await;
    let mut late = shop.editing(&claim.order, "{}");
    late.expect = Expect::At {
        version: shop.order(id).await.head.version,
        token: Some(claim.token),
    };
    let answer = shop.put(late).await;
    assert!(
        matches!(answer, Err(CommitError::TokenStale)),
        "a cancel fences the attempt: {answer:?}"
    );
}

/// A token that differs in anything is not the one that holds the order.
pub async fn a_foreign_token_is_stale(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let unclaimed = shop
        .put(shop.working(&shop.order(id).await, Some(token_of(id)), done(None)))
        .await;
    assert!(
        matches!(unclaimed, Err(CommitError::TokenStale)),
        "nobody holds the order: {unclaimed:?}"
    );
    let held = shop.claim_one().await.token;
    let foreign = [
        Token {
            secret: Uuid::new_v4(),
            ..held
        },
        Token {
            attempt: held.attempt + 1,
            ..held
        },
        Token {
            visit: held.visit + 1,
            ..held
        },
    ];
    for token in foreign {
        let answer = shop
            .put(shop.working(&shop.order(id).await, Some(token), done(None)))
            .await;
        assert!(
            matches!(answer, Err(CommitError::TokenStale)),
            "another token does not count: {answer:?}"
        );
        assert!(
            matches!(store.renew(&token, LONG).await, Err(CommitError::TokenStale)),
            "nor is it renewed"
        );
        store.release(&[token]).await.expect("a stale token is passed over");
    }
    assert_eq!(
        shop.stored(id).await.claim.map(|claim| claim.0),
        Some(held),
        "the holder still holds it"
    );
}

fn token_of(order: comanda_model::OrderId) -> Token {
    Token {
        order,
        visit: 1,
        attempt: 1,
        secret: Uuid::new_v4(),
    }
}

/// A stale token is told before a version that has moved: a worker that lost its claim must not decide again. With
/// its token valid, it must.
pub async fn the_token_is_checked_before_the_version(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let claim = shop.claim_one().await;
    let old = shop.order(id).await;
    shop.put(shop.editing(&old, r#"{"note":1}"#))
        .await
        .expect("the edit is applied");
    let answer = shop.put(shop.working(&old, Some(token_of(id)), done(None))).await;
    assert!(
        matches!(answer, Err(CommitError::TokenStale)),
        "the token is looked at first: {answer:?}"
    );
    let answer = shop.put(shop.working(&old, Some(claim.token), done(None))).await;
    assert!(
        matches!(answer, Err(CommitError::VersionMoved { actual: 2 })),
        "then the version: {answer:?}"
    );
    shop.work(&claim, done(None))
        .await
        .expect("decided again, the result counts");
    let order = shop.order(id).await;
    assert_eq!(order.data.as_str(), r#"{"note":1}"#, "and the edit is kept");
}

/// A released order can be claimed at once, under another token; the old one is stale.
pub async fn a_released_order_can_be_claimed(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let first = shop.claim_one().await;
    store
        .release(&[token_of(id), first.token])
        .await
        .expect("claims are given back");
    let answer = shop.work(&first, done(None)).await;
    assert!(
        matches!(answer, Err(CommitError::TokenStale)),
        "a released claim is over: {answer:?}"
    );
    let second = shop.claim_one().await;
    assert_ne!(first.token.secret, second.token.secret, "no token is given twice");
    store
        .release(&[first.token])
        .await
        .expect("a stale token is passed over");
    shop.work(&second, done(None))
        .await
        .expect("the second claim is still held");
}

/// When a lease has ended, the order can be claimed by another; then the first holder's token is stale.
pub async fn an_expired_claim_can_be_taken(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    shop.accept("{}").await;
    let first = claim_briefly(&shop).await;
    let second = shop.claim_one().await;
    assert_eq!(second.token.order, first.token.order, "the order is claimed again");
    assert_ne!(first.token.secret, second.token.secret, "under another token");
    let answer = shop.work(&first, done(None)).await;
    assert!(
        matches!(answer, Err(CommitError::TokenStale)),
        "the first holder is fenced: {answer:?}"
    );
    let renewed = store.renew(&first.token, LONG).await;
    assert!(
        matches!(renewed, Err(CommitError::TokenStale)),
        "and cannot renew: {renewed:?}"
    );
    shop.work(&second, done(None))
        .await
        .expect("the second holder's result counts");
}

/// A result that comes after the lease has ended counts as long as nobody has taken the order over.
pub async fn an_expired_claim_that_nobody_took_counts(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let claim = claim_briefly(&shop).await;
    shop.work(&claim, done(None)).await.expect("the late result counts");
    assert_eq!(shop.order(id).await.head.version, 2);
}

/// A renewed claim holds until its new end. An expired one that nobody took can still be renewed.
pub async fn a_renewed_claim_holds(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    shop.accept("{}").await;
    let claim = claim_briefly(&shop).await;
    let before = store.now();
    let until = store.renew(&claim.token, LONG).await.expect("nobody has taken it");
    assert!(
        until >= before + LONG && until <= store.now() + LONG,
        "it ends a lease from now: {until}"
    );
    pass(&*store, store.now() + Duration::from_millis(3)).await;
    assert!(shop.claim(10).await.is_empty(), "nobody else is given it");
    shop.work(&claim, done(None)).await.expect("its result counts");
}
