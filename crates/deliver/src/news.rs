//! What tells a worker that the feed has something for it.

use comanda_store::Cursor;
use comanda_store::subscription::EventFilter;
use tokio::sync::watch;

use crate::tail::{Follower, Heard as Told, Part, Tail};

/// What a worker listens to.
pub(crate) enum News {
    /// Every event at the feed's end that its filter wants.
    Feed(Following),
    /// Only that orders of this process have become dead letters. Whoever wants nothing else lets the feed lie unread
    /// until then.
    Deaths(watch::Receiver<u64>),
}

/// Follows the feed's end, again and again if it has to.
pub(crate) struct Following {
    tail: Tail,
    filter: EventFilter,
    follower: Follower,
    /// It was too much: what was handed out since is lost.
    is_lost: bool,
}

impl Following {
    pub(crate) fn new(tail: &Tail, filter: EventFilter) -> Self {
        Self {
            tail: tail.clone(),
            follower: tail.follow(filter.clone()),
            filter,
            is_lost: false,
        }
    }

    fn hear(&mut self, told: Told) -> Heard {
        match told {
            Told::Part(part) => Heard::Part(part),
            Told::Nothing => Heard::Nothing,
            Told::Lost => {
                self.is_lost = true;
                Heard::Read
            }
        }
    }
}

/// What was heard.
pub(crate) enum Heard {
    /// What is wanted of a part of the feed's end.
    Part(Part),
    /// That the feed is to be read.
    Read,
    /// Nothing.
    Nothing,
}

impl News {
    /// Called before the feed is read: what comes from then on is heard.
    pub(crate) fn before_reading(&mut self) {
        match self {
            Self::Feed(feed) if feed.is_lost => *feed = Following::new(&feed.tail, feed.filter.clone()),
            Self::Feed(_) => {}
            Self::Deaths(deaths) => deaths.mark_unchanged(),
        }
    }

    /// Up to where there was nothing more, if then nothing is heard.
    pub(crate) fn reached(&self) -> Option<Cursor> {
        match self {
            Self::Feed(feed) => feed.follower.reached(),
            Self::Deaths(_) => None,
        }
    }

    /// What there is by now.
    pub(crate) fn heard(&mut self) -> Heard {
        match self {
            Self::Feed(feed) => {
                let told = feed.follower.heard();
                feed.hear(told)
            }
            // An engine that is gone announces nothing more.
            Self::Deaths(deaths) => match deaths.has_changed() {
                Ok(true) => Heard::Read,
                Ok(false) | Err(_) => Heard::Nothing,
            },
        }
    }

    /// Waits for something.
    pub(crate) async fn wait(&mut self) -> Heard {
        match self {
            Self::Feed(feed) => {
                let told = feed.follower.wait().await;
                feed.hear(told)
            }
            Self::Deaths(deaths) => match deaths.changed().await {
                Ok(()) => Heard::Read,
                Err(_) => std::future::pending().await,
            },
        }
    }
}
