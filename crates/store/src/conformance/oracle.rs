//! A store beside the in-memory one: given the same commits and claims, however they are batched, both answer alike and
//! end up alike. The checks of single promises say what is wrong; this one finds what they did not think of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use comanda_model::decision::{Command, RedriveFrom};
use comanda_model::order_type::DeadLetterInLane;
use comanda_model::{CommitId, Order, OrderId, OrderType, Phase, Token};
use uuid::Uuid;

use super::sample::{LONG, Shop, Walk, done, failed, key, laned, laned_by_status, named, pass, plain};
use crate::memory::MemoryStore;
use crate::{ClaimMove, Commit, Expect, FeedStart, ListQuery, Place, Store};

/// How many batches each walk takes.
const BATCHES: usize = 400;

/// The two stores, and what the walk knows of the orders in them.
struct Pair {
    store: Arc<dyn Store>,
    oracle: Arc<dyn Store>,
    shops: Vec<Shop>,
    walk: Walk,
    orders: Vec<(usize, OrderId)>,
    /// What holds each claimed order: in the store, and in the oracle.
    held: HashMap<OrderId, (Token, Token)>,
}

/// A commit for the store, and the same for the oracle, where tokens differ.
type Twins = (Commit, Commit);

impl Pair {
    fn new(store: &Arc<dyn Store>, seed: u64) -> Self {
        // One clock, so that nothing is due in one store and not yet in the other.
        let clock = store.clone();
        let oracle: Arc<dyn Store> = Arc::new(MemoryStore::with_clock(Arc::new(move || clock.now())));
        let types: [OrderType; 5] = [
            plain(),
            named("other"),
            laned(DeadLetterInLane::Park),
            OrderType {
                name: "leaving".into(),
                ..laned(DeadLetterInLane::Leave)
            },
            laned_by_status(),
        ];
        let shops = types
            .into_iter()
            .map(|order_type| Shop::new(store, order_type))
            .collect();
        Self {
            store: store.clone(),
            oracle,
            shops,
            walk: Walk(seed),
            orders: Vec::new(),
            held: HashMap::new(),
        }
    }

    fn accepting(&mut self) -> (usize, Twins) {
        let shop = self.walk.below(self.shops.len());
        let data = [
            r#"{"customer":"ann"}"#,
            r#"{"customer":"bob"}"#,
            r#"{"customer":"ann","status":"waiting"}"#,
        ];
        let later = (self.walk.below(8) == 0).then(|| self.store.now() + LONG);
        let mut commit = self.shops[shop].accepting_at(data[self.walk.below(3)], later);
        if self.walk.below(3) == 0 {
            // From few names, so that some are taken.
            commit.keys.push(key("type:plain", &self.walk.below(40).to_string()));
        }
        (shop, (commit.clone(), commit))
    }

    /// Some change of an order, as it stands after what is already in the batch.
    fn changing(&mut self, shop: usize, order: &Order) -> Option<Twins> {
        let shop = &self.shops[shop];
        let due = order.head.due_at(true).is_some_and(|due_at| due_at <= self.store.now());
        let redrive = |from| Command::Redrive { from, edit: None };
        let undo_failed = order.head.dead.as_ref().is_some_and(|dead| dead.undo_failed);
        let mut commit = match (order.head.phase, self.walk.below(8)) {
            (Phase::Final, _) => return None,
            (Phase::Dead, 0) => shop.commanding(
                order,
                Command::Discard {
                    reason: "given up".to_owned(),
                },
            ),
            (Phase::Dead, 1) => shop.commanding(order, redrive(RedriveFrom::Start)),
            (Phase::Dead, 2 | 3) if !undo_failed => shop.commanding(order, redrive(RedriveFrom::FailedStep)),
            (_, 4) => shop.editing(order, order.data.as_str()),
            (Phase::Active, 5) => shop.commanding(
                order,
                Command::Cancel {
                    reason: None,
                    in_flight: false,
                    begun: false,
                },
            ),
            (Phase::Dead, _) => return None,
            _ if due && self.walk.below(3) > 0 => shop.working(order, None, done(Some("1"))),
            _ if due => shop.working(order, None, failed(["down", "no such card"][self.walk.below(2)])),
            _ => return None,
        };
        if self.walk.below(3) == 0 {
            let token = super::claims::token(&commit.order);
            commit.claim = ClaimMove::Take { token, lease: LONG };
        }
        let version = order.head.version - u64::from(self.walk.below(12) == 0);
        let held = self.held.get(&order.id()).filter(|_| self.walk.below(2) == 0).copied();
        let mut twin = commit.clone();
        commit.expect = Expect::At {
            version,
            token: held.map(|held| held.0),
        };
        twin.expect = Expect::At {
            version,
            token: held.map(|held| held.1),
        };
        if held.is_none() && self.walk.below(5) == 0 {
            commit.expect = Expect::Queued { version };
            twin.expect = Expect::Queued { version };
        }
        Some((commit, twin))
    }

