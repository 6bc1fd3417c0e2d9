//! The HTTP API: `/v1`, the types' mounts in their own wire form, problems, keys, limits, live streams, OpenAPI.
//!
//! [`Server`] is its face. A request passes the frame (request id, trace, host check, key, time limit), then its route,
//! and goes out through the frame again, where a [`Problem`] gets its body.

mod access;
mod audit;
mod batch;
mod body;
mod callbacks;
mod claims;
mod codes;
mod customers;
mod dead_letters;
mod erasure;
mod frame;
mod intake;
mod inventory;
mod jobs;
mod keys;
mod links;
mod listing;
mod meter;
mod mount;
mod openapi;
mod orders;
mod pages;
mod problem;
mod queues;
mod rate;
mod request;
mod respond;
mod sandbox;
mod socket;
mod streams;
mod subscriptions;
#[cfg(test)]
mod tests;
mod threads;
mod types;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use comanda_deliver::Deliveries;
use comanda_engine::Service;
use comanda_intake::Intake;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use codes::{Advice, CODES};
pub use keys::{Key, KeyError, KeyRing, Scope};
pub use openapi::openapi;
pub use problem::Problem;
pub use rate::{KeyRate, RATE_MAX, Rate, RateError};

use meter::Meters;
use rate::Rates;
use socket::Socket;
use threads::{ConnectionThreads, SharedThreads};

/// How long a stop waits for answers that are under way.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How the server listens and what it bounds.
#[derive(Clone)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The largest body, in bytes. Default 1 MiB; a batch may be eight times as large.
    pub body_bytes_max: usize,
    /// The largest head of a request, in bytes.
    pub header_bytes_max: usize,
    /// The most connections at once; others wait to be accepted.
    pub connections_max: usize,
    /// How long a client may take to send the head of a request.
    pub header_read_timeout: Duration,
    /// How long a request may take, the client's waiting not counted.
    pub request_timeout: Duration,
    /// The most live streams at once.
    pub streams_max: usize,
    /// Types at further paths: `("/orders", "sale")`.
    pub mounts: Vec<(String, String)>,
    /// Answer without keys on any address.
    pub insecure: bool,
    /// The API keys.
    pub keys: Arc<KeyRing>,
    /// The subscriptions, where the store keeps any.
    pub deliveries: Option<Deliveries>,
    /// Where orders come from besides the API, if anywhere.
    pub intake: Option<Intake>,
    /// Renders `/metrics`.
    pub metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    /// Where others reach this server, without a slash at the end: links begin with it.
    pub public_url: String,
    /// The program's version, for OpenAPI.
    pub version: String,
}

impl Options {
    /// The defaults, for an address: no keys, no mounts besides the types' own names, no metrics.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            body_bytes_max: 1024 * 1024,
            header_bytes_max: 16 * 1024,
            connections_max: 10_000,
            header_read_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            streams_max: 1000,
            mounts: Vec::new(),
            insecure: false,
            keys: Arc::new(KeyRing::none()),
            deliveries: None,
            intake: None,
            metrics: None,
            public_url: format!("http://{listen}"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The whole API as a router, for a server of another program: it answers as a [`Server`] at `options.listen` would, and
/// listens nowhere. What bounds connections (their number, the size and time of their heads) is for that server to set.
///
/// It has a fallback of its own (the types' mounts), so it is not merged but made the fallback of the other's router:
/// `Router::new().route(…).fallback_service(comanda_http::router(options, service))`. Its routes begin at `/`.
pub fn router(options: Options, service: Service) -> Router {
    let is_loopback = options.listen.ip().is_loopback();
    App::new(options, service, is_loopback, None).router()
}

/// Why the server could not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program listens there.
    #[error("{addr} is in use")]
    PortInUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The address can be reached from elsewhere, and there are no keys.
    #[error("{addr} can be reached from elsewhere, and there are no API keys")]
    KeysNeeded {
        /// The address.
        addr: SocketAddr,
    },
    /// There are no threads for the connections.
    #[error("the threads that serve connections could not be started")]
    Threads {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Anything else.
    #[error("{addr} could not be listened on")]
    Io {
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What all routes share.
#[derive(Clone)]
pub(crate) struct App(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) service: Service,
    pub(crate) options: Options,
    pub(crate) streams: Arc<Semaphore>,
    /// Whether the server is on a loopback address, where no key is needed and the Host header is checked.
    pub(crate) loopback: bool,
    pub(crate) stopping: CancellationToken,
    pub(crate) meters: Meters,
    pub(crate) rates: Rates,
    /// Why the node was not ready when it was last asked, if it was not: the log is told when that changes.
    pub(crate) unready: Mutex<Option<String>>,
    /// Where requests run that may take long, if connections have threads of their own.
    pub(crate) shared_threads: Option<SharedThreads>,
}

impl std::ops::Deref for App {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// A server that listens and has not begun to answer.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: App,
    threads: ConnectionThreads,
}

/// Takes an address to listen on; whoever connects before the server runs waits.
///
/// # Errors
/// [`BindError::PortInUse`], or whatever the system says.
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => BindError::PortInUse { addr },
        _ => BindError::Io { addr, source },
    })
}

