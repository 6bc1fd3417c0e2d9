//! Receivers of events: who has subscribed to what, and how they take what they are sent: late, not at all, or without
//! saying that they have.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_deliver::{Configured, Courier, DeliverError, Deliveries, Options, Outcome, Request, SecretKind, Tried};
use comanda_engine::{SeededChance, Service};
use comanda_store::subscription::{Advance, EventFilter, Ordering, Subscription, SubscriptionStore};
use comanda_store::{FeedStart, Store};
use jiff::Timestamp;

use crate::clients::asked;
use crate::life::Life;
use crate::plan::Fault;
use crate::plant::Plant;
use crate::world::World;

/// The waits between tries take so much less time than in the product, so that the last of them ends within a run.
const WAIT_SCALE: f64 = 0.0005;
/// The events of this kind are what one of the subscriptions wants.
const CHANGES: &str = "comanda.order.status-changed";

/// A subscription of the simulation.
pub struct Wish {
    /// Its id.
    pub id: &'static str,
    /// The types that it wants; all if it names none.
    pub types: &'static [&'static str],
    /// The kinds of event that it wants; all if it names none.
    pub events: &'static [&'static str],
    /// Whether the events of all orders of a lane come one after another, or only those of one order.
    pub ordering: Ordering,
    concurrency: u32,
    include_order: bool,
    configured: bool,
}

/// All subscriptions: two that were made through the API, and one of the configuration, which is told of lanes in order.
pub const WISHES: [Wish; 3] = [
    Wish {
        id: "all",
        types: &[],
        events: &[],
        ordering: Ordering::Order,
        concurrency: 4,
        include_order: true,
        configured: false,
    },
    Wish {
        id: "changes",
        types: &["shop", "lane-park", "picking"],
        events: &[CHANGES],
        ordering: Ordering::Order,
        concurrency: 1,
        include_order: false,
        configured: false,
    },
    Wish {
        id: "configured",
        types: &[],
        events: &[],
        ordering: Ordering::Lane,
        concurrency: 2,
        include_order: false,
        configured: true,
    },
];

impl Wish {
    fn filter(&self) -> EventFilter {
        EventFilter {
            types: self.types.iter().map(|&name| name.to_owned()).collect(),
            events: self.events.iter().map(|&name| name.to_owned()).collect(),
            ..EventFilter::default()
        }
    }
}

/// The subscriptions that were made through the API stand in the store before anything happens.
pub async fn seed(world: &Arc<World>) {
    let memory = &world.memory;
    for wish in WISHES.iter().filter(|wish| !wish.configured) {
        let subscription = Subscription {
            id: wish.id.to_owned(),
            name: wish.id.to_owned(),
            url: format!("https://{}.example/", wish.id),
            filter: wish.filter(),
            include_order: wish.include_order,
            secrets: Vec::new(),
            allow_private: false,
            concurrency: wish.concurrency,
            ordering: wish.ordering,
            configured: false,
            created_at: memory.now(),
            paused: None,
        };
        let begun = async {
            memory.put_subscription(&subscription).await?;
            let advance = Advance {
                notice: None,
                hold: None,
                cursor: Some(memory.feed(FeedStart::Oldest, 0).await?.next),
                failed: Vec::new(),
                settled: Vec::new(),
                deliveries: Vec::new(),
            };
            memory.advance(wish.id, advance).await
        };
        if let Err(error) = begun.await {
            world.check(Err(format!("a subscription could not be made: {error}")));
        }
    }
}

/// Sets the subscriptions to work in a process.
pub async fn start(world: &Arc<World>, life: &Arc<Life>, service: Service) -> Result<Deliveries, DeliverError> {
    let options = Options {
        wait_scale: WAIT_SCALE,
        courier: Some(Arc::new(Receivers {
            world: world.clone(),
            life: life.clone(),
        })),
        chance: Arc::new(SeededChance::new(world.dice.number(("deliveries", life.number)))),
        ..Options::default()
    };
    let configured = WISHES.iter().filter(|wish| wish.configured).map(|wish| Configured {
        name: wish.id.to_owned(),
        request: Request {
            name: wish.id.to_owned(),
            url: format!("https://{}.example/", wish.id),
            filter: wish.filter(),
            include_order: wish.include_order,
            concurrency: wish.concurrency,
            ordering: match world.has(Plant::LaneForgotten) {
                true => Ordering::Order,
                false => wish.ordering,
            },
            from_oldest: true,
            secret: SecretKind::Symmetric,
        },
        secret: None,
    });
    Deliveries::start(options, service, configured.collect()).await
}

