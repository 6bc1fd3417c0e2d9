//! The services that steps call: how many calls each takes at once, and whether it takes any.
//!
//! A target is a scheme, host and port. Calls to it wait for a place of their own, so that a slow target fills its own
//! places and no others. After a number of failures in a row its *circuit* opens: nothing is sent for a while, and then
//! one call tries whether it is back. An order that is held back so is taken up later and has used up no attempt: a
//! dead service does not make dead letters of everyone who needs it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use comanda_engine::Postponed;
use parking_lot::Mutex;
use reqwest::Url;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::Options;

/// How many orders may wait for a place at one target; more come back later.
const WAITING_MAX: usize = 1024;
/// How long an order waits for a place before it comes back later: less than a claim lasts.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// When to come back to a target that is being tried by another, or that is busy and has not yet shown how quick it is.
const BUSY_AFTER: Duration = Duration::from_secs(2);
/// The soonest and the latest that an order comes back to a target that is busy.
const TURN_MIN: Duration = Duration::from_millis(20);
const TURN_MAX: Duration = Duration::from_secs(60);
/// How much of the time that a call takes its turn is given: below 1, so that the target never waits for calls.
const TURN_SHARE: f64 = 0.8;
/// What the latest call counts in the mean time between calls, and the most that it can count as.
const LATEST_SHARE: f64 = 0.05;
const BETWEEN_MAX: Duration = Duration::from_secs(10);

/// The most targets that are remembered. Orders can name hosts too, so there is no end of them.
const TARGETS_MAX: usize = 4096;
/// What the metrics call targets that orders have named: their own names would be without end.
const FOREIGN: &str = "named by an order";

/// The name of the target that the operator's settings lead to: scheme, host and port.
pub(crate) fn name(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The name of a target that an order has named. It is another than the operator's, so that no order can have the calls to
/// a service of the operator held back.
pub(crate) fn foreign_name(url: &Url) -> String {
    format!("{}, {FOREIGN}", name(url))
}

/// All targets.
pub(crate) struct Targets {
    known: Mutex<HashMap<String, Arc<Target>>>,
    places: usize,
    failures_max: u32,
    open_for: Duration,
}

struct Target {
    name: String,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    turns: Mutex<Turns>,
    circuit: Mutex<Circuit>,
    failures_max: u32,
    open_for: Duration,
}

/// When those come back who found no room: each when its turn is likely to be, by how quickly the target takes calls. If all
/// came back after the same short while, a long backlog would do nothing but ask for room, a commit each time.
#[derive(Default)]
struct Turns {
    /// When a place was left last.
    left_at: Option<Instant>,
    /// The mean time between two calls that end.
    between: Option<Duration>,
    /// The latest turn that was given.
    given_until: Option<Instant>,
}

impl Turns {
    /// A place was left.
    fn left(&mut self, now: Instant) {
        if let Some(before) = self.left_at.replace(now) {
            let latest = (now - before).min(BETWEEN_MAX);
            let mean = self.between.unwrap_or(latest);
            self.between = Some(mean.mul_f64(1.0 - LATEST_SHARE) + latest.mul_f64(LATEST_SHARE));
        }
    }

    /// When to come back, for one who finds so many others waiting.
    fn give(&mut self, now: Instant, waiting: usize) -> Duration {
        let Some(between) = self.between else {
            return BUSY_AFTER;
        };
        let soonest = now + between.mul_f64(waiting as f64);
        let turn = self.given_until.map_or(soonest, |until| until.max(soonest)) + between.mul_f64(TURN_SHARE);
        let turn = turn.min(now + TURN_MAX);
        self.given_until = Some(turn);
        (turn - now).max(TURN_MIN)
    }
}

#[derive(Default)]
struct Circuit {
    /// Failures in a row.
    failures: u32,
    /// Set while it is open: when one call may try.
    open_until: Option<Instant>,
    /// Whether a call is trying.
    trying: bool,
}

/// What a call says of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answers.
    Good,
    /// It does not, or says that it cannot.
    Bad,
}