    /// An order to change: often one that is claimed, else one of the newest, which may be in the batch already.
    fn pick(&mut self) -> (usize, OrderId) {
        let held = self.orders.iter().filter(|(_, id)| self.held.contains_key(id));
        let held: Vec<(usize, OrderId)> = held.copied().collect();
        if !held.is_empty() && self.walk.below(2) == 0 {
            return held[self.walk.below(held.len())];
        }
        let among = self.orders.len().min(12);
        self.orders[self.orders.len() - 1 - self.walk.below(among)]
    }

    async fn batch(&mut self) {
        let mut twins: Vec<(usize, Twins)> = Vec::new();
        let mut latest: HashMap<OrderId, Arc<Order>> = HashMap::new();
        let mut newcomers: Vec<(usize, OrderId)> = Vec::new();
        // A store may write what belongs to several commits at once; few and many of them must come to the same.
        let most = [8, 8, 40][self.walk.below(3)];
        let new_of_4 = 1 + self.walk.below(3);
        for _ in 0..=self.walk.below(most) {
            if self.orders.len() < 3 || self.walk.below(4) < new_of_4 {
                let accepting = self.accepting();
                let order = &accepting.1.0.order;
                newcomers.push((accepting.0, order.id()));
                latest.insert(order.id(), order.clone());
                twins.push(accepting);
                continue;
            }
            if !twins.is_empty() && self.walk.below(12) == 0 {
                let again = twins[self.walk.below(twins.len())].clone();
                twins.push(again);
                continue;
            }
            let (shop, id) = match newcomers.len() {
                // Those accepted in this very batch are changed in it too, whether or not they are taken.
                1.. if self.walk.below(3) == 0 => newcomers[self.walk.below(newcomers.len())],
                _ => self.pick(),
            };
            let order = match latest.get(&id) {
                Some(order) => order.clone(),
                None => match self.oracle.order(id).await.expect("the oracle can be read") {
                    Some(stored) => stored.order,
                    None => continue,
                },
            };
            if let Some(changed) = self.changing(shop, &order) {
                latest.insert(id, changed.0.order.clone());
                twins.push((shop, changed));
            }
        }
        let (ours, theirs): (Vec<Commit>, Vec<Commit>) = twins.iter().map(|(_, twins)| twins.clone()).unzip();
        let tickets = self.store.commit(ours).into_iter().zip(self.oracle.commit(theirs));
        let mut answered = HashSet::new();
        for ((shop, (commit, _)), (ours, theirs)) in twins.into_iter().zip(tickets) {
            let (mut ours, mut theirs) = (ours.await, theirs.await);
            if !answered.insert(commit.order.head.commit_id) {
                // It stands in this batch twice, and where its events came in the feed need not be known yet.
                for receipt in [&mut ours, &mut theirs].into_iter().flatten() {
                    receipt.position = 0;
                }
            }
            assert_eq!(
                format!("{ours:?}"),
                format!("{theirs:?}"),
                "both stores answer alike to {commit:#?}"
            );
            let Ok(receipt) = ours else { continue };
            let id = commit.order.id();
            if commit.expect == Expect::Absent && !self.orders.contains(&(shop, id)) {
                self.orders.push((shop, id));
            }
            match commit.claim {
                ClaimMove::Keep => {}
                ClaimMove::Take { token, .. } if receipt.claimed => drop(self.held.insert(id, (token, token))),
                ClaimMove::Take { .. } | ClaimMove::End => drop(self.held.remove(&id)),
            }
        }
    }

