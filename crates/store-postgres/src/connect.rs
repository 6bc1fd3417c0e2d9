//! Where connections live: on the runtime that the store was opened on. Whoever is the first to need one may be on a runtime
//! that ends before, such as a thread that serves connections of HTTP, and others use it after them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use deadpool_postgres::Connect;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error};
use tokio_util::task::AbortOnDropHandle;

/// Makes connections on one runtime, whoever asks.
pub(crate) struct Settled<C> {
    connect: Arc<C>,
    runtime: Handle,
}

impl<C> Settled<C> {
    /// On the runtime of the caller.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub(crate) fn here(connect: C) -> Self {
        Self {
            connect: Arc::new(connect),
            runtime: Handle::current(),
        }
    }
}

type Connected = Result<(Client, JoinHandle<()>), Error>;

impl<C: Connect + 'static> Connect for Settled<C> {
    fn connect(&self, config: &Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
        let (connect, config) = (self.connect.clone(), config.clone());
        let connecting = self.runtime.spawn(async move { connect.connect(&config).await });
        // Who gives up waiting gives up the attempt.
        let connecting = AbortOnDropHandle::new(connecting);
        Box::pin(async move {
            match connecting.await {
                Ok(connected) => connected,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime has ended, and the store with it; whoever asks has a limit of time.
                    Err(_) => std::future::pending().await,
                },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::runtime::{Builder, Runtime};
    use tokio_postgres::NoTls;

    use super::*;

    /// Notes on which thread it is asked, and finds no server.
    struct Noting(Arc<Mutex<Vec<String>>>);

    impl Connect for Noting {
        fn connect(&self, _: &Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
            Box::pin(async {
                let thread = std::thread::current().name().unwrap_or_default().to_owned();
                self.0.lock().unwrap().push(thread);
                // Without a host there is nothing to connect to.
                match Config::new().connect(NoTls).await {
                    Err(error) => Err(error),
                    Ok(_) => panic!("there is no server"),
                }
            })
        }
    }

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
    fn a_connection_is_made_where_the_store_was_opened() {
        let noted = Arc::new(Mutex::new(Vec::new()));
        let (store, request) = (runtime("store"), runtime("request"));
        let connect = {
            let _here = store.enter();
            Settled::here(Noting(noted.clone()))
        };
        let asked = request.spawn(async move { connect.connect(&Config::new()).await.is_err() });
        assert!(request.block_on(asked).unwrap());
        assert_eq!(*noted.lock().unwrap(), ["store"]);
    }
}
