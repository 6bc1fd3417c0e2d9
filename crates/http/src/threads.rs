//! The threads that serve connections, and what they leave to others.
//!
//! Each connection stays on one thread. A request waits while its commit is made durable, with dozens of others; were it
//! then to go on wherever a thread is free, as tasks of a runtime with several threads do, each thread would read what the
//! other had written, and free what the other had allocated. (What that brings is in docs/performance.md.)
//!
//! The price is that a thread's connections wait while it computes. So what may take long, and what outlives its request,
//! runs on the threads that everything else shares.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::Method;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::mount::Mounted;

/// Larger bodies take long to read: some hundred microseconds and more.
const BODY_BYTES_SHORT: u64 = 64 * 1024;

/// Threads that serve connections. They end with this, and whatever still runs on them.
pub(crate) struct ConnectionThreads {
    /// Of one thread each. Not of the kind that has no threads of its own: that one is woken by a system call for each task,
    /// and the store's writer wakes dozens at a time.
    runtimes: Vec<Runtime>,
    next: AtomicUsize,
}

impl ConnectionThreads {
    /// As many as there are processors for this process.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let start = |_| {
            Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("connections")
                .enable_all()
                .build()
        };
        Ok(Self {
            runtimes: (0..count).map(start).collect::<Result<_, _>>()?,
            next: AtomicUsize::new(0),
        })
    }

    /// Serves a connection on the thread whose turn it is.
    pub(crate) fn serve(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(runtime) = self.runtimes.get(turn % self.runtimes.len().max(1)) {
            runtime.spawn(connection);
        }
    }
}

impl Drop for ConnectionThreads {
    fn drop(&mut self) {
        // Dropped as they are, they would wait for their threads, which a task must not.
        for runtime in self.runtimes.drain(..) {
            runtime.shutdown_background();
        }
    }
}

/// The threads that everything shares. HTTP/2 runs here: one connection may carry what else would come over hundreds.
#[derive(Clone)]
pub(crate) struct SharedThreads(pub(crate) Handle);

impl<F> hyper::rt::Executor<F> for SharedThreads
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl SharedThreads {
    /// Runs something here for someone who waits for it elsewhere, and ends it if they go away.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let running = AbortOnDropHandle::new(self.0.spawn(work.in_current_span()));
        match running.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                // As if it had run where it was asked for.
                Ok(panic) => std::panic::resume_unwind(panic),
                // The process is ending, and this connection with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// Whether a request is about one order and soon done but for its waiting, so that it stays on its connection's thread.
pub(crate) fn is_short(route: &str, mounted: Option<&Mounted>, request: &Request) -> bool {
    let is_of_one = match mounted {
        Some(mounted) => mounted.id.is_some() || *request.method() == Method::POST,
        None => match route {
            "/v1/orders" => *request.method() == Method::POST,
            route => matches!(route, "/v1/orders/{id}" | "/v1/orders/{id}/transition" | "/healthz"),
        },
    };
    // One of unknown length may be long.
    is_of_one && (request.body().size_hint().upper()).is_some_and(|bytes| bytes <= BODY_BYTES_SHORT)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn only_what_is_about_one_order_and_small_stays() {
        let unknown = || Body::from_stream(futures_util::stream::empty::<std::io::Result<Vec<u8>>>());
        let of = |bytes: usize| Body::from(vec![b' '; bytes]);
        for (route, method, body, stays) in [
            ("/v1/orders", "POST", of(200), true),
            ("/v1/orders", "POST", of(65_536), true),
            ("/v1/orders", "POST", of(65_537), false),
            ("/v1/orders", "GET", of(0), false),
            ("/v1/orders/batch", "POST", of(200), false),
            ("/v1/orders/{id}", "GET", of(0), true),
            ("/v1/orders", "POST", unknown(), false),
            ("/v1/subscriptions", "POST", of(200), false),
        ] {
            let request = Request::builder().method(method).uri("/").body(body).unwrap();
            let length = request.body().size_hint().upper();
            assert_eq!(is_short(route, None, &request), stays, "{method} {route} {length:?}");
        }
    }

    #[tokio::test]
    async fn what_runs_elsewhere_ends_with_who_waits_for_it() {
        let shared = SharedThreads(Handle::current());
        let (held, released) = oneshot::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let mut waiting = Box::pin(shared.run(async move {
            let _held = held;
            begun.send(()).unwrap();
            std::future::pending::<()>().await;
        }));
        tokio::select! {
            () = &mut waiting => panic!("it never ends by itself"),
            begun = has_begun => begun.unwrap(),
        }
        drop(waiting);
        let released = tokio::time::timeout(Duration::from_secs(30), released).await;
        assert!(released.unwrap().is_err());
    }

    #[tokio::test]
    async fn connections_take_turns_on_threads_that_end_with_them() {
        let threads = ConnectionThreads::start().unwrap();
        let count = std::thread::available_parallelism().unwrap().get();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..count {
            let (tell, told) = oneshot::channel();
            threads.serve(async move { tell.send(std::thread::current().id()).unwrap() });
            seen.insert(told.await.unwrap());
        }
        assert_eq!(seen.len(), count);
        let (held, ended) = oneshot::channel::<()>();
        threads.serve(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(threads);
        let ended = tokio::time::timeout(Duration::from_secs(30), ended).await;
        assert!(ended.unwrap().is_err());
    }
}
