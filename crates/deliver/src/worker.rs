//! The worker of one subscription: takes its events from the feed, sends them, and writes down how far it has come.
//!
//! A page of the feed is sent lane by lane: events of one lane one after another, several lanes at a time. Then
//! the cursor, what failed and the log are one write. While the receiver as a whole does not answer, the cursor stands
//! still and only one event is tried, by the schedule; so a receiver that is down costs one request at a time, and
//! neither the store nor other subscriptions anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use comanda_model::{Event, OrderId};
use comanda_store::subscription::{Advance, Delivery, EXCEPTIONS_MAX, Exception, Progress, Subscription};
use comanda_store::{Cursor, FeedEvent, FeedStart, StoreError};
use futures_util::StreamExt;
use futures_util::stream::iter;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lane::{Fetched, Group, Item, Lane, heads};
use crate::news::{Following, Heard, News};
use crate::service::{Pause, Shared};
use crate::tail::{PAGE, Part};
use crate::target::{Outcome, Target, Tried};

/// So many failures in a row, whatever the order, and the receiver counts as down.
const DOWN_AFTER: u32 = 5;
/// The most events of one order that are read at once to be sent again.
const AGAIN_MAX: usize = 100;
/// The most orders of one lane that are read at once.
const ORDERS_MAX: usize = 100;
/// How long a worker that hears nothing rests before it writes down how far it has come.
const REST_MAX: Duration = Duration::from_secs(30);
/// How long a hold is relied on that was not confirmed. Less than a node is taken to live without being heard of, so that
/// one that was stopped in its tracks sends nothing when another has taken over.
const HOLD_CONFIRMED_MAX: Duration = Duration::from_secs(4);
/// Why a subscription is paused whose receiver wants nothing more.
const GONE: &str = "the receiver answered 410: it wants nothing more";
/// How long a cursor that passed only unwanted events may be unwritten. By time alone: a thousand subscriptions that want
/// nothing of what happens would else write more than the orders do.
const UNWRITTEN_MAX: Duration = Duration::from_secs(10);

/// One subscription at work.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    subscription: Subscription,
    /// The hold under which it works, where processes share the store, and when that was last known to stand.
    hold: Option<u64>,
    confirmed: Mutex<Option<Instant>>,
    stop: CancellationToken,
    news: News,
    /// Whether it has come as far as the news begin.
    joined: bool,
    cursor: Cursor,
    exceptions: BTreeMap<OrderId, Exception>,
    /// Failures in a row.
    failures: AtomicU32,
    /// Tries to tell of a gap, and when the next one is.
    gap: (u32, Option<Timestamp>),
    written: (Cursor, Instant),
    /// Whether a write failed that may have been made all the same: what stands is to be read before anything else.
    doubtful: AtomicBool,
    /// What was heard while it rested.
    heard: Option<Heard>,
}

/// How the sending of a group ended.
struct Ended {
    left: Vec<Exception>,
    /// Orders of which nothing is left to be sent.
    done: Vec<OrderId>,
    deliveries: Vec<Delivery>,
    pause: Option<String>,
}

enum Step {
    /// Something was done: there may be more.
    Moved,
    /// Nothing to do until then, or until something is heard.
    Rest(Option<Timestamp>),
    /// The subscription stops, for this reason.
    Pause(String),
    /// It is another process's now, or was changed.
    Over,
}

impl Worker {
    /// Reads how far the subscription has come.
    pub(crate) async fn new(
        shared: Arc<Shared>,
        subscription: Subscription,
        hold: Option<u64>,
        stop: CancellationToken,
    ) -> Result<Self, StoreError> {
        // Before anything is read, so that no event falls in between.
        let news = match Target::of(&subscription.url) {
            Target::Webhook | Target::Mail(_) | Target::Customer => {
                News::Feed(Following::new(&shared.tail, subscription.filter.clone()))
            }
            // Deaths are announced in their own process only.
            Target::Archive(_) if shared.store.capabilities().many_nodes => {
                News::Feed(Following::new(&shared.tail, subscription.filter.clone()))
            }
            Target::Archive(_) => News::Deaths(shared.service.deaths()),
        };
        let progress = match shared.port()?.progress(&subscription.id).await? {
            Some(progress) => progress,
            None => Progress {
                cursor: shared.store.feed(FeedStart::Newest, 0).await?.next,
                exceptions: Vec::new(),
            },
        };
        let exceptions = progress.exceptions.into_iter().map(|one| (one.order, one)).collect();
        Ok(Self {
            shared,
            subscription,
            hold,
            confirmed: Mutex::new(None),
            stop,
            news,
            joined: false,
            cursor: progress.cursor,
            exceptions,
            failures: AtomicU32::new(0),
            gap: (0, None),
            written: (progress.cursor, Instant::now()),
            doubtful: AtomicBool::new(false),
            heard: None,
        })
    }

