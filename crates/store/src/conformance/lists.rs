//! Lists: newest first, by any filter, in pages.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use comanda_model::order_type::DeadLetterInLane;
use comanda_model::{OrderId, Phase};

use super::sample::{Shop, laned, named, pass, plain};
use crate::{ListQuery, Store};

async fn listed(store: &dyn Store, query: ListQuery) -> Vec<OrderId> {
    let mut query = ListQuery {
        limit: if query.limit == 0 { 100 } else { query.limit },
        ..query
    };
    let mut ids = Vec::new();
    loop {
        let page = store.list(&query).await.expect("orders can be listed");
        assert!(page.orders.len() <= query.limit, "no more than was asked for");
        ids.extend(page.orders.iter().map(|stored| stored.order.id()));
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return ids,
        }
        tokio::task::yield_now().await;
    }
}

/// Each filter lists the orders that it names, newest first, and filters add up.
pub async fn each_filter_lists_its_orders(store: Arc<dyn Store>) {
    let one = Shop::new(&store, plain());
    let other = Shop::new(&store, named("other"));
    let lanes = Shop::new(&store, laned(DeadLetterInLane::Park));
    let a = one.accept(r#"{"customer":"ann"}"#).await;
    let b = one.accept(r#"{"customer":"bob","status":"waiting"}"#).await;
    let c = other.accept(r#"{"customer":"ann","status":"waiting"}"#).await;
    pass(&*store, store.now()).await;
    let middle = store.now();
    let d = other.accept_dead(r#"{"customer":"bob"}"#, "down").await;
    let e = lanes.accept(r#"{"customer":"ann"}"#).await;
    let f = one.accept(r#"{"customer":"ann"}"#).await;
    one.cancel(f).await;
    let cause = one.order(d).await.head.dead.expect("it is a dead letter").cause;
    let text = |text: &str| Some(text.to_owned());
    let any = ListQuery::default;
    let cases = [
        ("all", any(), vec![f, e, d, c, b, a]),
        (
            "type",
            ListQuery {
                order_type: text("plain"),
                ..any()
            },
            vec![f, b, a],
        ),
        (
            "unknown type",
            ListQuery {
                order_type: text("none"),
                ..any()
            },
            vec![],
        ),
        (
            "status",
            ListQuery {
                status: text("waiting"),
                ..any()
            },
            vec![c, b],
        ),
        (
            "customer",
            ListQuery {
                customer: text("ann"),
                ..any()
            },
            vec![f, e, c, a],
        ),
        (
            "unknown customer",
            ListQuery {
                customer: text("eve"),
                ..any()
            },
            vec![],
        ),
        (
            "group",
            ListQuery {
                group: text("ann"),
                ..any()
            },
            vec![e],
        ),
        (
            "phase dead",
            ListQuery {
                phase: Some(Phase::Dead),
                ..any()
            },
            vec![d],
        ),
        (
            "phase active",
            ListQuery {
                phase: Some(Phase::Active),
                ..any()
            },
            vec![e, c, b, a],
        ),
        (
            "phase final",
            ListQuery {
                phase: Some(Phase::Final),
                ..any()
            },
            vec![f],
        ),
        (
            "cause",
            ListQuery {
                cause: Some(cause.clone()),
                ..any()
            },
            vec![d],
        ),
        (
            "unknown cause",
            ListQuery {
                cause: text("none"),
                ..any()
            },
            vec![],
        ),
        (
            "cause and type",
            ListQuery {
                cause: Some(cause),
                order_type: text("plain"),
                ..any()
            },
            vec![],
        ),
        (
            "accepted after",
            ListQuery {
                accepted_after: Some(middle),
                ..any()
            },
            vec![f, e, d],
        ),
        (
            "accepted before",
            ListQuery {
                accepted_before: Some(middle),
                ..any()
            },
            vec![c, b, a],
        ),
        (
            "type, status and customer",
            ListQuery {
                order_type: text("plain"),
                status: text("open"),
                customer: text("ann"),
                ..any()
            },
            vec![a],
        ),
        (
            "customer, phase and time",
            ListQuery {
                customer: text("ann"),
                phase: Some(Phase::Active),
                accepted_before: Some(middle),
                ..any()
            },
            vec![c, a],
        ),
        (
            "group and status",
            ListQuery {
                group: text("ann"),
                status: text("waiting"),
                ..any()
            },
            vec![],
        ),
    ];
    for (name, query, expected) in cases {
        for limit in [1, 2, 100] {
            let ids = listed(&*store, ListQuery { limit, ..query.clone() }).await;
            assert_eq!(ids, expected, "by {name}, in pages of {limit}");
        }
    }
    // What an order's moves change in the lists.
    one.cancel(b).await;
    assert_eq!(
        listed(
            &*store,
            ListQuery {
                status: text("waiting"),
                ..any()
            }
        )
        .await,
        [c],
        "it has left its status"
    );
    let page = store
        .list(&ListQuery {
            group: text("ann"),
            limit: 1,
            ..any()
        })
        .await
        .expect("orders can be listed");
    assert_eq!(*page.orders[0].order, one.order(e).await, "a listed order is whole");
    assert_eq!(page.orders[0].place, one.stored(e).await.place, "with its place");
}

/// Whoever follows the pages gets every order once that was there at the beginning, though new ones come and others move.
pub async fn pages_hold_every_order_once(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let mut there = Vec::new();
    for _ in 0..30 {
        there.push(shop.accept("{}").await);
    }
    let mut query = ListQuery {
        limit: 4,
        ..ListQuery::default()
    };
    let mut seen = Vec::new();
    let mut pages = 0;
    loop {
        let page = store.list(&query).await.expect("orders can be listed");
        seen.extend(page.orders.iter().map(|stored| stored.order.id()));
        shop.accept("{}").await;
        shop.cancel(there[pages]).await;
        pages += 1;
        assert!(pages <= 30, "the pages end");
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    let different: HashSet<OrderId> = seen.iter().copied().collect();
    assert_eq!(different.len(), seen.len(), "no order comes twice");
    there.reverse();
    assert_eq!(seen, there, "newest first, without those that came later");
    let late = ListQuery {
        accepted_after: Some(store.now() + Duration::from_secs(60)),
        ..query
    };
    assert!(listed(&*store, late).await.is_empty(), "none is accepted in the future");
}
