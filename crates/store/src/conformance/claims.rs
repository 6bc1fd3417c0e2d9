//! Claims: what is due is given to one worker at a time, earliest first, and a committer can keep what it makes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use comanda_model::decision::Command;
use comanda_model::{Order, OrderId, Token};
use parking_lot::Mutex;
use uuid::Uuid;

use super::sample::{LONG, Shop, done, failed, pass, plain};
use crate::{ClaimMove, CommitError, Store};

/// A token for an order's next work, as a committer makes one.
pub(super) fn token(order: &Order) -> Token {
    let work = order.head.work.as_ref();
    Token {
        order: order.id(),
        visit: work.map_or(0, |work| work.visit),
        attempt: work.map_or(0, |work| work.attempt),
        secret: Uuid::new_v4(),
    }
}

/// However many claim at once, each due order goes to one of them, whole and as it stands.
pub async fn each_due_order_is_claimed_once(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let tickets = store.commit((0..60).map(|_| shop.accepting(r#"{"n":1.0}"#)).collect());
    for ticket in tickets {
        ticket.await.expect("the order is accepted");
    }
    let claimed = Arc::new(Mutex::new(Vec::new()));
    let mut claimers = Vec::new();
    for _ in 0..8 {
        let (shop, claimed) = (shop.clone(), claimed.clone());
        claimers.push(tokio::spawn(async move {
            // An empty answer may come while others hold reservations; the orders are counted until all are out.
            while claimed.lock().len() < 60 {
                let claims = shop.claim(7).await;
                assert!(claims.len() <= 7, "no more than was asked for");
                for claim in claims {
                    assert_eq!(claim.order.data.as_str(), r#"{"n":1.0}"#, "the order is whole");
                    assert_eq!(
                        (claim.token.visit, claim.token.attempt),
                        (1, 1),
                        "the token names visit and attempt"
                    );
                    assert_eq!(claim.token.order, claim.order.id(), "the token names the order");
                    claimed.lock().push(claim.token.order);
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    for claimer in claimers {
        claimer.await.expect("the claimer succeeds");
    }
    let claimed = claimed.lock();
    let different: HashSet<&OrderId> = claimed.iter().collect();
    assert_eq!(
        (claimed.len(), different.len()),
        (60, 60),
        "each order was claimed once"
    );
}

/// What has been due for longest is claimed first, whenever it was accepted.
pub async fn what_is_due_first_is_claimed_first(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let start = store.now() + Duration::from_millis(30);
    let mut commits = Vec::new();
    let mut expected = Vec::new();
    for offset in [3_u64, 1, 4, 0, 2] {
        let commit = shop.accepting_at("{}", Some(start + Duration::from_millis(offset)));
        let due_at = commit.order.head.due_at(true).expect("the order is due some time");
        expected.push((due_at, commit.order.id()));
        commits.push(commit);
    }
    for ticket in store.commit(commits) {
        ticket.await.expect("the order is accepted");
    }
    expected.sort();
    pass(&*store, expected[4].0).await;
    let mut claimed = Vec::new();
    for _ in 0..3 {
        claimed.extend(shop.claim(2).await.into_iter().map(|claim| claim.token.order));
    }
    assert_eq!(
        claimed,
        expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>(),
        "in the order in which they were due"
    );
}

/// What is due only later is not claimed, and it is told when it will be.
pub async fn what_is_due_later_is_not_claimed(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let nothing = store.claim(10, LONG).await.unwrap();
    assert!(
        nothing.claims.is_empty() && nothing.next_due_at.is_none(),
        "an empty store is never due: {nothing:?}"
    );
    let due_at = store.now() + Duration::from_millis(60);
    let later = shop.accepting_at("{}", Some(due_at + Duration::from_secs(9)));
    shop.put(later).await.expect("the later order is accepted");
    let commit = shop.accepting_at("{}", Some(due_at));
    let id = commit.order.id();
    shop.put(commit).await.expect("the order is accepted");
    let before = store.claim(10, LONG).await.unwrap();
    if store.now() < due_at {
        assert!(before.claims.is_empty(), "nothing is due yet");
        assert_eq!(before.next_due_at, Some(due_at), "it is told when the first is");
        pass(&*store, due_at).await;
        assert_eq!(shop.claim_one().await.token.order, id, "it is claimed when it is due");
    } else {
        // Slower than the wait: the claim may have come before or after.
        assert!(before.claims.len() <= 1, "only one is due");
    }
    let after = store.claim(10, LONG).await.unwrap();
    assert!(after.claims.is_empty(), "the other is due later");
    let next = after.next_due_at.expect("the other is due some time");
    assert!(
        next <= due_at + Duration::from_secs(9) && next > store.now(),
        "it is told when the other is: {next}"
    );
}

/// When more is due than was asked for, the next due time is past, so that the claimer comes back at once.
pub async fn more_than_was_asked_for_is_told(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    for _ in 0..3 {
        shop.accept("{}").await;
    }
    let claims = store.claim(2, LONG).await.unwrap();
    assert_eq!(claims.claims.len(), 2, "as many as were asked for");
    assert!(
        claims.next_due_at.is_some_and(|next| next <= store.now()),
        "more is due: {:?}",
        claims.next_due_at
    );
    let claims = store.claim(2, LONG).await.unwrap();
    assert_eq!(claims.claims.len(), 1, "the last");
    assert!(
        claims.next_due_at.is_none_or(|next| next > store.now()),
        "no more is due: {:?}",
        claims.next_due_at
    );
}

/// Claiming, renewing and releasing change nothing of the order, and a claim is shown while it is held.
pub async fn a_claim_changes_no_version(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let before = shop.order(id).await;
    let claim = shop.claim_one().await;
    assert_eq!(*claim.order, before, "the claim has the order as it stands");
    let stored = shop.stored(id).await;
    assert_eq!(
        stored.claim,
        Some((claim.token, claim.lease_until)),
        "the claim is shown"
    );
    let until = store.renew(&claim.token, LONG * 2).await.expect("the claim is held");
    assert_eq!(
        shop.stored(id).await.claim,
        Some((claim.token, until)),
        "its new end is shown"
    );
    store.release(&[claim.token]).await.unwrap();
    let stored = shop.stored(id).await;
    assert!(stored.claim.is_none(), "a released claim is not shown");
    assert_eq!(*stored.order, before, "the order is as before");
    assert_eq!(store.history(id, 0, 10).await.unwrap().len(), 1, "nothing has happened");
}

/// A commit can take the next work of its order: nobody else is given it, and its token counts. An edit that comes
/// meanwhile leaves the claim as it is.
pub async fn a_committer_takes_the_next_work(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let mut accepting = shop.accepting("{}");
    let id = accepting.order.id();
    let first = token(&accepting.order);
    accepting.claim = ClaimMove::Take {
        token: first,
        lease: LONG,
    };
    assert!(
        shop.put(accepting).await.expect("the order is accepted").claimed,
        "the claim is granted"
    );
    assert!(shop.claim(10).await.is_empty(), "nobody else is given it");

    shop.put(shop.editing(&shop.order(id).await, r#"{"note":1}"#))
        .await
        .expect("the edit is applied");
    assert_eq!(
        shop.stored(id).await.claim.map(|claim| claim.0),
        Some(first),
        "an edit leaves the claim"
    );

    let mut working = shop.working(&shop.order(id).await, Some(first), done(None));
    let second = token(&working.order);
    working.claim = ClaimMove::Take {
        token: second,
        lease: LONG,
    };
    assert!(
        shop.put(working).await.expect("the first token counts").claimed,
        "the next claim is granted"
    );
    let charging = shop.working(&shop.order(id).await, Some(first), done(None));
    let answer = shop.put(charging).await;
    assert!(
        matches!(answer, Err(CommitError::TokenStale)),
        "the first token counts no more: {answer:?}"
    );
    let charging = shop.working(&shop.order(id).await, Some(second), done(None));
    shop.put(charging).await.expect("the second token counts");
}

/// Work that is due later, or not at all, cannot be taken.
pub async fn a_take_of_nothing_due_is_not_granted(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let later = store.now() + LONG;
    for mut commit in [
        shop.accepting_at("{}", Some(later)),
        shop.accepting(r#"{"status":"waiting"}"#),
    ] {
        let id = commit.order.id();
        let token = token(&commit.order);
        commit.claim = ClaimMove::Take { token, lease: LONG };
        assert!(
            !shop.put(commit).await.expect("the order is accepted").claimed,
            "there is nothing to take"
        );
        assert!(shop.stored(id).await.claim.is_none(), "it is claimed by nobody");
        let renewed = store.renew(&token, LONG).await;
        assert!(
            matches!(renewed, Err(CommitError::TokenStale)),
            "the token is nobody's: {renewed:?}"
        );
    }
}

/// A commit that takes the order's work ends the claim of whoever held it, granted or not.
pub async fn a_take_ends_any_other_claim(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let held = shop.claim_one().await;
    let mut edit = shop.editing(&shop.order(id).await, r#"{"note":1}"#);
    let taken = token(&edit.order);
    edit.claim = ClaimMove::Take {
        token: taken,
        lease: LONG,
    };
    assert!(
        shop.put(edit).await.expect("the edit is applied").claimed,
        "the work is taken"
    );
    let answer = shop.work(&held, done(None)).await;
    assert!(
        matches!(answer, Err(CommitError::TokenStale)),
        "the old holder is fenced: {answer:?}"
    );
    let mut cancel = shop.commanding(
        &shop.order(id).await,
        Command::Cancel {
            reason: None,
            in_flight: false,
            begun: false,
        },
    );
    cancel.claim = ClaimMove::Take {
        token: token(&cancel.order),
        lease: LONG,
    };
    assert!(
        !shop.put(cancel).await.expect("the cancel is applied").claimed,
        "a final order has no work"
    );
    assert!(shop.stored(id).await.claim.is_none(), "yet the claim has ended");
    assert!(
        matches!(store.renew(&taken, LONG).await, Err(CommitError::TokenStale)),
        "its token is stale"
    );
}

/// A dead letter is claimed by nobody until it is redriven.
pub async fn a_dead_letter_is_not_due(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let claim = shop.claim_one().await;
    shop.work(&claim, failed("down"))
        .await
        .expect("the failure is recorded");
    let claim = shop.claim_one().await;
    assert_eq!(
        (claim.token.visit, claim.token.attempt),
        (1, 2),
        "it is the second attempt"
    );
    shop.work(&claim, failed("down"))
        .await
        .expect("the failure is recorded");
    assert!(shop.order(id).await.head.dead.is_some(), "the step is exhausted");
    let claims = store.claim(10, LONG).await.unwrap();
    assert!(
        claims.claims.is_empty() && claims.next_due_at.is_none(),
        "a dead letter is never due: {claims:?}"
    );
    let redrive = Command::Redrive {
        from: comanda_model::decision::RedriveFrom::FailedStep,
        edit: None,
    };
    shop.command(id, redrive).await;
    assert_eq!(shop.claim_one().await.token.attempt, 3, "redriven, it is due");
}
