//! The worker of one subscription: takes its events from the feed, sends them, and writes down how far it has come.
//!
//! A page of the feed is sent order by order: events of one order one after another, several orders at a time. Then
//! the cursor, what failed and the log are one write. While the receiver as a whole does not answer, the cursor stands
//! still and only one event is tried, by the schedule; so a receiver that is down costs one request at a time, and
//! neither the store nor other subscriptions anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use comanda_model::{Event, OrderId};
use comanda_store::subscription::{Advance, Delivery, EXCEPTIONS_MAX, Exception, Progress, Subscription};
use comanda_store::{Cursor, FeedEvent, FeedStart, StoreError};
use futures_util::StreamExt;
use futures_util::stream::iter;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::news::{Heard, News};
use crate::service::{Pause, Shared};
use crate::tail::{PAGE, Part};
use crate::target::{Outcome, Target, Tried};

/// So many failures in a row, whatever the order, and the receiver counts as down.
const DOWN_AFTER: u32 = 5;
/// The most events of one order that are sent again at once.
const AGAIN_MAX: usize = 100;
/// How long a worker that hears nothing rests before it looks by itself.
const REST_MAX: Duration = Duration::from_secs(30);
/// How long a hold is relied on that was not confirmed. Less than a node is taken to live without being heard of, so that
/// one that was stopped in its tracks sends nothing when another has taken over.
const HOLD_CONFIRMED_MAX: Duration = Duration::from_secs(4);
/// Why a subscription is paused whose receiver wants nothing more.
const GONE: &str = "the receiver answered 410: it wants nothing more";
/// How long a cursor that passed only unwanted events may be unwritten.
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
    /// What was heard while it rested.
    heard: Option<Heard>,
}

/// The events of one order that are to be sent.
struct Group {
    order: OrderId,
    order_type: Arc<str>,
    events: Vec<Event>,
    /// How often the first one was tried.
    attempts: u32,
    /// Up to this event the order's history was looked at.
    read_to: u64,
    /// The last event that the cursor has passed.
    until: u64,
}

/// How the sending of a group ended.
struct Ended {
    order: OrderId,
    left: Option<Exception>,
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
            Target::Webhook | Target::Mail(_) | Target::Customer => News::Feed(shared.tail.listen()),
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
        // Who is told of all that happens here has to look only for what happens on other nodes.
        let looks = match self.news {
            News::Feed(_) => until.is_none(),
            News::Deaths(_) => self.shared.store.capabilities().many_nodes,
        };
        let heard = async {
            if !hears {
                std::future::pending::<()>().await;
            }
            self.news.wait().await
        };
        tokio::select! {
            heard = heard => self.heard = Some(heard),
            () = tokio::time::sleep(wait.min(REST_MAX)) => self.joined = self.joined && !looks,
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
        let now = self.shared.store.now();
        if self.is_down() {
            // The one that was tried most: its waits grow, so the receiver is not hammered, and in the end it gives up.
            let probe = self.exceptions.values().max_by_key(|one| one.attempts).cloned();
            match probe {
                Some(probe) if probe.retry_at > now => return Ok(Step::Rest(Some(probe.retry_at))),
                Some(probe) => return self.again(vec![probe]).await,
                None => self.failures.store(0, Ordering::SeqCst),
            }
        }
        let due: Vec<_> = self
            .exceptions
            .values()
            .filter(|one| one.retry_at <= now)
            .take(PAGE)
            .cloned()
            .collect();
        if !due.is_empty() {
            return self.again(due).await;
        }
        if self.exceptions.len() + PAGE > EXCEPTIONS_MAX {
            let reason = format!("the events of {} orders could not be delivered", self.exceptions.len());
            return Ok(Step::Pause(reason));
        }
        let next = self.exceptions.values().map(|one| one.retry_at).min();
        if !self.joined {
            self.news.before_reading();
            return match self.shared.store.feed(FeedStart::After(self.cursor), PAGE).await {
                Ok(page) if page.events.is_empty() => {
                    self.joined = true;
                    self.write_cursor().await?;
                    Ok(Step::Moved)
                }
                Ok(page) => self.send_new(&page.events, page.next).await,
                Err(StoreError::CursorReset) => self.tell_gap(now).await,
                Err(error) => Err(error),
            };
        }
        match self.heard.take().unwrap_or_else(|| self.news.heard()) {
            Heard::Part(part) => self.take(&part).await,
            Heard::Nothing => {
                self.write_cursor().await?;
                Ok(Step::Rest(next))
            }
            Heard::Read => {
                self.joined = false;
                Ok(Step::Moved)
            }
        }
    }

    /// Takes what was heard of the feed's end, unless something before it was missed.
    async fn take(&mut self, part: &Part) -> Result<Step, StoreError> {
        if part.after.epoch != self.cursor.epoch || part.after.position > self.cursor.position {
            self.joined = false;
        } else if part.next.position > self.cursor.position {
            let first = part
                .events
                .partition_point(|event| event.cursor.position <= self.cursor.position);
            return self.send_new(&part.events[first..], part.next).await;
        }
        Ok(Step::Moved)
    }

