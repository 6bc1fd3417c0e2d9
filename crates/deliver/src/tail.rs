//! One reader at the feed's end for all who follow it: subscriptions, and live streams. Each is handed the events that its
//! filter wants, and nothing else, so that a thousand that want something else cost an event nothing. Who falls behind reads
//! for itself and joins again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use comanda_store::subscription::EventFilter;
use comanda_store::{Cursor, FeedEvent, FeedNotice, FeedPage, FeedStart, Store};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// The most events that are read at once.
pub(crate) const PAGE: usize = 100;
/// How many parts wait for a follower before it has to read for itself.
const PARTS_KEPT: usize = 64;
/// How often the feed is looked at that announced nothing: it may have grown on another node.
const POLL: Duration = Duration::from_secs(2);

/// What a follower is handed: all that it wants of a part of the feed.
#[derive(Clone, Debug)]
pub struct Part {
    /// The place that it begins after.
    pub after: Cursor,
    /// What is wanted of it.
    pub events: Vec<Arc<FeedEvent>>,
    /// What is wanted of it that belongs to no order.
    pub notices: Vec<Arc<FeedNotice>>,
    /// The place that it ends at.
    pub next: Cursor,
}

/// What was heard.
#[derive(Debug)]
pub enum Heard {
    /// What is wanted of a part of the feed.
    Part(Part),
    /// That it was too much: read for yourself, and follow again.
    Lost,
    /// Nothing.
    Nothing,
}

/// Follows the feed's end. Cloning it clones a handle.
#[derive(Clone)]
pub struct Tail(Arc<Inner>);

struct Inner {
    followers: Mutex<Followers>,
    /// Wakes the reader when somebody follows again.
    followed: Notify,
}

#[derive(Default)]
struct Followers {
    /// Everything up to here has been handed out. None while nobody reads.
    reached: Option<Cursor>,
    next_id: u64,
    all: HashMap<u64, Handed>,
    /// Where to look for those who want an event: by what their filters name, the rarest first.
    by_customer: HashMap<String, BTreeSet<u64>>,
    by_type: HashMap<String, BTreeSet<u64>>,
    any: BTreeSet<u64>,
}

struct Handed {
    filter: EventFilter,
    /// Up to where it has been told.
    told: Option<Cursor>,
    parts: mpsc::Sender<Part>,
}

/// What one follower wants of a page.
#[derive(Default)]
struct Wanted {
    events: Vec<Arc<FeedEvent>>,
    notices: Vec<Arc<FeedNotice>>,
}

impl Followers {
    /// The lists that a filter stands in.
    fn lists(&mut self, filter: &EventFilter, each: impl Fn(&mut BTreeSet<u64>)) {
        let (named, lists) = match filter {
            EventFilter { customers, .. } if !customers.is_empty() => (customers, &mut self.by_customer),
            EventFilter { types, .. } if !types.is_empty() => (types, &mut self.by_type),
            _ => return each(&mut self.any),
        };
        for name in named {
            let list = lists.entry(name.clone()).or_default();
            each(list);
            if list.is_empty() {
                lists.remove(name);
            }
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(gone) = self.all.remove(&id) {
            self.lists(&gone.filter, |list| {
                list.remove(&id);
            });
        }
    }

    /// Hands out a page. Who does not keep up is dropped, and finds out when it has read what it was handed before.
    fn hand_out(&mut self, after: Cursor, page: FeedPage) {
        let mut wanted: BTreeMap<u64, Wanted> = BTreeMap::new();
        for event in page.events {
            let of_customer = event.customer.as_ref().and_then(|name| self.by_customer.get(name));
            let of_type = self.by_type.get(&*event.order_type);
            let lists = of_customer.into_iter().chain(of_type).chain([&self.any]);
            let ids: Vec<u64> = lists
                .flatten()
                .copied()
                .filter(|id| {
                    let filter = self.all.get(id).map(|one| &one.filter);
                    filter.is_some_and(|filter| {
                        filter.matches(&event.order_type, event.customer.as_deref(), &event.event)
                    })
                })
                .collect();
            if ids.is_empty() {
                continue;
            }
            let event = Arc::new(event);
            for id in ids {
                wanted.entry(id).or_default().events.push(event.clone());
            }
        }
        for notice in page.notices {
            let notice = Arc::new(notice);
            // Who names a type or a customer wants none.
            for id in &self.any {
                let filter = self.all.get(id).map(|one| &one.filter);
                if filter.is_some_and(|filter| filter.matches_notice(&notice.notice)) {
                    wanted.entry(*id).or_default().notices.push(notice.clone());
                }
            }
        }
        let mut gone = Vec::new();
        for (id, Wanted { events, notices }) in wanted {
            let Some(follower) = self.all.get_mut(&id) else {
                continue;
            };
            let part = Part {
                after: follower.told.unwrap_or(after),
                events,
                notices,
                next: page.next,
            };
            follower.told = Some(page.next);
            if follower.parts.try_send(part).is_err() {
                gone.push(id);
            }
        }
        for id in gone {
            self.remove(id);
        }
        self.reached = Some(page.next);
    }

    /// The reading begins anew here: tells everyone, who may have missed something before.
    fn begin(&mut self, at: Cursor) {
        let mut gone = Vec::new();
        for (id, follower) in &mut self.all {
            follower.told = Some(at);
            let part = Part {
                after: at,
                events: Vec::new(),
                notices: Vec::new(),
                next: at,
            };
            if follower.parts.try_send(part).is_err() {
                gone.push(*id);
            }
        }
        for id in gone {
            self.remove(id);
        }
        self.reached = Some(at);
    }
}

/// One who follows. Dropping it ends that.
pub struct Follower {
    id: u64,
    tail: Tail,
    parts: mpsc::Receiver<Part>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.tail.0.followers.lock().remove(self.id);
    }
}

