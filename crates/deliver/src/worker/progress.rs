//! Writing down how far a subscription has come. A write goes on beside the sending of what comes next, so that a fast
//! receiver does not wait for the disk. There is one at a time; when it fails, what stands in the store is read before
//! anything else is done, and what was sent meanwhile is sent again.

use comanda_store::StoreError;
use comanda_store::subscription::Advance;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, pending};
use tokio::time::Instant;

use super::{UNWRITTEN_MAX, Worker};

/// A write of progress.
#[derive(Default)]
pub(super) enum Writing {
    /// There is none.
    #[default]
    Nothing,
    UnderWay(BoxFuture<'static, Result<bool, StoreError>>),
    Ended(Result<bool, StoreError>),
}

impl Writing {
    /// Goes on with it while something else is done.
    pub(super) async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        if let Self::UnderWay(write) = self {
            tokio::select! {
                biased;
                ended = write => *self = Self::Ended(ended),
                other = &mut other => return other,
            }
        }
        other.await
    }

    /// Waits until it has ended; for ever if there is none.
    pub(super) async fn ended(&mut self) {
        match self {
            Self::Nothing => pending().await,
            Self::UnderWay(write) => *self = Self::Ended(write.await),
            Self::Ended(_) => {}
        }
    }
}

impl Worker {
    /// A step that moves nothing.
    pub(super) fn nothing(&self) -> Advance {
        Advance {
            hold: self.sender.hold,
            cursor: None,
            failed: Vec::new(),
            settled: Vec::new(),
            deliveries: Vec::new(),
            notice: None,
        }
    }

    /// Begins to write down how far it has come; what was begun before must have ended.
    pub(super) fn begin_writing(&mut self, advance: Advance) {
        let (shared, id) = (self.sender.shared.clone(), self.sender.subscription.id.clone());
        let mut write = async move { shared.port()?.advance(&id, advance).await }.boxed();
        self.asked = Instant::now();
        // Handed to the store at once, so that whatever is written after this worker was stopped comes behind it.
        self.writing = match (&mut write).now_or_never() {
            Some(ended) => Writing::Ended(ended),
            None => Writing::UnderWay(write),
        };
    }

    /// Waits for what was begun; answers whether it counts.
    pub(super) async fn finish_writing(&mut self) -> Result<bool, StoreError> {
        let ended = match std::mem::take(&mut self.writing) {
            Writing::Nothing => return Ok(true),
            Writing::UnderWay(write) => write.await,
            Writing::Ended(ended) => ended,
        };
        let applied = ended.inspect_err(|_| self.doubtful = true)?;
        if applied {
            self.sender.confirm(self.asked).await;
        }
        Ok(applied)
    }

    /// Writes down how far it has come; answers whether that counts, and all that was written before.
    pub(super) async fn advance(&mut self, advance: Advance) -> Result<bool, StoreError> {
        if !self.finish_writing().await? {
            return Ok(false);
        }
        self.begin_writing(advance);
        self.finish_writing().await
    }

    /// Writes the cursor down, if it has passed events that nobody wanted for long enough.
    pub(super) async fn write_cursor(&mut self) -> Result<(), StoreError> {
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

    /// Takes up the progress that stands in the store. To go on from what was meant to be written would lose events: the
    /// cursor there may have passed some that only an exception there still names.
    pub(super) async fn read_again(&mut self) -> Result<(), StoreError> {
        let sender = &self.sender;
        if let Some(progress) = sender.shared.port()?.progress(&sender.subscription.id).await? {
            self.cursor = progress.cursor;
            self.written = (progress.cursor, Instant::now());
            self.exceptions = progress.exceptions.into_iter().map(|one| (one.order, one)).collect();
            self.joined = false;
        }
        // A receiver that is down is probed with what was tried before. The store may know of no try, and then nothing would
        // ever be sent again.
        self.sender.forget_failures();
        self.doubtful = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_comes_next_does_not_wait_for_the_write_and_moves_it_on() {
        let (durable, written) = oneshot::channel();
        let write = async move {
            written.await.expect("the test says when it is durable");
            Ok(true)
        };
        let mut writing = Writing::UnderWay(write.boxed());
        assert_eq!(writing.beside(async { "sent" }).await, "sent");
        assert!(matches!(writing, Writing::UnderWay(_)));
        let (taken, answer) = oneshot::channel();
        // The receiver answers only after the write has ended: both are driven.
        let both = async {
            writing.beside(answer).await.expect("the receiver answers");
            writing
        };
        let ending = async {
            durable.send(()).expect("the write is heard of");
            tokio::task::yield_now().await;
            taken.send(()).expect("the answer is waited for");
        };
        let (writing, ()) = tokio::join!(both, ending);
        assert!(matches!(writing, Writing::Ended(Ok(true))));
    }

    #[tokio::test]
    async fn one_that_failed_is_told_once_it_is_asked() {
        let failed = async { Err(StoreError::CursorReset) };
        let mut writing = Writing::UnderWay(failed.boxed());
        writing.ended().await;
        writing.ended().await;
        assert!(matches!(writing, Writing::Ended(Err(StoreError::CursorReset))));
    }
}