fn may_listen(options: &Options) -> Result<(), BindError> {
    let addr = options.listen;
    match addr.ip().is_loopback() || !options.keys.is_empty() || options.insecure {
        true => Ok(()),
        false => Err(BindError::KeysNeeded { addr }),
    }
}

impl Server {
    /// Begins to listen. Refuses an address that can be reached from elsewhere if there are no keys.
    pub async fn bind(options: Options, service: Service) -> Result<Self, BindError> {
        may_listen(&options)?;
        let listener = listen(options.listen).await?;
        Self::over(listener, options, service).await
    }

    /// The same over a socket that [`listen`] has bound before, in place of `options.listen`.
    ///
    /// # Errors
    /// As [`Server::bind`], but for what is about binding.
    pub async fn over(listener: TcpListener, options: Options, service: Service) -> Result<Self, BindError> {
        may_listen(&options)?;
        let addr = options.listen;
        let address = listener.local_addr().map_err(|source| BindError::Io { addr, source })?;
        let threads = ConnectionThreads::start().map_err(|source| BindError::Threads { source })?;
        let shared = Some(SharedThreads(Handle::current()));
        let app = App::new(options, service, address.ip().is_loopback(), shared);
        links::seal_anew(&app).await;
        Ok(Self {
            listener,
            address,
            app,
            threads,
        })
    }

    /// Where it listens; the port is the real one also where any was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown`; then accepts no more, ends streams, and lets what is under way end.
    pub async fn run(self, shutdown: CancellationToken) {
        let options = &self.app.options;
        let mut builder = auto::Builder::new(SharedThreads(Handle::current()));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_read_timeout)
            .max_buf_size(options.header_bytes_max.max(8 * 1024))
            .keep_alive(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(options.header_bytes_max).unwrap_or(16 * 1024))
            .max_concurrent_streams(256)
            .keep_alive_interval(Some(Duration::from_secs(30)));
        let builder = Arc::new(builder);
        let connections = Arc::new(Semaphore::new(options.connections_max));
        let service = TowerToHyperService::new(self.app.clone().router());
        let graceful = GracefulShutdown::new();
        loop {
            let permit = tokio::select! {
                permit = connections.clone().acquire_owned() => permit,
                () = shutdown.cancelled() => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: some are given back soon.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Answers are written whole, so waiting to fill a packet would only delay them.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY could not be set");
            }
            let (builder, service, watcher) = (builder.clone(), service.clone(), graceful.watcher());
            let stall_max = options.request_timeout;
            let stream = stream.into_std();
            self.threads.serve(async move {
                // It is the thread's own readiness that it waits for from here on.
                let stream = match stream.and_then(TcpStream::from_std) {
                    Ok(stream) => stream,
                    Err(error) => return tracing::warn!(%error, "a connection could not be served"),
                };
                let connection = builder
                    .serve_connection(TokioIo::new(Socket::new(stream, stall_max)), service)
                    .into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    tracing::debug!(%error, "a connection ended early");
                }
                drop(permit);
            });
        }
        drop(self.listener);
        self.app.stopping.cancel();
        if tokio::time::timeout(STOP_GRACE, graceful.shutdown()).await.is_err() {
            tracing::warn!("some connections were still open after {STOP_GRACE:?}; they are cut");
        }
    }
}