/// A place among the calls to a target.
pub(crate) struct Place {
    target: Arc<Target>,
    tries: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.target.turns.lock().left(Instant::now());
        if self.tries {
            // Whether or not the call was made: the next one may try.
            self.target.circuit.lock().trying = false;
        }
    }
}

/// A call under way. One that is given up counts as a failure: the target did not answer in time.
pub(crate) struct Watch {
    target: Option<Arc<Target>>,
}

impl Watch {
    /// The call has ended.
    pub(crate) fn end(mut self, health: Health) {
        if let Some(target) = self.target.take() {
            target.learn(health);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(target) = self.target.take() {
            target.learn(Health::Bad);
        }
    }
}

/// Counts an order among those that wait, for as long as it does.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Targets {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            known: Mutex::default(),
            places: options.calls_per_target_max,
            failures_max: options.circuit_failures,
            open_for: options.circuit_open,
        }
    }

    /// The target of this name.
    fn get(&self, name: &str) -> Arc<Target> {
        let mut known = self.known.lock();
        if known.len() >= TARGETS_MAX && !known.contains_key(name) {
            // Those that nobody uses now and that have not failed are as good as new.
            known.retain(|_, target| Arc::strong_count(target) > 1 || target.circuit.lock().failures > 0);
            if known.len() >= TARGETS_MAX {
                known.retain(|_, target| Arc::strong_count(target) > 1);
            }
        }
        let target = known.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Target {
                name: name.to_owned(),
                places: Arc::new(Semaphore::new(self.places)),
                waiting: AtomicUsize::new(0),
                turns: Mutex::default(),
                circuit: Mutex::default(),
                failures_max: self.failures_max,
                open_for: self.open_for,
            })
        });
        target.clone()
    }

    /// Waits, a while at most, for a place.
    pub(crate) async fn admit(&self, name: &str) -> Result<Place, Postponed> {
        let target = self.get(name);
        target.is_closed()?;
        let busy = |reason: String| Postponed {
            reason,
            after: (target.turns.lock()).give(Instant::now(), target.waiting.load(Ordering::Relaxed)),
        };
        if target.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            target.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(busy(format!("{WAITING_MAX} calls wait for {name} already")));
        }
        let waiting = Waiting(&target.waiting);
        let acquired = tokio::time::timeout(WAIT_MAX, target.places.clone().acquire_owned()).await;
        drop(waiting);
        let Ok(Ok(permit)) = acquired else {
            return Err(busy(format!("{name} is busy with {} calls", self.places)));
        };
        let tries = target.enter()?;
        Ok(Place {
            target,
            tries,
            _permit: permit,
        })
    }

    /// Refuses if calls to this target are held back. Nothing is reserved: it is for those that make few calls, one after
    /// the other.
    pub(crate) fn look(&self, name: &str) -> Result<(), Postponed> {
        self.get(name).is_closed()
    }

    /// Watches a call that begins.
    pub(crate) fn watch(&self, name: &str) -> Watch {
        Watch {
            target: Some(self.get(name)),
        }
    }
}

impl Target {
    fn held_back(&self, failures: u32, after: Duration) -> Postponed {
        Postponed {
            reason: format!(
                "calls to {} are held back: it failed {failures} times in a row",
                self.name
            ),
            after,
        }
    }

    /// Refuses if the circuit is open.
    fn is_closed(&self) -> Result<(), Postponed> {
        let circuit = self.circuit.lock();
        match circuit.open_until {
            Some(until) if until > Instant::now() => Err(self.held_back(circuit.failures, until - Instant::now())),
            Some(_) if circuit.trying => Err(self.held_back(circuit.failures, BUSY_AFTER)),
            _ => Ok(()),
        }
    }

    /// Begins a call, if the circuit lets it. Answers whether it is the one that tries an open circuit.
    fn enter(&self) -> Result<bool, Postponed> {
        self.is_closed()?;
        let mut circuit = self.circuit.lock();
        let tries = circuit.open_until.is_some();
        if tries && circuit.trying {
            return Err(self.held_back(circuit.failures, BUSY_AFTER));
        }
        circuit.trying = tries;
        Ok(tries)
    }

