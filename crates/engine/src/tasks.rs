//! What runs beside the calls of the engine, and is waited for when it stops.
//!
//! All of it runs where the engine was started. A caller may be on a runtime that ends before: a thread that serves
//! connections, say.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// The engine's tasks. Cloning it clones a handle.
#[derive(Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    runtime: Handle,
}

impl Tasks {
    /// Tasks on the runtime of the caller.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub(crate) fn here() -> Self {
        Self {
            tracker: TaskTracker::new(),
            runtime: Handle::current(),
        }
    }

    /// Runs something beside the caller. Where the runtime has ended, and the process with it, nothing runs.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(task, &self.runtime);
    }

    /// Waits until all have ended, those included that begin meanwhile. Whether they did within `grace`.
    pub(crate) async fn end(&self, grace: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }

    /// Waits until all have ended.
    pub(crate) async fn ended(&self) {
        self.tracker.wait().await;
    }
}
