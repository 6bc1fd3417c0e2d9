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

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::oneshot;

    use super::*;

    fn runtime(name: &str) -> Runtime {
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn what_a_caller_leaves_behind_outlives_the_callers_runtime() {
        let (engine, request) = (runtime("engine"), runtime("request"));
        let tasks = engine.block_on(async { Tasks::here() });
        let (end, has_to_end) = oneshot::channel::<()>();
        let (ended, has_ended) = oneshot::channel();
        let caller = tasks.clone();
        request.block_on(async move {
            caller.spawn(async move {
                has_to_end.await.unwrap();
                ended.send(std::thread::current().name().map(str::to_owned)).unwrap();
            });
        });
        drop(request);
        end.send(()).unwrap();
        engine.block_on(async {
            assert!(tasks.end(Duration::from_secs(30)).await);
            assert_eq!(has_ended.await.unwrap().as_deref(), Some("engine"));
        });
    }
}