    fn learn(&self, health: Health) {
        let mut circuit = self.circuit.lock();
        let was_open = circuit.open_until.is_some();
        match health {
            Health::Good => *circuit = Circuit::default(),
            Health::Bad => {
                circuit.failures = circuit.failures.saturating_add(1);
                if circuit.failures >= self.failures_max {
                    circuit.open_until = Some(Instant::now() + self.open_for);
                }
            }
        }
        let is_open = circuit.open_until.is_some();
        if was_open != is_open {
            let label = if self.name.ends_with(FOREIGN) {
                FOREIGN
            } else {
                &self.name
            };
            let gauge = metrics::gauge!("comanda_circuit_open", "target" => label.to_owned());
            gauge.set(if is_open { 1.0 } else { 0.0 });
            if is_open {
                tracing::warn!(target = %self.name, failures = circuit.failures, "calls are held back: the service fails");
            } else {
                tracing::info!(target = %self.name, "the service answers again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(places: usize) -> Targets {
        Targets::new(&Options {
            calls_per_target_max: places,
            circuit_failures: 2,
            circuit_open: Duration::from_secs(10),
            ..Options::default()
        })
    }

    fn call(targets: &Targets, health: Health) {
        targets.watch("http://shop.test").end(health);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_circuit_lets_one_call_try_and_closes_when_it_succeeds() {
        let targets = targets(8);
        let name = "http://shop.test";
        call(&targets, Health::Bad);
        drop(targets.admit(name).await.unwrap());
        call(&targets, Health::Bad);
        let held = targets.admit(name).await.err().unwrap();
        assert!(
            held.after <= Duration::from_secs(10) && held.reason.contains("2 times"),
            "{held:?}"
        );
        tokio::time::advance(Duration::from_secs(11)).await;
        let trying = targets.admit(name).await.unwrap();
        assert_eq!(targets.admit(name).await.err().unwrap().after, BUSY_AFTER);
        drop(trying);
        let trying = targets.admit(name).await.unwrap();
        call(&targets, Health::Good);
        drop(trying);
        assert!(targets.admit(name).await.is_ok() && targets.admit(name).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_given_up_is_a_failure() {
        let targets = targets(8);
        for _ in 0..2 {
            drop(targets.watch("http://shop.test"));
        }
        assert!(targets.admit("http://shop.test").await.is_err());
        assert!(
            targets.admit("http://other.test").await.is_ok(),
            "another is not held back"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_target_is_waited_for_a_while_and_holds_up_no_other() {
        let targets = targets(1);
        let place = targets.admit("http://slow.test").await.unwrap();
        assert!(targets.admit("http://quick.test").await.is_ok());
        let postponed = targets.admit("http://slow.test").await.err().unwrap();
        assert!(postponed.reason.contains("busy"), "{postponed:?}");
        drop(place);
        assert!(targets.admit("http://slow.test").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_find_no_room_come_back_one_after_the_other() {
        let mut turns = Turns::default();
        assert_eq!(
            turns.give(Instant::now(), 1024),
            BUSY_AFTER,
            "nothing is known of it yet"
        );
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(1)).await;
            turns.left(Instant::now());
        }
        // A thousand wait for a target that takes a thousand in a second.
        let now = Instant::now();
        let given: Vec<Duration> = (0..50_000).map(|_| turns.give(now, 1000)).collect();
        assert!(given.is_sorted());
        let share = |from: usize, to: usize| given[to] - given[from];
        assert!(
            given[0] > Duration::from_millis(990) && given[0] < Duration::from_millis(1010),
            "{:?}",
            given[0]
        );
        assert!(share(0, 10_000) > Duration::from_millis(7_900) && share(0, 10_000) < Duration::from_millis(8_100));
        assert!(given.iter().all(|after| *after <= TURN_MAX));
        // A quick target is asked again soon.
        let mut turns = Turns::default();
        for _ in 0..200 {
            tokio::time::advance(Duration::from_micros(10)).await;
            turns.left(Instant::now());
        }
        assert_eq!(turns.give(Instant::now(), 100), TURN_MIN);
    }
}