/// Pauses a subscription.
pub async fn pause(world: &Arc<World>, which: usize) {
    let id = WISHES[which % WISHES.len()].id;
    let (process, deliveries) = world.delivering().await;
    let resumes = world.judge.lock().resumed_times(id);
    let answer = asked(&process, deliveries.pause(id, "enough for now".to_owned())).await;
    if let Some(Ok(_)) = &answer {
        world.trace(|| format!("`{id}` is paused"));
        // What the configuration names goes on with the next start.
        let lasts = !WISHES[which % WISHES.len()].configured;
        world.judge.lock().paused(id, resumes, process.life.number, lasts);
    }
}

/// Lets a subscription go on.
pub async fn resume(world: &Arc<World>, which: usize) {
    let id = WISHES[which % WISHES.len()].id;
    let (process, deliveries) = world.delivering().await;
    world.judge.lock().resumes(id);
    let answer = asked(&process, deliveries.resume(id)).await;
    world.trace(|| format!("`{id}` goes on: {}", matches!(answer, Some(Ok(_)))));
}

/// An operator lets everything go on that is paused.
pub async fn resume_all(world: &Arc<World>) {
    let (process, deliveries) = world.delivering().await;
    let Some(Ok(all)) = asked(&process, deliveries.list()).await else {
        return;
    };
    for subscription in all.iter().filter(|one| one.paused.is_some()) {
        if let Some(which) = WISHES.iter().position(|wish| wish.id == subscription.id) {
            resume(world, which).await;
        }
    }
}

/// The receivers, as one life reaches them.
struct Receivers {
    world: Arc<World>,
    life: Arc<Life>,
}

#[async_trait]
impl Courier for Receivers {
    async fn carry(&self, to: &Subscription, id: &str, body: String, _: Timestamp) -> Tried {
        let world = &self.world;
        world.deed();
        self.life.gate().await;
        if world.has(Plant::CursorBeforeDelivery) {
            move_cursor(world, &to.id).await;
        }
        let name = ("event", &to.id, id, world.nth(("event", &to.id, id)));
        let wrong = |fault| world.goes_wrong(fault, name);
        let mut rolls = world.rolls(("receiver", name));
        if wrong(Fault::ReceiverSlow) {
            tokio::time::sleep(Duration::from_millis(rolls.one(&[1, 50, 3000, 14_000]))).await;
            self.life.gate().await;
        }
        let retry_after = rolls.permille(200).then(|| Duration::from_millis(rolls.below(5000)));
        let outcome = if wrong(Fault::ReceiverFails) {
            failed("out of order", retry_after)
        } else {
            let verdict = world.judge.lock().announced(&to.id, self.life.number, id, &body);
            world.check(verdict);
            if wrong(Fault::ReceiverLosesAnswer) {
                failed("connection reset after the event", retry_after)
            } else if wrong(Fault::ReceiverGone) && rolls.permille(100) {
                Outcome::Gone
            } else {
                Outcome::Delivered
            }
        };
        world.trace(|| format!("process {}: `{}` is sent {id}: {outcome:?}", self.life.number, to.id));
        self.life.gate().await;
        Tried {
            outcome,
            status: None,
            took: Duration::ZERO,
        }
    }
}

/// What a planted bug does: the cursor passes what is yet to be sent.
async fn move_cursor(world: &World, id: &str) {
    let Ok(newest) = world.memory.feed(FeedStart::Newest, 0).await else {
        return;
    };
    let advance = Advance {
        notice: None,
        hold: None,
        cursor: Some(newest.next),
        failed: Vec::new(),
        settled: Vec::new(),
        deliveries: Vec::new(),
    };
    // The store is the one under the faults, which has the subscription.
    let _ = world.memory.advance(id, advance).await;
}

fn failed(reason: &str, retry_after: Option<Duration>) -> Outcome {
    Outcome::Failed {
        reason: reason.to_owned(),
        retry_after,
        alone: false,
    }
}