    /// Works until it is stopped or pauses.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            // What is under way when it is stopped is given up, and sent again by whoever comes next.
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                step = self.step() => step,
            };
            let rest = match step {
                Ok(Step::Moved) => continue,
                Ok(Step::Rest(until)) => until,
                Ok(Step::Over) => return,
                Ok(Step::Pause(reason)) => {
                    let pause = Pause {
                        id: self.subscription.id.clone(),
                        reason,
                    };
                    // Only a service that has ended no longer listens.
                    let _ = self.shared.pauses.send(pause);
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, subscription = self.subscription.id, "deliveries wait for the store");
                    Some(later(self.shared.store.now(), Duration::from_secs(1)))
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.rest(rest) => {}
            }
        }
    }

    /// Rests until then, until something is heard, or until it is time to look.
    async fn rest(&mut self, until: Option<Timestamp>) {
        let now = self.shared.store.now();
        let wait = until.map_or(REST_MAX, |until| {
            Duration::try_from(until.duration_since(now)).unwrap_or_default()
        });
        let hears = self.joined && !self.is_down();
        let heard = async {
            if !hears {
                std::future::pending::<()>().await;
            }
            self.news.wait().await
        };
        tokio::select! {
            biased;
            heard = heard => self.heard = Some(heard),
            () = tokio::time::sleep(wait.min(REST_MAX)) => {}
        }
    }

    fn wants(&self, order_type: &str, customer: Option<&str>, event: &Event) -> bool {
        self.subscription.filter.matches(order_type, customer, event)
            && self.shared.wants(&self.subscription, order_type, event)
    }

    fn is_down(&self) -> bool {
        self.failures.load(Ordering::SeqCst) >= DOWN_AFTER
    }

    async fn step(&mut self) -> Result<Step, StoreError> {
        if self.doubtful.load(Ordering::SeqCst) {
            self.read_again().await?;
        }
        let now = self.shared.store.now();
        if self.is_down() {
            // The one that was tried most: its waits grow, so the receiver is not hammered, and in the end it gives up.
            let heads = heads(self.exceptions.values());
            let probe = heads.into_iter().max_by_key(|(_, head)| head.attempts);
            match probe {
                Some((_, head)) if head.retry_at > now => return Ok(Step::Rest(Some(head.retry_at))),
                Some((lane, _)) => return self.again(vec![lane]).await,
                None => self.failures.store(0, Ordering::SeqCst),
            }
        }
        let heads = heads(self.exceptions.values());
        let due = heads.iter().filter(|(_, head)| head.retry_at <= now);
        let due: Vec<Lane> = due.take(PAGE).map(|(lane, _)| lane.clone()).collect();
        let next = heads.values().map(|head| head.retry_at).min();
        let lanes_count = heads.len();
        if !due.is_empty() {
            return self.again(due).await;
        }
        if lanes_count + PAGE > EXCEPTIONS_MAX {
            let reason = format!("the events of {} orders could not be delivered", self.exceptions.len());
            return Ok(Step::Pause(reason));
        }
        if self.exceptions.len() + PAGE > EXCEPTIONS_MAX {
            // Most wait behind others of their lanes: the feed waits with them, and nothing is given up.
            self.joined = false;
            return Ok(Step::Rest(next));
        }
        if !self.joined {
            self.news.before_reading();
            return match self.shared.store.feed(FeedStart::After(self.cursor), PAGE).await {
                Ok(page) if page.events.is_empty() => {
                    self.joined = true;
                    self.write_cursor().await?;
                    Ok(Step::Moved)
                }
                Ok(page) => {
                    let events: Vec<&FeedEvent> = page.events.iter().collect();
                    self.send_new(&events, page.next).await
                }
                Err(StoreError::CursorReset) => self.tell_gap(now).await,
                Err(error) => Err(error),
            };
        }
        let reached = self.news.reached();
        match self.heard.take().unwrap_or_else(|| self.news.heard()) {
            Heard::Part(part) => self.take(&part).await,
            Heard::Nothing => {
                let is_further =
                    |reached: &Cursor| reached.epoch == self.cursor.epoch && reached.position > self.cursor.position;
                self.cursor = reached.filter(is_further).unwrap_or(self.cursor);
                self.write_cursor().await?;
                Ok(Step::Rest(next))
            }
            Heard::Read => {
                self.joined = false;
                Ok(Step::Moved)
            }
        }
    }

    /// Takes up the progress that stands in the store. To go on from what was meant to be written would lose events: the
    /// cursor there may have passed some that only an exception there still names.
    async fn read_again(&mut self) -> Result<(), StoreError> {
        if let Some(progress) = self.shared.port()?.progress(&self.subscription.id).await? {
            self.cursor = progress.cursor;
            self.written = (progress.cursor, Instant::now());
            self.exceptions = progress.exceptions.into_iter().map(|one| (one.order, one)).collect();
            self.joined = false;
        }
        // A receiver that is down is probed with what was tried before. The store may know of no try, and then nothing would
        // ever be sent again.
        self.failures.store(0, Ordering::SeqCst);
        self.doubtful.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Takes what was heard of the feed's end, unless something before it was missed.
    async fn take(&mut self, part: &Part) -> Result<Step, StoreError> {
        if part.after.epoch != self.cursor.epoch || part.after.position > self.cursor.position {
            self.joined = false;
        } else if part.next.position > self.cursor.position {
            let events = part.events.iter().map(|event| &**event);
            let events: Vec<&FeedEvent> = events
                .filter(|event| event.cursor.position > self.cursor.position)
                .collect();
            return self.send_new(&events, part.next).await;
        }
        Ok(Step::Moved)
    }

    /// Sends what is wanted of a part of the feed, and moves past it.
    async fn send_new(&mut self, events: &[&FeedEvent], next: Cursor) -> Result<Step, StoreError> {
        let mut groups: Vec<Group> = Vec::new();
        let mut held: BTreeMap<OrderId, Exception> = BTreeMap::new();
        let waiting = heads(self.exceptions.values());
        for event in events {
            if !self.wants(&event.order_type, event.customer.as_deref(), &event.event) {
                continue;
            }
            let number = event.event.number;
            if let Some(exception) = self.exceptions.get(&event.order) {
                let exception = held.entry(event.order).or_insert_with(|| exception.clone());
                exception.until = exception.until.max(number);
                continue;
            }
            let lane = Lane::of(&self.subscription, event);
            if let Some(head) = waiting.get(&lane) {
                let exception = held.entry(event.order).or_insert_with(|| Exception {
                    order: event.order,
                    number,
                    until: number,
                    attempts: 0,
                    retry_at: head.retry_at,
                    lane: lane.name(),
                    position: event.cursor.position,
                });
                exception.until = number;
                continue;
            }
            match groups.iter_mut().find(|group| *group.lane() == lane) {
                Some(group) => group.push(event),
                None => {
                    let mut group = Group::new(lane);
                    group.push(event);
                    groups.push(group);
                }
            }
        }
        if groups.is_empty() && held.is_empty() {
            self.cursor = next;
            self.write_cursor().await?;
            return Ok(Step::Moved);
        }
        self.send_all(groups, held.into_values().collect(), Some(next)).await
    }

    /// Tries again what could not be sent in these lanes.
    async fn again(&mut self, lanes: Vec<Lane>) -> Result<Step, StoreError> {
        let now = self.shared.store.now();
        let mut groups = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let mut exceptions: Vec<&Exception> = match &lane {
                Lane::Order(order) => self.exceptions.get(order).into_iter().collect(),
                Lane::Group(_) => {
                    let all = self.exceptions.values();
                    all.filter(|one| Lane::of_exception(one) == lane).collect()
                }
            };
            exceptions.sort_by_key(|one| (one.position, one.order));
            let beyond = exceptions.get(ORDERS_MAX).map(|one| one.position);
            exceptions.truncate(ORDERS_MAX);
            let mut fetched = Vec::with_capacity(exceptions.len());
            for exception in exceptions {
                fetched.push(self.fetch(exception).await?);
            }
            groups.push(Group::again(lane, fetched, beyond, now));
        }
        self.send_all(groups, Vec::new(), None).await
    }

    /// Reads what an order that failed has to be sent. One that retention has removed in the meantime has nothing.
    async fn fetch(&self, exception: &Exception) -> Result<Fetched, StoreError> {
        let after = exception.number.saturating_sub(1);
        let count =
            usize::try_from(exception.until.saturating_sub(after)).map_or(AGAIN_MAX, |count| count.min(AGAIN_MAX));
        let events = self.shared.port()?.events_of(exception.order, after, count).await?;
        let last = events.last().map(|last| (last.event.number, last.cursor.position));
        let wanted = events
            .into_iter()
            .filter(|event| self.wants(&event.order_type, event.customer.as_deref(), &event.event));
        Ok(Fetched {
            exception: exception.clone(),
            items: wanted.map(Item::from).collect(),
            cut_at: last.filter(|(number, _)| *number < exception.until),
        })
    }

    /// Sends groups side by side, then writes down what came of it.
    async fn send_all(
        &mut self,
        groups: Vec<Group>,
        held: Vec<Exception>,
        cursor: Option<Cursor>,
    ) -> Result<Step, StoreError> {
        let was_down = self.is_down();
        let side_by_side = self.subscription.concurrency.clamp(1, 64) as usize;
        let ended: Vec<Ended> = {
            let worker = &*self;
            iter(groups.into_iter().map(|group| worker.send_group(group)))
                .buffer_unordered(side_by_side)
                .collect()
                .await
        };
        let mut advance = Advance {
            hold: self.hold,
            cursor,
            failed: held,
            settled: Vec::new(),
            deliveries: Vec::new(),
        };
        let mut pause = None;
        for one in ended {
            advance.failed.extend(one.left);
            let stood = one.done.into_iter().filter(|order| self.exceptions.contains_key(order));
            advance.settled.extend(stood);
            advance.deliveries.extend(one.deliveries);
            pause = pause.or(one.pause);
        }
        if was_down && !self.is_down() {
            // The receiver is back: what waits need not wait for its own time.
            let now = self.shared.store.now();
            let done = |order: &OrderId| {
                advance.settled.contains(order) || advance.failed.iter().any(|failed| failed.order == *order)
            };
            let waiting: Vec<Exception> = self
                .exceptions
                .values()
                .filter(|one| !done(&one.order))
                .map(|one| Exception {
                    retry_at: now,
                    ..one.clone()
                })
                .collect();
            advance.failed.extend(waiting);
        }
        if !self.advance(advance.clone()).await? {
            return Ok(Step::Over);
        }
        if let Some(cursor) = cursor {
            self.cursor = cursor;
            self.written = (cursor, Instant::now());
        }
        for order in &advance.settled {
            self.exceptions.remove(order);
        }
        for exception in advance.failed {
            self.exceptions.insert(exception.order, exception);
        }
        Ok(pause.map_or(Step::Moved, Step::Pause))
    }

    /// Sends the events of a group one after another, until one fails.
    async fn send_group(&self, group: Group) -> Ended {
        let mut ended = Ended {
            left: Vec::new(),
            done: Vec::new(),
            deliveries: Vec::new(),
            pause: None,
        };
        ended.left = self.send_items(&group, &mut ended.deliveries, &mut ended.pause).await;
        let is_left = |order: &OrderId| ended.left.iter().any(|left| left.order == *order);
        ended.done = group.orders().filter(|order| !is_left(order)).copied().collect();
        ended
    }

    /// Answers what is left to be sent.
    async fn send_items(
        &self,
        group: &Group,
        deliveries: &mut Vec<Delivery>,
        pause: &mut Option<String>,
    ) -> Vec<Exception> {
        let options = &self.shared.options;
        let mut begun: BTreeSet<OrderId> = BTreeSet::new();
        for (index, item) in group.items.iter().enumerate() {
            let Item {
                order,
                order_type,
                event,
                ..
            } = item;
            let order = *order;
            let mut attempts = if begun.insert(order) { group.attempts(&order) } else { 0 };
            let now = self.shared.store.now();
            let (number, at) = (event.number, event.at);
            let left = |attempts, wait| group.left(index, attempts, later(now, wait));
            if self.is_down() && attempts == 0 {
                return left(0, options.wait_after(1, None).unwrap_or_default());
            }
            if !matches!(self.is_held().await, Ok(true)) {
                // What is written next tells whether it is over.
                return left(attempts, Duration::ZERO);
            }
            let tried = match self.shared.send(&self.subscription, order, order_type, event).await {
                Ok(tried) => tried,
                Err(error) => {
                    tracing::warn!(%error, %order, "an event waits for the store");
                    return left(attempts, Duration::from_secs(1));
                }
            };
            if matches!(tried.outcome, Outcome::Unwanted) {
                continue;
            }
            attempts += 1;
            let id = format!("{order}:{number}");
            deliveries.push(self.log(&id, event.kind.wire_name(), now, attempts, &tried));
            match tried.outcome {
                Outcome::Unwanted => {}
                // Who says no to one is there.
                Outcome::Refused(_) => self.failures.store(0, Ordering::SeqCst),
                Outcome::Delivered => {
                    self.failures.store(0, Ordering::SeqCst);
                    let lag = self.shared.store.now().duration_since(at);
                    metrics::histogram!("comanda_delivery_lag_seconds").record(lag.as_secs_f64().max(0.0));
                }
                Outcome::Gone => {
                    *pause = Some(GONE.to_owned());
                    return left(0, Duration::ZERO);
                }
                Outcome::Failed {
                    reason,
                    retry_after,
                    alone,
                } => {
                    let wait = options.wait_after(attempts, retry_after);
                    if alone {
                        self.failures.store(0, Ordering::SeqCst);
                    } else {
                        self.failures.fetch_add(1, Ordering::SeqCst);
                    }
                    if alone && wait.is_none() {
                        // One of many: it is given up, and stands in the log.
                        metrics::counter!("comanda_deliveries_given_up_total").increment(1);
                        continue;
                    }
                    if wait.is_none() {
                        *pause = Some(format!("{id} could not be delivered in {attempts} tries: {reason}"));
                    }
                    // After a pause it begins anew.
                    return wait.map_or_else(|| left(0, Duration::ZERO), |wait| left(attempts, wait));
                }
            }
        }
        // There may be more than one round holds.
        group.left(group.items.len(), 0, self.shared.store.now())
    }

    fn log(&self, id: &str, kind: &str, at: Timestamp, attempt: u32, tried: &Tried) -> Delivery {
        let (outcome, reason) = match &tried.outcome {
            Outcome::Delivered | Outcome::Unwanted => ("delivered", None),
            Outcome::Refused(reason) => ("refused", Some(reason.clone())),
            Outcome::Gone => ("gone", Some("410 Gone".to_owned())),
            Outcome::Failed { reason, .. } => ("failed", Some(reason.clone())),
        };
        metrics::counter!("comanda_deliveries_total", "outcome" => outcome).increment(1);
        Delivery {
            number: 0,
            event: id.to_owned(),
            event_type: kind.to_owned(),
            at,
            attempt,
            took_ms: u64::try_from(tried.took.as_millis()).unwrap_or(u64::MAX),
            delivered: reason.is_none(),
            status: tried.status,
            reason,
        }
    }

    /// Retention has passed the cursor, or the store was restored: tells the receiver that it may have missed events,
    /// and goes on where the feed begins. Nothing else is sent before that is told.
    async fn tell_gap(&mut self, now: Timestamp) -> Result<Step, StoreError> {
        if let Some(at) = self.gap.1.filter(|at| *at > now) {
            return Ok(Step::Rest(Some(at)));
        }
        const KIND: &str = "comanda.subscription.gap";
        let mut begin = self.shared.store.feed(FeedStart::Oldest, 0).await?.next;
        if Target::of(&self.subscription.url) == Target::Customer && begin.epoch != self.cursor.epoch {
            // A store that was restored: its customers have been told, perhaps long ago.
            begin = self.shared.store.feed(FeedStart::Newest, 0).await?.next;
        }
        let subscription = &self.subscription.id;
        let id = format!("{subscription}:gap:{begin}");
        let body = json!({
            "specversion": "1.0", "id": id, "source": "/subscriptions", "type": KIND, "subject": subscription,
            "time": now, "datacontenttype": "application/json",
            "data": {"after": self.cursor.to_string(), "next": begin.to_string()},
        });
        if !self.is_held().await? {
            return Ok(Step::Over);
        }
        self.gap.0 += 1;
        let Some(tried) = self.shared.send_own(&self.subscription, &id, &body).await else {
            // There is nobody to tell. What can still fail has all its events, so that an archive misses nothing.
            self.cursor = begin;
            self.written.1 = Instant::now();
            self.gap = (0, None);
            return Ok(Step::Moved);
        };
        let delivered = matches!(tried.outcome, Outcome::Delivered | Outcome::Refused(_));
        let advance = Advance {
            hold: self.hold,
            cursor: delivered.then_some(begin),
            failed: Vec::new(),
            settled: Vec::new(),
            deliveries: vec![self.log(&id, KIND, now, self.gap.0, &tried)],
        };
        if !self.advance(advance).await? {
            return Ok(Step::Over);
        }
        if delivered {
            self.cursor = begin;
            self.written = (begin, Instant::now());
            self.gap = (0, None);
            return Ok(Step::Moved);
        }
        let asked = match tried.outcome {
            Outcome::Failed { retry_after, .. } => retry_after,
            Outcome::Delivered | Outcome::Unwanted | Outcome::Refused(_) | Outcome::Gone => {
                return Ok(Step::Pause(GONE.to_owned()));
            }
        };
        match self.shared.options.wait_after(self.gap.0, asked) {
            Some(wait) => {
                let at = later(now, wait);
                self.gap.1 = Some(at);
                Ok(Step::Rest(Some(at)))
            }
            None => Ok(Step::Pause(format!(
                "{id} could not be delivered in {} tries",
                self.gap.0
            ))),
        }
    }

    /// Writes the cursor down, if it has passed events that nobody wanted for long enough.
    async fn write_cursor(&mut self) -> Result<(), StoreError> {
        let (written, at) = self.written;
        if self.cursor == written || at.elapsed() < UNWRITTEN_MAX {
            return Ok(());
        }
        let advance = Advance {
            hold: self.hold,
            cursor: Some(self.cursor),
            failed: Vec::new(),
            settled: Vec::new(),
            deliveries: Vec::new(),
        };
        // One that is over is told so by what it writes next.
        self.advance(advance).await?;
        self.written = (self.cursor, Instant::now());
        Ok(())
    }

    /// Writes down how far it has come; answers whether that counts.
    async fn advance(&self, advance: Advance) -> Result<bool, StoreError> {
        let asked = Instant::now();
        let answer = self.shared.port()?.advance(&self.subscription.id, advance).await;
        let applied = answer.inspect_err(|_| self.doubtful.store(true, Ordering::SeqCst))?;
        if applied {
            *self.confirmed.lock().await = Some(asked);
        }
        Ok(applied)
    }

    /// Whether this process is the one to send: known for a moment, else asked for.
    async fn is_held(&self) -> Result<bool, StoreError> {
        let Some(hold) = self.hold else { return Ok(true) };
        let mut confirmed = self.confirmed.lock().await;
        if confirmed.is_some_and(|at| at.elapsed() < HOLD_CONFIRMED_MAX) {
            return Ok(true);
        }
        let asked = Instant::now();
        let held = self.shared.port()?.hold().await?;
        let stands = held.is_some_and(|held| held.get(&self.subscription.id) == Some(&hold));
        if stands {
            *confirmed = Some(asked);
        }
        Ok(stands)
    }
}

/// A moment so much later; the end of time where there is no such moment.
pub(crate) fn later(now: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait)
        .ok()
        .and_then(|wait| now.checked_add(wait).ok())
        .unwrap_or(Timestamp::MAX)
}