    /// Sends what is wanted of a part of the feed, and moves past it.
    async fn send_new(&mut self, events: &[FeedEvent], next: Cursor) -> Result<Step, StoreError> {
        let mut groups: Vec<Group> = Vec::new();
        let mut held: BTreeMap<OrderId, Exception> = BTreeMap::new();
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
            let group = groups.iter_mut().find(|group| group.order == event.order);
            match group {
                Some(group) => {
                    group.until = number;
                    group.read_to = number;
                    group.events.push(event.event.clone());
                }
                None => groups.push(Group {
                    order: event.order,
                    order_type: event.order_type.clone(),
                    events: vec![event.event.clone()],
                    attempts: 0,
                    read_to: number,
                    until: number,
                }),
            }
        }
        if groups.is_empty() && held.is_empty() {
            self.cursor = next;
            if next.position.saturating_sub(self.written.0.position) > 10 * PAGE as u64 {
                self.write_cursor().await?;
            }
            return Ok(Step::Moved);
        }
        self.send_all(groups, held.into_values().collect(), Some(next)).await
    }

    /// Tries again what could not be sent.
    async fn again(&mut self, exceptions: Vec<Exception>) -> Result<Step, StoreError> {
        let mut groups = Vec::with_capacity(exceptions.len());
        for exception in exceptions {
            let Exception {
                order,
                number,
                until,
                attempts,
                ..
            } = exception;
            let mut group = Group {
                order,
                order_type: Arc::from(""),
                events: Vec::new(),
                attempts,
                read_to: until,
                until,
            };
            // An order that retention has removed in the meantime leaves nothing to send.
            if let Some(stored) = self.shared.store.order(order).await? {
                let accepted = &stored.order.accepted;
                let count =
                    usize::try_from(until.saturating_sub(number)).map_or(AGAIN_MAX, |more| (more + 1).min(AGAIN_MAX));
                let mut events = self
                    .shared
                    .store
                    .history(order, number.saturating_sub(1), count)
                    .await?;
                group.read_to = events.last().map_or(until, |last| last.number);
                events.retain(|event| self.wants(&accepted.order_type, accepted.customer.as_deref(), event));
                group.order_type = accepted.order_type.clone();
                group.events = events;
            }
            groups.push(group);
        }
        self.send_all(groups, Vec::new(), None).await
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
            match one.left {
                Some(exception) => advance.failed.push(exception),
                None => advance.settled.push(one.order),
            }
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

    async fn send_group(&self, group: Group) -> Ended {
        let Group {
            order,
            order_type,
            events,
            mut attempts,
            read_to,
            until,
        } = group;
        let mut ended = Ended {
            order,
            left: None,
            deliveries: Vec::new(),
            pause: None,
        };
        let options = &self.shared.options;
        for event in events {
            let now = self.shared.store.now();
            let (number, at) = (event.number, event.at);
            let left = |attempts, wait| {
                Some(Exception {
                    order,
                    number,
                    until,
                    attempts,
                    retry_at: later(now, wait),
                })
            };
            if self.is_down() && attempts == 0 {
                ended.left = left(0, options.wait_after(1, None).unwrap_or_default());
                return ended;
            }
            if !matches!(self.is_held().await, Ok(true)) {
                // What is written next tells whether it is over.
                ended.left = left(attempts, Duration::ZERO);
                return ended;
            }
            let tried = match self.shared.send(&self.subscription, order, &order_type, &event).await {
                Ok(tried) => tried,
                Err(error) => {
                    tracing::warn!(%error, %order, "an event waits for the store");
                    ended.left = left(attempts, Duration::from_secs(1));
                    return ended;
                }
            };
            if matches!(tried.outcome, Outcome::Unwanted) {
                attempts = 0;
                continue;
            }
            attempts += 1;
            let id = format!("{order}:{number}");
            ended
                .deliveries
                .push(self.log(&id, event.kind.wire_name(), now, attempts, &tried));
            match tried.outcome {
                Outcome::Unwanted => {}
                // Who says no to one is there.
                Outcome::Refused(_) => {
                    self.failures.store(0, Ordering::SeqCst);
                    attempts = 0;
                }
                Outcome::Delivered => {
                    self.failures.store(0, Ordering::SeqCst);
                    let lag = self.shared.store.now().duration_since(at);
                    metrics::histogram!("comanda_delivery_lag_seconds").record(lag.as_secs_f64().max(0.0));
                    attempts = 0;
                }
                Outcome::Gone => {
                    ended.left = left(0, Duration::ZERO);
                    ended.pause = Some(GONE.to_owned());
                    return ended;
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
                        attempts = 0;
                        continue;
                    }
                    if wait.is_none() {
                        ended.pause = Some(format!("{id} could not be delivered in {attempts} tries: {reason}"));
                    }
                    // After a pause it begins anew.
                    ended.left = wait.map_or_else(|| left(0, Duration::ZERO), |wait| left(attempts, wait));
                    return ended;
                }
            }
        }
        // There is more than one round holds.
        if read_to < until {
            ended.left = Some(Exception {
                order,
                number: read_to + 1,
                until,
                attempts: 0,
                retry_at: self.shared.store.now(),
            });
        }
        ended
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
        let far = self.cursor.position.saturating_sub(written.position) > 10 * PAGE as u64;
        if self.cursor == written || !(far || at.elapsed() >= UNWRITTEN_MAX) {
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
        let applied = self.shared.port()?.advance(&self.subscription.id, advance).await?;
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
