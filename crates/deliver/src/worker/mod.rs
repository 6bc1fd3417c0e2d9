//! The worker of one subscription: takes its events from the feed, sends them, and writes down how far it has come.
//!
//! A page of the feed is sent lane by lane: events of one lane one after another, several lanes at a time. Then
//! the cursor, what failed and the log are one write. While the receiver as a whole does not answer, the cursor stands
//! still and only one event is tried, by the schedule; so a receiver that is down costs one request at a time, and
//! neither the store nor other subscriptions anything.

mod sending;
mod telling;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use comanda_model::{Event, OrderId};
use comanda_store::subscription::{Advance, EXCEPTIONS_MAX, Exception, Progress, Subscription};
use comanda_store::{Cursor, FeedEvent, FeedNotice, FeedStart, StoreError};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lane::{Fetched, Group, Item, Lane, heads};
use crate::news::{Following, Heard, News};
use crate::service::{Pause, Shared};
use crate::tail::{PAGE, Part};
use crate::target::Target;

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
    /// Tries to tell of what belongs to no order, and when the next one is.
    telling: (u32, Option<Timestamp>),
    written: (Cursor, Instant),
    /// Whether a write failed that may have been made all the same: what stands is to be read before anything else.
    doubtful: AtomicBool,
    /// What was heard while it rested.
    heard: Option<Heard>,
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

impl Step {
    /// The same, and no rest beyond this moment.
    fn by(self, moment: Option<Timestamp>) -> Self {
        match self {
            Self::Rest(until) => Self::Rest(until.into_iter().chain(moment).min()),
            other => other,
        }
    }
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
            telling: (0, None),
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
                Ok(page) if page.is_empty() => {
                    self.joined = true;
                    self.write_cursor().await?;
                    Ok(Step::Moved)
                }
                Ok(page) => {
                    let events: Vec<&FeedEvent> = page.events.iter().collect();
                    let notices: Vec<&FeedNotice> = page.notices.iter().collect();
                    let step = self.send_page(&events, &notices, page.next).await?;
                    Ok(step.by(next))
                }
                Err(StoreError::CursorReset) => self.tell_gap(now).await,
                Err(error) => Err(error),
            };
        }
        let reached = self.news.reached();
        match self.heard.take().unwrap_or_else(|| self.news.heard()) {
            Heard::Part(part) => Ok(self.take(&part).await?.by(next)),
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
            let notices: Vec<&FeedNotice> = part.notices.iter().map(|notice| &**notice).collect();
            return self.send_page(&events, &notices, part.next).await;
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

    /// A step that moves nothing.
    fn nothing(&self) -> Advance {
        Advance {
            hold: self.hold,
            cursor: None,
            failed: Vec::new(),
            settled: Vec::new(),
            deliveries: Vec::new(),
            notice: None,
        }
    }

    /// Writes the cursor down, if it has passed events that nobody wanted for long enough.
    async fn write_cursor(&mut self) -> Result<(), StoreError> {
        let (written, at) = self.written;
        if self.cursor == written || at.elapsed() < UNWRITTEN_MAX {
            return Ok(());
        }
        let advance = Advance {
            cursor: Some(self.cursor),
            ..self.nothing()
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