impl App {
    pub(crate) fn new(
        options: Options,
        service: Service,
        loopback: bool,
        shared_threads: Option<SharedThreads>,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(options.streams_max));
        Self(Arc::new(Shared {
            service,
            options,
            streams,
            loopback,
            stopping: CancellationToken::new(),
            meters: Meters::default(),
            rates: Rates::default(),
            unready: Mutex::default(),
            shared_threads,
        }))
    }

    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/v1/orders", get(orders::list).post(orders::submit))
            .route("/v1/orders/batch", post(batch::submit))
            .route("/v1/orders/{id}", get(orders::get).patch(orders::patch))
            .route("/v1/orders/{id}/transition", post(orders::transition))
            .route("/v1/orders/{id}/cancel", post(orders::cancel))
            .route("/v1/orders/{id}/approve", post(callbacks::approve))
            .route("/v1/orders/{id}/reject", post(callbacks::reject))
            .route("/v1/orders/{id}/erase", post(erasure::order))
            .route("/v1/customers/{id}/erase", post(erasure::customer))
            .route("/v1/customers/{id}/export", get(erasure::export))
            .route("/v1/audit", get(audit::list))
            .route("/v1/jobs", get(jobs::list))
            .route("/v1/jobs/{id}", get(jobs::one))
            .route("/v1/jobs/{id}/stop", post(jobs::stop))
            .route("/v1/callbacks/{token}", post(callbacks::take))
            .route("/v1/orders/{id}/links", post(links::create))
            .route("/v1/links/rotate-key", post(links::rotate))
            .route("/v1/links/{token}", get(links::open))
            .route("/v1/orders/{id}/events", get(streams::of_order))
            .route("/v1/orders/{id}/attempts", get(orders::attempts))
            .route("/v1/orders/{id}/holds", get(inventory::holds))
            .route("/v1/inventory", get(inventory::list))
            .route("/v1/inventory/{sku}", get(inventory::one))
            .route("/v1/inventory/{sku}/receive", post(inventory::receive))
            .route("/v1/inventory/{sku}/count", post(inventory::count))
            .route("/v1/customers", get(customers::list).post(customers::register))
            .route("/v1/customers/{id}", get(customers::one))
            .route("/v1/customers/{id}/block", post(customers::block))
            .route("/v1/customers/{id}/unblock", post(customers::unblock))
            .route("/v1/sandbox/payments", get(sandbox::payments))
            .route("/v1/sandbox/shipments", get(sandbox::shipments))
            .route("/v1/events", get(streams::of_all))
            .route("/v1/order-types", get(types::list))
            .route("/v1/order-types/{name}", get(types::one))
            .route("/v1/dead-letters", get(dead_letters::list))
            .route("/v1/dead-letters/{id}", get(dead_letters::one))
            .route("/v1/dead-letters/redrive", post(dead_letters::redrive))
            .route("/v1/dead-letters/discard", post(dead_letters::discard))
            .route("/v1/dead-letter-causes", get(dead_letters::causes))
            .route("/v1/queues", get(queues::list))
            .route("/v1/queues/{name}", get(queues::one))
            .route("/v1/queues/{name}/claims", post(claims::claim))
            .route("/v1/queues/{name}/dead-letters", get(queues::dead_letters))
            .route("/v1/queues/{name}/dead-letters/redrive", post(queues::redrive))
            .route("/v1/queues/{name}/dead-letters/discard", post(queues::discard))
            .route("/v1/claims/complete", post(claims::complete))
            .route("/v1/claims/fail", post(claims::fail))
            .route("/v1/claims/heartbeat", post(claims::heartbeat))
            .route(
                "/v1/subscriptions",
                get(subscriptions::list).post(subscriptions::create),
            )
            .route(
                "/v1/subscriptions/{id}",
                get(subscriptions::one).delete(subscriptions::remove),
            )
            .route("/v1/subscriptions/{id}/pause", post(subscriptions::pause))
            .route("/v1/subscriptions/{id}/resume", post(subscriptions::resume))
            .route("/v1/subscriptions/{id}/rotate-secret", post(subscriptions::rotate))
            .route("/v1/subscriptions/{id}/deliveries", get(subscriptions::deliveries))
            .route("/v1/subscriptions/{id}/resend", post(subscriptions::resend))
            .route("/v1/intake", get(intake::list))
            .route("/v1/intake/{name}", post(intake::receive))
            .route("/v1/intake/{name}/rejected", get(intake::rejected))
            .route("/v1/intake/{name}/retry", post(intake::retry))
            .route("/v1/intake/{name}/discard", post(intake::discard))
            .route("/healthz", get(pages::health))
            .route("/readyz", get(pages::ready))
            .route("/metrics", get(pages::metrics))
            .route("/openapi.json", get(pages::openapi))
            .route("/docs", get(pages::docs))
            .route("/docs/problems/{code}", get(pages::problem))
            .route("/", get(pages::home))
            .fallback(mount::handle)
            .method_not_allowed_fallback(pages::method_not_allowed)
            .layer(axum::middleware::from_fn_with_state(self.clone(), frame::frame))
            .with_state(self)
    }
}
