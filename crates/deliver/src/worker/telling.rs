//! What is about a subscription and belongs to no order: that it may have missed events, and what became of others. Nothing
//! behind it in the feed is sent before the receiver has taken it.

use comanda_store::subscription::Advance;
use comanda_store::{Cursor, FeedEvent, FeedNotice, FeedStart, Notice, StoreError};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use super::{GONE, Step, Worker, later};
use crate::event::NoticeEvent;
use crate::target::{Outcome, Target};

impl Worker {
    /// Sends what is wanted of a part of the feed up to the first notice that is wanted; then that, when it is the next.
    pub(super) async fn send_page(
        &mut self,
        events: &[&FeedEvent],
        notices: &[&FeedNotice],
        next: Cursor,
    ) -> Result<Step, StoreError> {
        let wanted = |one: &&&FeedNotice| {
            one.cursor.position > self.cursor.position && self.sender.subscription.filter.matches_notice(&one.notice)
        };
        let Some(first) = notices.iter().find(wanted) else {
            return self.send_new(events, next).await;
        };
        // What stands behind it is read again.
        self.joined = false;
        let before = events.partition_point(|event| event.cursor.position < first.cursor.position);
        match events[..before].last() {
            Some(last) => self.send_new(&events[..before], last.cursor).await,
            None => {
                let now = self.sender.shared.store.now();
                self.tell(first.notice.clone(), first.cursor, now).await
            }
        }
    }

    /// Retention has passed the cursor, or the store was restored: tells everyone who wants to know, then the receiver, that
    /// it may have missed events, and goes on where the feed begins. Nothing else is sent before that is told.
    pub(super) async fn tell_gap(&mut self, now: Timestamp) -> Result<Step, StoreError> {
        if let Some(at) = self.telling.1.filter(|at| *at > now) {
            return Ok(Step::Rest(Some(at)));
        }
        let target = Target::of(&self.sender.subscription.url);
        let mut begin = self.sender.shared.store.feed(FeedStart::Oldest, 0).await?.next;
        if target == Target::Customer && begin.epoch != self.cursor.epoch {
            // A store that was restored: its customers have been told, perhaps long ago.
            begin = self.sender.shared.store.feed(FeedStart::Newest, 0).await?.next;
        }
        if matches!(target, Target::Archive(_)) {
            // What can still fail has all its events, so that an archive misses nothing.
            self.cursor = begin;
            self.written.1 = Instant::now();
            return Ok(Step::Moved);
        }
        let notice = Notice::gap(&self.sender.subscription.id, now, self.cursor, begin);
        // A customer has no use for a gap: there is nobody else to tell.
        let is_over = target == Target::Customer;
        let announced = Advance {
            notice: Some(notice.clone()),
            cursor: is_over.then_some(begin),
            ..self.nothing()
        };
        if !self.advance(announced).await? {
            return Ok(Step::Over);
        }
        if is_over {
            self.cursor = begin;
            self.written = (begin, Instant::now());
            return Ok(Step::Moved);
        }
        self.tell(notice, begin, now).await
    }

    /// Tells the receiver of what belongs to no order, by the schedule, and goes on at a place when it has taken it.
    async fn tell(&mut self, notice: Notice, next: Cursor, now: Timestamp) -> Result<Step, StoreError> {
        if let Some(at) = self.telling.1.filter(|at| *at > now) {
            return Ok(Step::Rest(Some(at)));
        }
        // Nothing is told before what was sent ahead of it is written down.
        if !self.finish_writing().await? || !self.sender.is_held().await? {
            return Ok(Step::Over);
        }
        let (id, kind) = (notice.id.clone(), notice.kind.wire_name());
        let body = json!(NoticeEvent::from(notice));
        self.telling.0 += 1;
        let Some(tried) = self.sender.shared.send_own(&self.sender.subscription, &id, &body).await else {
            self.cursor = next;
            self.telling = (0, None);
            return Ok(Step::Moved);
        };
        let delivered = matches!(tried.outcome, Outcome::Delivered | Outcome::Refused(_));
        let advance = Advance {
            cursor: delivered.then_some(next),
            deliveries: vec![self.sender.log(&id, kind, now, self.telling.0, &tried)],
            ..self.nothing()
        };
        if !self.advance(advance).await? {
            return Ok(Step::Over);
        }
        if delivered {
            self.cursor = next;
            self.written = (next, Instant::now());
            self.telling = (0, None);
            return Ok(Step::Moved);
        }
        let asked = match tried.outcome {
            Outcome::Failed { retry_after, .. } => retry_after,
            Outcome::Delivered | Outcome::Unwanted | Outcome::Refused(_) | Outcome::Gone => {
                return Ok(Step::Pause(GONE.to_owned()));
            }
        };
        match self.sender.shared.options.wait_after(self.telling.0, asked) {
            Some(wait) => {
                let at = later(now, wait);
                self.telling.1 = Some(at);
                Ok(Step::Rest(Some(at)))
            }
            None => Ok(Step::Pause(format!(
                "{id} could not be delivered in {} tries",
                self.telling.0
            ))),
        }
    }
}
