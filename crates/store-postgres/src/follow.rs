//! What a node does beside its commits: it says that it lives, follows the feed that others write, and folds the counts.
//!
//! The feed's end is asked for, not listened to: `LISTEN` does not pass through a proxy that shares connections, and a
//! `NOTIFY` in each transaction would have all of them wait in one line. Asking costs one look at the end of an index,
//! often while things happen and seldom while nothing does.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;
use crate::column::micros;
use crate::committer::announce;
use crate::failure::Failure;
use crate::server::{Parameter, Server};

/// How often the feed's end is asked for while it moves, and while it does not.
const ASK_OFTEN: Duration = Duration::from_millis(25);
const ASK_SELDOM: Duration = Duration::from_millis(400);
/// How often the counts are folded.
const FOLD: Duration = Duration::from_secs(1);
/// How often a node says that it lives, and for how long that counts. Long enough that a busy machine is not taken for
/// dead; then it would only have to do work again.
const BEAT: Duration = Duration::from_secs(2);
pub(crate) const ALIVE: Duration = Duration::from_secs(10);

/// The newest position in the feed, and the database's time.
pub(crate) const END: &str = "SELECT greatest((SELECT max(position) FROM comanda.events), (SELECT max(position) FROM comanda.notices), 0), \
     clock_timestamp()";

/// Says that a node lives for so long.
pub(crate) async fn beat(server: &Server, node: Uuid, span: Duration) -> Result<(), Failure> {
    let span = micros(span);
    let parameters: [Parameter<'_>; 2] = [(&node, Type::UUID), (&span, Type::INT8)];
    server
        .ask("say that this node lives", "SELECT comanda.beat($1, $2)", &parameters)
        .await?;
    Ok(())
}

/// Follows the feed and folds the counts.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) server: Server,
    pub(crate) node: Uuid,
    pub(crate) clock: Arc<Clock>,
    pub(crate) position: watch::Sender<u64>,
    pub(crate) stop: CancellationToken,
}

impl Follower {
    /// Works until it is stopped.
    pub(crate) async fn run(self) {
        let mut wait = ASK_SELDOM;
        let mut fold_at = Instant::now() + FOLD;
        let mut beat_at = Instant::now() + BEAT;
        while self.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            let before = *self.position.borrow();
            wait = match self.ask(before).await {
                Some(newest) if newest > before => ASK_OFTEN,
                Some(_) => (wait * 2).min(ASK_SELDOM),
                None => ASK_SELDOM,
            };
            if Instant::now() >= beat_at {
                beat_at = Instant::now() + BEAT;
                if let Err(failure) = beat(&self.server, self.node, ALIVE).await {
                    tracing::warn!(error = %failure.into_error(), "the database was not told that this node lives");
                }
            }
            if Instant::now() >= fold_at {
                fold_at = Instant::now() + FOLD;
                if let Err(failure) = self.server.ask("fold the counts", "SELECT comanda.fold()", &[]).await {
                    tracing::debug!(error = %failure.into_error(), "the counts were not folded");
                }
            }
        }
    }

    /// Asks for the feed's end; `before` is what was known of it.
    async fn ask(&self, before: u64) -> Option<u64> {
        match self.server.ask("read the feed's end", END, &[]).await {
            Ok(rows) => {
                let row = rows.first()?;
                self.clock.learn(row.get(1));
                let newest = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
                if newest < before {
                    // What was known is no more: another server took over that did not have it, or retention removed it.
                    self.position.send_replace(newest);
                } else {
                    announce(&self.position, newest);
                }
                Some(newest)
            }
            Err(failure) => {
                tracing::debug!(error = %failure.into_error(), "the feed's end was not read");
                None
            }
        }
    }
}