impl Follower {
    /// What there is by now.
    pub fn heard(&mut self) -> Heard {
        match self.parts.try_recv() {
            Ok(part) => Heard::Part(part),
            Err(mpsc::error::TryRecvError::Empty) => Heard::Nothing,
            Err(mpsc::error::TryRecvError::Disconnected) => Heard::Lost,
        }
    }

    /// Waits for something.
    pub async fn wait(&mut self) -> Heard {
        self.parts.recv().await.map_or(Heard::Lost, Heard::Part)
    }

    /// Up to here everything has been handed out. Asked before [`Self::heard`] says that there is nothing, it is how far this
    /// one has come.
    pub fn reached(&self) -> Option<Cursor> {
        self.tail.0.followers.lock().reached
    }
}

impl Tail {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            followers: Mutex::default(),
            followed: Notify::new(),
        }))
    }

    /// From here on, every event that the filter wants is handed out. Read the feed afterwards up to its end: what is handed
    /// out begins where the reader stands now, or with an empty part that says where it begins.
    pub fn follow(&self, filter: EventFilter) -> Follower {
        let (sender, parts) = mpsc::channel(PARTS_KEPT);
        let mut followers = self.0.followers.lock();
        followers.next_id += 1;
        let id = followers.next_id;
        followers.lists(&filter, |list| {
            list.insert(id);
        });
        let told = followers.reached;
        let handed = Handed {
            filter,
            told,
            parts: sender,
        };
        followers.all.insert(id, handed);
        self.0.followed.notify_one();
        let tail = self.clone();
        Follower { id, tail, parts }
    }

    /// Reads until the end.
    pub(crate) async fn run(self, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut position = store.position();
        let mut from = FeedStart::Newest;
        loop {
            if stop.is_cancelled() {
                return;
            }
            let is_followed = {
                let mut followers = self.0.followers.lock();
                if followers.all.is_empty() {
                    // Nobody hears it, so nothing is read. Whoever comes meanwhile reads for itself at first.
                    followers.reached = None;
                }
                !followers.all.is_empty()
            };
            if !is_followed {
                from = FeedStart::Newest;
                tokio::select! {
                    biased;
                    () = self.0.followed.notified() => continue,
                    () = stop.cancelled() => return,
                }
            }
            // Marked as seen before reading, so that what comes during the read wakes at once.
            position.mark_unchanged();
            match store.feed(from, PAGE).await {
                Ok(page) => {
                    let (is_empty, next) = (page.is_empty(), page.next);
                    // What is not full ends at the feed's end; whatever came since has moved the position.
                    let is_full = page.events.len() + page.notices.len() >= PAGE;
                    match from {
                        FeedStart::After(_) if is_empty => {}
                        FeedStart::After(after) => self.0.followers.lock().hand_out(after, page),
                        FeedStart::Oldest | FeedStart::Newest => self.0.followers.lock().begin(next),
                    }
                    from = FeedStart::After(next);
                    if is_full {
                        continue;
                    }
                }
                // Whoever is behind reads for itself, and meets the reset there.
                Err(comanda_store::StoreError::CursorReset) => from = FeedStart::Newest,
                Err(error) => tracing::warn!(%error, "the feed could not be read for those who follow it"),
            }
            tokio::select! {
                biased;
                _ = position.changed() => {}
                () = tokio::time::sleep(POLL) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use comanda_model::{Event, EventKind, OrderId};
    use jiff::Timestamp;

    use super::*;

    fn at(position: u64) -> Cursor {
        Cursor { epoch: 1, position }
    }

    fn event(position: u64, order_type: &str, customer: &str) -> FeedEvent {
        FeedEvent {
            order: OrderId(uuid::Uuid::from_u128(1)),
            order_type: order_type.into(),
            customer: Some(customer.to_owned()),
            group: None,
            event: Event {
                number: position,
                at: Timestamp::UNIX_EPOCH,
                kind: EventKind::Accepted,
                from: None,
                to: None,
                by: "local".into(),
                reason: None,
                changed: Vec::new(),
            },
            cursor: at(position),
        }
    }

    /// Hands out one page that ends with this event.
    fn hand_out(tail: &Tail, event: FeedEvent) {
        let next = event.cursor;
        let page = FeedPage {
            events: vec![event],
            notices: Vec::new(),
            next,
        };
        tail.0.followers.lock().hand_out(at(next.position - 1), page);
    }

    fn positions(heard: Heard) -> Option<(u64, Vec<u64>)> {
        match heard {
            Heard::Part(part) => {
                let of = part.events.iter().map(|event| event.cursor.position);
                Some((part.after.position, of.collect()))
            }
            Heard::Lost | Heard::Nothing => None,
        }
    }

    #[test]
    fn everyone_is_handed_what_the_filter_wants_and_knows_how_far_that_reaches() {
        let tail = Tail::new();
        tail.0.followers.lock().begin(at(10));
        let filter = |types: &[&str], customers: &[&str]| EventFilter {
            types: types.iter().map(|name| (*name).to_owned()).collect(),
            customers: customers.iter().map(|name| (*name).to_owned()).collect(),
            ..EventFilter::default()
        };
        let mut all = tail.follow(filter(&[], &[]));
        let mut sales = tail.follow(filter(&["sale"], &[]));
        let mut ann = tail.follow(filter(&["sale"], &["ann", "bob"]));
        hand_out(&tail, event(11, "note", "ann"));
        hand_out(&tail, event(12, "sale", "eve"));
        hand_out(&tail, event(13, "sale", "ann"));
        assert_eq!(positions(all.heard()), Some((10, vec![11])));
        assert_eq!(positions(all.heard()), Some((11, vec![12])));
        assert_eq!(
            positions(sales.heard()),
            Some((10, vec![12])),
            "nothing was missed from 10 on"
        );
        assert_eq!(positions(sales.heard()), Some((12, vec![13])));
        assert_eq!(positions(ann.heard()), Some((10, vec![13])));
        assert_eq!(ann.reached(), Some(at(13)));
        assert!(matches!(ann.heard(), Heard::Nothing));
    }

    #[test]
    fn who_does_not_keep_up_is_told_and_holds_up_nobody() {
        let tail = Tail::new();
        tail.0.followers.lock().begin(at(0));
        let mut slow = tail.follow(EventFilter::default());
        let mut quick = tail.follow(EventFilter::default());
        for position in 1..=PARTS_KEPT as u64 + 1 {
            hand_out(&tail, event(position, "sale", "ann"));
            assert!(positions(quick.heard()).is_some());
        }
        for position in 1..=PARTS_KEPT as u64 {
            assert_eq!(positions(slow.heard()), Some((position - 1, vec![position])));
        }
        assert!(matches!(slow.heard(), Heard::Lost));
        drop((slow, quick));
        let followers = tail.0.followers.lock();
        assert!(followers.all.is_empty() && followers.any.is_empty(), "nobody is left");
    }
}