    async fn claim(&mut self) {
        // What was made due at this very microsecond is due in both stores only after it.
        pass(&*self.store, self.store.now()).await;
        let max = 1 + self.walk.below(4);
        let ours = self
            .store
            .claim(max, LONG)
            .await
            .expect("due orders are claimed")
            .claims;
        let theirs = self
            .oracle
            .claim(max, LONG)
            .await
            .expect("due orders are claimed")
            .claims;
        // Orders that became due in the same microsecond are claimed in the order of acceptance.
        let same = |a: &crate::Claim, b: &crate::Claim| a.token.order == b.token.order && a.order == b.order;
        assert_eq!(ours.len(), theirs.len(), "as many are due in both stores");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!(
                same(ours, theirs),
                "both stores claim the same: {ours:#?} and {theirs:#?}"
            );
            self.held.insert(ours.token.order, (ours.token, theirs.token));
        }
    }

    async fn release(&mut self) {
        let held = self.orders.iter().find_map(|(_, id)| self.held.remove(id));
        let Some((ours, theirs)) = held else { return };
        self.store.release(&[ours]).await.expect("claims are given back");
        self.oracle.release(&[theirs]).await.expect("claims are given back");
    }

    /// Compares everything that can be read.
    async fn compare(&self) {
        for (_, id) in &self.orders {
            let ours = self.store.order(*id).await.expect("the order can be read");
            let theirs = self.oracle.order(*id).await.expect("the oracle can be read");
            let (Some(ours), Some(theirs)) = (&ours, &theirs) else {
                assert_eq!(
                    ours.is_some(),
                    theirs.is_some(),
                    "both stores have order {id}, or neither"
                );
                continue;
            };
            assert_eq!(ours.order, theirs.order, "order {id} is the same in both stores");
            let place = |place| {
                if matches!(place, Place::Behind(_)) {
                    Place::Behind(1)
                } else {
                    place
                }
            };
            assert_eq!(
                place(ours.place),
                place(theirs.place),
                "order {id} stands at the same place"
            );
            assert_eq!(
                ours.claim.is_some(),
                theirs.claim.is_some(),
                "order {id} is claimed in both stores, or neither"
            );
            let (ours, theirs) = (
                self.store.attempts(*id, 0, 100).await,
                self.oracle.attempts(*id, 0, 100).await,
            );
            assert_eq!(
                ours.expect("can be read"),
                theirs.expect("can be read"),
                "attempts of {id}"
            );
        }
        let (ours, theirs) = (
            self.store.counters().await.unwrap(),
            self.oracle.counters().await.unwrap(),
        );
        let sorted = |counters: crate::Counters| {
            let mut counts: Vec<String> = counters.counts.iter().map(|count| format!("{count:?}")).collect();
            counts.sort();
            counts
        };
        assert_eq!(sorted(ours), sorted(theirs), "the counters");
        let query = ListQuery {
            limit: 1000,
            ..ListQuery::default()
        };
        let (ours, theirs) = (
            self.store.list(&query).await.unwrap(),
            self.oracle.list(&query).await.unwrap(),
        );
        let ids = |page: crate::OrderPage| page.orders.iter().map(|stored| stored.order.id()).collect::<Vec<_>>();
        assert_eq!(ids(ours), ids(theirs), "the list of all orders");
        let ours = self.store.feed(FeedStart::Oldest, 10_000).await.unwrap();
        let theirs = self.oracle.feed(FeedStart::Oldest, 10_000).await.unwrap();
        let told = |page: crate::FeedPage| {
            page.events
                .into_iter()
                .map(|event| (event.order, event.event, event.cursor.position))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(ours), told(theirs), "the feed");
    }

    /// A commit that was applied, sent again in the midst of others.
    async fn repeat(&mut self) {
        let (shop, (mut commit, _)) = self.accepting();
        commit.keys.clear();
        Arc::make_mut(&mut commit.order).head.commit_id = CommitId(Uuid::new_v4());
        let id = commit.order.id();
        let twice = || vec![commit.clone(), commit.clone()];
        for store in [&self.store, &self.oracle] {
            for ticket in store.commit(twice()) {
                ticket.await.expect("the repetition succeeds");
            }
        }
        self.orders.push((shop, id));
    }
}

async fn walk(store: &Arc<dyn Store>, seed: u64) {
    let mut pair = Pair::new(store, seed);
    for batch in 0..BATCHES {
        match pair.walk.below(8) {
            0 | 1 => pair.claim().await,
            2 => pair.release().await,
            3 if batch % 5 == 0 => pair.repeat().await,
            _ => pair.batch().await,
        }
        if batch % 25 == 24 {
            pair.compare().await;
        }
    }
    // What has become final goes, and all else stays.
    pass(&*pair.store, pair.store.now()).await;
    let before = pair.store.now();
    for store in [&pair.store, &pair.oracle] {
        while store.retain(before, 10).await.expect("old orders can be removed") > 0 {}
    }
    pair.compare().await;
    pair.claim().await;
}

/// Two stores that are given the same answer alike and end up alike.
pub async fn it_does_as_the_memory_store_does(store: Arc<dyn Store>) {
    walk(&store, 0x2545_F491_4F6C_DD1D).await;
}

/// The same on another way.
pub async fn it_does_as_the_memory_store_does_again(store: Arc<dyn Store>) {
    walk(&store, 0x9E37_79B9_7F4A_7C15).await;
}
