//! Counters, causes, live versions and types: kept with each commit, and equal to what a count would find.

use std::collections::BTreeMap;
use std::sync::Arc;

use comanda_model::decision::{Command, RedriveFrom};
use comanda_model::order_type::DeadLetterInLane;
use comanda_model::{OrderId, Phase, TypeHash};

use super::sample::{LONG, Shop, Walk, done, failed, laned, named, plain};
use crate::{ListQuery, Store, TypeSource};

async fn check(store: &dyn Store) {
    let (mut counts, mut causes, mut live) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut query = ListQuery {
        limit: 500,
        ..ListQuery::default()
    };
    loop {
        let page = store.list(&query).await.expect("orders can be listed");
        for stored in page.orders {
            let (order_type, head) = (stored.order.accepted.order_type.to_string(), &stored.order.head);
            *counts
                .entry((order_type.clone(), head.status.to_string(), head.phase.name()))
                .or_insert(0) += 1;
            if let Some(dead) = &head.dead {
                *causes.entry((order_type, dead.cause.clone())).or_insert(0) += 1;
            }
            if head.phase != Phase::Final {
                *live.entry(head.type_hash).or_insert(0) += 1;
            }
        }
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    let counters = store.counters().await.expect("counters can be read");
    assert!(
        counters.as_of.is_some_and(|as_of| as_of <= store.now()),
        "the counters say of when they are"
    );
    let told: BTreeMap<_, u64> = counters
        .counts
        .into_iter()
        .map(|count| ((count.order_type, count.status, count.phase.name()), count.count))
        .collect();
    assert_eq!(
        told, counts,
        "the counters tell how many orders stand where, and nothing of none"
    );
    let told: BTreeMap<_, u64> = store
        .causes(100)
        .await
        .expect("causes can be read")
        .into_iter()
        .map(|cause| ((cause.order_type, cause.cause), cause.count))
        .collect();
    assert_eq!(told, causes, "the causes tell what dead letters died of");
    let told: BTreeMap<TypeHash, u64> = store
        .live_types()
        .await
        .expect("live versions can be read")
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(told, live, "the live versions are those of orders that are not final");
}

/// After any sequence of acceptances, work, failures and commands, everything that is counted is as a count finds it.
pub async fn counts_are_true_after_a_random_walk(store: Arc<dyn Store>) {
    let shops = [
        Shop::new(&store, plain()),
        Shop::new(&store, named("other")),
        Shop::new(&store, laned(DeadLetterInLane::Leave)),
    ];
    check(&*store).await;
    let mut walk = Walk(0x9E37_79B9_7F4A_7C15);
    let mut orders: Vec<(usize, OrderId)> = Vec::new();
    for turn in 0..400 {
        if orders.len() < 3 || walk.below(4) == 0 {
            let shop = walk.below(shops.len());
            let data = [r#"{"customer":"ann"}"#, r#"{"customer":"bob","status":"waiting"}"#][walk.below(2)];
            orders.push((shop, shops[shop].accept(data).await));
            continue;
        }
        let (shop, id) = orders[walk.below(orders.len())];
        let shop = &shops[shop];
        let order = shop.order(id).await;
        let due = order.head.due_at(true).is_some_and(|due_at| due_at <= store.now());
        let commit = match (order.head.phase, walk.below(6)) {
            (Phase::Final, _) => continue,
            (Phase::Dead, 0) => shop.commanding(
                &order,
                Command::Discard {
                    reason: "given up".to_owned(),
                },
            ),
            (Phase::Dead, 1) => shop.commanding(
                &order,
                Command::Redrive {
                    from: RedriveFrom::Start,
                    edit: None,
                },
            ),
            (Phase::Dead, 2) if !order.head.dead.as_ref().is_some_and(|dead| dead.undo_failed) => shop.commanding(
                &order,
                Command::Redrive {
                    from: RedriveFrom::FailedStep,
                    edit: None,
                },
            ),
            (_, 3) => shop.editing(&order, order.data.as_str()),
            (Phase::Active, 4) => shop.commanding(
                &order,
                Command::Cancel {
                    reason: None,
                    in_flight: false,
                    begun: false,
                },
            ),
            (Phase::Dead, _) => continue,
            _ if due && walk.below(2) == 0 => shop.working(&order, None, done(Some("1"))),
            _ if due => shop.working(&order, None, failed(["down", "no such card"][walk.below(2)])),
            _ => continue,
        };
        shop.put(commit).await.expect("nobody else changes the order");
        if turn % 50 == 0 {
            check(&*store).await;
        }
    }
    check(&*store).await;
}

/// Causes come most frequent first, per type, and are gone when nothing is dead of them any more.
pub async fn causes_come_and_go(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let other = Shop::new(&store, named("other"));
    assert!(store.causes(10).await.unwrap().is_empty(), "nothing has died");
    let one = shop.accept_dead("{}", "no stock of item 17").await;
    let mut down = Vec::new();
    for _ in 0..3 {
        down.push(shop.accept_dead("{}", "connection refused").await);
    }
    for _ in 0..2 {
        other.accept_dead("{}", "connection refused").await;
    }
    let causes = store.causes(10).await.unwrap();
    let told: Vec<(&str, u64)> = causes
        .iter()
        .map(|cause| (cause.order_type.as_str(), cause.count))
        .collect();
    assert_eq!(
        told,
        [("plain", 3), ("other", 2), ("plain", 1)],
        "most frequent first, per type"
    );
    assert_eq!(
        causes[0].cause,
        shop.order(down[0]).await.head.dead.expect("it is dead").cause
    );
    assert!(
        causes[0].example.is_none_or(|example| down.contains(&example)),
        "an example is one of them"
    );
    assert_eq!(store.causes(2).await.unwrap().len(), 2, "no more than was asked for");
    shop.command(
        one,
        Command::Redrive {
            from: RedriveFrom::FailedStep,
            edit: None,
        },
    )
    .await;
    shop.command(
        down[0],
        Command::Discard {
            reason: "given up".to_owned(),
        },
    )
    .await;
    let causes = store.causes(10).await.unwrap();
    let mut told: Vec<(&str, u64)> = causes
        .iter()
        .map(|cause| (cause.order_type.as_str(), cause.count))
        .collect();
    told.sort();
    assert_eq!(
        told,
        [("other", 2), ("plain", 2)],
        "a cause that nothing is dead of is gone"
    );
}

/// The counters tell since when work has been due.
pub async fn the_oldest_due_is_told(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let later = store.now() + LONG;
    shop.put(shop.accepting_at("{}", Some(later)))
        .await
        .expect("the order is accepted");
    assert_eq!(
        store.counters().await.unwrap().oldest_due_at,
        None,
        "nothing is overdue"
    );
    let id = shop.accept("{}").await;
    let due_at = shop.order(id).await.head.due_at(true);
    super::sample::pass(&*store, due_at.expect("its first step is due")).await;
    shop.accept("{}").await;
    assert_eq!(
        store.counters().await.unwrap().oldest_due_at,
        due_at,
        "the first one has waited longest"
    );
}

/// A type's source is kept under its hash; keeping it again changes nothing.
pub async fn a_type_is_kept_once(store: Arc<dyn Store>) {
    let source = |name: &str, source: &str| TypeSource {
        hash: TypeHash::of(source.as_bytes()),
        name: name.to_owned(),
        source: source.to_owned(),
    };
    let (one, two) = (
        source("sale", "name = \"sale\" # ü"),
        source("sale", "name = \"sale\" # 2"),
    );
    assert_eq!(
        store.type_source(one.hash).await.unwrap(),
        None,
        "no type before it is kept"
    );
    for source in [&one, &two, &one] {
        store.put_type(source).await.expect("the type is kept");
    }
    assert_eq!(
        store.type_source(one.hash).await.unwrap(),
        Some(one),
        "it reads back to the letter"
    );
    assert_eq!(
        store.type_source(two.hash).await.unwrap(),
        Some(two),
        "each version is kept"
    );
    assert!(
        store.live_types().await.unwrap().iter().all(|(_, count)| *count == 0),
        "no order lives on them yet"
    );
}
