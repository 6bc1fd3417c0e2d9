//! The worker of one subscription: takes its events from the feed, sends them, and writes down how far it has come.
//!
//! A page of the feed is sent lane by lane: events of one lane one after another, several lanes at a time. Then
//! the cursor, what failed and the log are one write, which goes on beside the sending of the next part. While the receiver as a whole does not answer, the cursor stands
//! still and only one event is tried, by the schedule; so a receiver that is down costs one request at a time, and
//! neither the store nor other subscriptions anything.

mod progress;
mod sending;
mod telling;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use comanda_model::OrderId;
use comanda_store::subscription::{EXCEPTIONS_MAX, Exception, Progress, Subscription};
use comanda_store::{Cursor, FeedEvent, FeedNotice, FeedStart, StoreError};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lane::{Group, Lane, heads};
use crate::news::{Following, Heard, News};
use crate::service::{Pause, Shared};
use crate::tail::{PAGE, Part};
use crate::target::Target;
use progress::Writing;
use sending::Sender;

/// So many failures in a row, whatever the order, and the receiver counts as down.
const DOWN_AFTER: u32 = 5;
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
    sender: Sender,
    stop: CancellationToken,
    news: News,
    /// Whether it has come as far as the news begin.
    joined: bool,
    cursor: Cursor,
    exceptions: BTreeMap<OrderId, Exception>,
    /// Tries to tell of what belongs to no order, and when the next one is.
    telling: (u32, Option<Timestamp>),
    written: (Cursor, Instant),
    /// Whether a write failed that may have been made all the same: what stands is to be read before anything else.
    doubtful: bool,
    /// The write of progress that is under way, and when it was begun.
    writing: Writing,
    asked: Instant,
    /// What was heard while it rested.
    heard: Option<Heard>,
}

/// Why a worker has ended.
pub(crate) enum End {
    /// It was told to, or told that the subscription is to pause.
    Stopped,
    /// What it wrote did not count: the subscription is another process's now, was changed, or this process was not known to live.
    Over,
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
            sender: Sender::new(shared, subscription, hold),
            stop,
            news,
            joined: false,
            cursor: progress.cursor,
            exceptions,
            telling: (0, None),
            written: (progress.cursor, Instant::now()),
            doubtful: false,
            writing: Writing::Nothing,
            asked: Instant::now(),
            heard: None,
        })
    }

    /// Works until it is stopped, pauses, or is no more the one that is to do it.
    pub(crate) async fn run(mut self) -> End {
        let stop = self.stop.clone();
        loop {
            // What is under way when it is stopped is given up, and sent again by whoever comes next.
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                step = self.step() => step,
            };
            let rest = match step {
                Ok(Step::Moved) => continue,
                Ok(Step::Rest(until)) => until,
                Ok(Step::Over) => {
                    tracing::debug!(
                        subscription = self.sender.subscription.id,
                        "deliveries stop, for this process does not hold them"
                    );
                    return End::Over;
                }
                Ok(Step::Pause(reason)) => {
                    let pause = Pause {
                        id: self.sender.subscription.id.clone(),
                        reason,
                    };
                    // Only a service that has ended no longer listens.
                    let _ = self.sender.shared.pauses.send(pause);
                    return End::Stopped;
                }
                Err(error) => {
                    tracing::warn!(%error, subscription = self.sender.subscription.id, "deliveries wait for the store");
                    Some(later(self.sender.shared.store.now(), Duration::from_secs(1)))
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                () = self.rest(rest) => {}
            }
        }
    }

    /// Rests until then, until something is heard, or until it is time to look.
    async fn rest(&mut self, until: Option<Timestamp>) {
        let now = self.sender.shared.store.now();
        let wait = until.map_or(REST_MAX, |until| {
            Duration::try_from(until.duration_since(now)).unwrap_or_default()
        });
        let hears = self.joined && !self.sender.is_down();
        let heard = async {
            if !hears {
                std::future::pending::<()>().await;
            }
            self.news.wait().await
        };
        tokio::select! {
            biased;
            heard = heard => self.heard = Some(heard),
            () = self.writing.ended() => {}
            () = tokio::time::sleep(wait.min(REST_MAX)) => {}
        }
    }

    /// Does what is next. What it pauses for stands in the store before anyone is told.
    async fn step(&mut self) -> Result<Step, StoreError> {
        let step = self.next().await?;
        if matches!(step, Step::Pause(_)) && !self.finish_writing().await? {
            return Ok(Step::Over);
        }
        Ok(step)
    }

    async fn next(&mut self) -> Result<Step, StoreError> {
        if matches!(self.writing, Writing::Ended(_)) && !self.finish_writing().await? {
            return Ok(Step::Over);
        }
        if self.doubtful {
            self.read_again().await?;
        }
        let now = self.sender.shared.store.now();
        if self.sender.is_down() {
            // The one that was tried most: its waits grow, so the receiver is not hammered, and in the end it gives up.
            let heads = heads(self.exceptions.values());
            let probe = heads.into_iter().max_by_key(|(_, head)| head.attempts);
            match probe {
                Some((_, head)) if head.retry_at > now => return Ok(Step::Rest(Some(head.retry_at))),
                Some((lane, _)) => return self.again(vec![lane]).await,
                None => self.sender.forget_failures(),
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
            let page = self.sender.shared.store.feed(FeedStart::After(self.cursor), PAGE);
            return match self.writing.beside(page).await {
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
            if !self
                .sender
                .wants(&event.order_type, event.customer.as_deref(), &event.event)
            {
                continue;
            }
            let number = event.event.number;
            if let Some(exception) = self.exceptions.get(&event.order) {
                let exception = held.entry(event.order).or_insert_with(|| exception.clone());
                exception.until = exception.until.max(number);
                continue;
            }
            let lane = Lane::of(&self.sender.subscription, event);
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
        let now = self.sender.shared.store.now();
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
                fetched.push(self.sender.fetch(exception).await?);
            }
            groups.push(Group::again(lane, fetched, beyond, now));
        }
        self.send_all(groups, Vec::new(), None).await
    }
}

/// A moment so much later; the end of time where there is no such moment.
pub(crate) fn later(now: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait)
        .ok()
        .and_then(|wait| now.checked_add(wait).ok())
        .unwrap_or(Timestamp::MAX)
}
