//! `comanda serve`: puts the parts together, runs them until a signal comes, and takes them apart in order.

mod audit;
mod banner;
mod built_in;
mod retention;
mod sealing;
mod watch;

pub(super) use sealing::KEY_FILE;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use comanda_builtin::HttpInventoryOptions;
use comanda_builtin::payments::HttpPaymentsOptions;
use comanda_deliver::mail::Mail;
use comanda_deliver::{Configured, DeliverError, Deliveries};
use comanda_engine::{Breaks, Service, environment_names};
use comanda_http::{KeyRing, Server};
use comanda_intake::{Intake, IntakeError};
use comanda_order_type::{Definition, Known};
use comanda_steps::{Caller, RustSteps, Steps};
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use comanda_store_postgres::PostgresStore;
use comanda_store_sqlite::SqliteStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::archives::with_credentials;
use crate::config::intake::with_secrets;
use crate::config::{Config, Shipments, StoreKind, calls, secrets};
use crate::failure::{Failure, chain};
use crate::output::tell;
use crate::telemetry::metrics::Metrics;
use crate::{telemetry, types};

/// How long running steps may go on after the signal to stop.
const GRACE: Duration = Duration::from_secs(10);
/// The signal for a file that grew past its limit; the number is the same on Linux and macOS.
const SIGXFSZ: i32 = 25;
/// By what `fast_retries` multiplies the waits between retries.
const FAST: f64 = 0.01;

pub(super) fn run(config: &Config, steps: RustSteps) -> Result<(), Failure> {
    let telemetry = telemetry::start(config)?;
    let metrics = telemetry::metrics::install()?;
    // Each connection is a file; the usual soft limit of 1024 is below what we are configured to take. Where it cannot
    // be raised the accept loop meets the limit, and says so.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::debug!(%error, "the limit of open files could not be raised");
    }
    let end = super::on_runtime(serve(config, steps, metrics));
    telemetry.finish();
    end
}

async fn serve(config: &Config, own_steps: RustSteps, metrics: Metrics) -> Result<(), Failure> {
    // Signals are caught from here on, so that one that comes during the start also stops in order.
    let stop = stop_signal()?;
    let (config, listener) = with_port(config).await?;
    let config = &config;
    let secrets = secrets::read_all(&config.secrets)?;
    let known = types::known(config, true);
    let (definitions, warnings) = types::load(&config.order_types, &known)?;
    if !warnings.is_empty() {
        tell(warnings.trim_end());
    }
    check_mounts(config, &definitions)?;
    let store = open_store(config).await?;
    let environment = environment(config, store.as_ref(), &definitions).await?;
    let caller = Caller::new(comanda_steps::Options {
        env: environment.clone(),
        secrets,
        user_agent: concat!("comanda/", env!("CARGO_PKG_VERSION")).to_owned(),
        public_url: config.public_url.clone(),
        calls_per_target_max: config.calls.per_target_max,
        circuit_failures: config.calls.circuit_failures,
        circuit_open: config.calls.circuit_open,
        allow_private: config.calls.allow_private,
        ..comanda_steps::Options::default()
    })
    .map_err(|error| Failure::process("the steps could not be set up", error))?;
    let caller = Arc::new(caller);
    let others = Arc::new(Steps::over(caller.clone()));
    let others = Arc::new(own_steps.over(environment.clone(), &config.public_url, others));
    let steps = built_in::steps(config, environment, caller, &store, others);
    let definitions = runnable(&*store, definitions);
    let service = Service::start(
        engine_options(config),
        store.clone(),
        Arc::new(steps),
        definitions.clone(),
    )
    .await?;
    let outcome = serve_until(config, listener, metrics, known, &service, &stop).await;
    // In whatever way it ended: what is staged is made durable.
    service.stop(GRACE).await;
    let closed = store.close().await;
    outcome?;
    closed?;
    tracing::info!("stopped");
    Ok(())
}

/// Where any port will do, one is taken now: callbacks and links name it, and some leave before the server answers.
async fn with_port(config: &Config) -> Result<(Config, Option<TcpListener>), Failure> {
    let mut config = config.clone();
    if config.listen.port() != 0 {
        return Ok((config, None));
    }
    let listener = comanda_http::listen(config.listen).await.map_err(bind_failure)?;
    let bound = listener.local_addr();
    let bound = bound.map_err(|error| Failure::process("the address cannot be told", chain_of(&error)))?;
    if config.public_url == format!("http://{}", config.listen) {
        config.public_url = format!("http://{bound}");
    }
    Ok((config, Some(listener)))
}

async fn serve_until(
    config: &Config,
    listener: Option<TcpListener>,
    metrics: Metrics,
    known: Known,
    service: &Service,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let keys = Arc::new(
        KeyRing::open(&config.keys_file).map_err(|error| Failure::process("the API keys could not be read", error))?,
    );
    let keyed = !keys.is_empty();
    let audited_keys = keys.clone();
    let deliveries = deliveries(config, service).await?;
    let intake = intake(config, service).await?;
    let render = metrics.clone();
    let options = http_options(
        config,
        keys,
        deliveries.clone(),
        intake.clone(),
        Arc::new(move || render.render()),
    );
    let server = match listener {
        Some(listener) => Server::over(listener, options, service.clone()).await,
        None => Server::bind(options, service.clone()).await,
    };
    let server = server.map_err(bind_failure)?;
    let address = server.local_addr();
    let background = TaskTracker::new();
    let directory = (config.store == StoreKind::Sqlite).then(|| config.data.clone());
    background.spawn(metrics.sample(service.store().clone(), directory, stop.clone()));
    if let Some(kept) = config.final_kept {
        background.spawn(retention::run(service.store().clone(), kept, stop.clone()));
    }
    background.spawn(audit::run(
        service.clone(),
        audited_keys,
        config.audit_kept,
        stop.clone(),
    ));
    if config.watch {
        background.spawn(watch::run(
            config.order_types.clone(),
            known,
            service.clone(),
            deliveries.clone(),
            stop.clone(),
        ));
    }
    banner::print(config, address, keyed, &service.registry().all());
    // Streams and waits end when the engine stops, so the two are stopped side by side.
    let stop_engine = async {
        stop.cancelled().await;
        service.stop(GRACE).await;
    };
    let ((), ()) = tokio::join!(server.run(stop.clone()), stop_engine);
    intake.stop().await;
    deliveries.stop().await;
    background.close();
    background.wait().await;
    Ok(())
}

/// Sets the subscriptions to work: those that the store keeps, and those of the configuration.
async fn deliveries(config: &Config, service: &Service) -> Result<Deliveries, Failure> {
    let mut configured = Vec::with_capacity(config.subscriptions.len());
    for subscription in &config.subscriptions {
        let name = subscription.name.clone();
        let secret = match &subscription.secret {
            Some(source) => Some(secrets::read_one(&name, source)?),
            None => None,
        };
        configured.push(Configured {
            request: subscription.request.clone(),
            secret,
            name,
        });
    }
    let mail = match &config.mail {
        Some(mail) => {
            let mail = Mail::new(mail.options()?);
            Some(Arc::new(mail.map_err(|error| {
                Failure::process("e-mail could not be set up", error)
            })?))
        }
        None => None,
    };
    let options = comanda_deliver::Options {
        mail,
        user_agent: concat!("comanda/", env!("CARGO_PKG_VERSION")).to_owned(),
        allow_private: config.deliveries.allow_private,
        wait_scale: if config.fast_retries { FAST } else { 1.0 },
        schedule: config.deliveries.retries.clone(),
        timeout: config.deliveries.timeout,
        sealer: Arc::new(sealing::sealer(config)?),
        archives: with_credentials(&config.archives, &config.data)?,
        ..comanda_deliver::Options::default()
    };
    let started = Deliveries::start(options, service.clone(), configured).await;
    started.map_err(|error| match error {
        DeliverError::Store(error) => error.into(),
        error => Failure::process("the subscriptions could not be set up", error),
    })
}

/// Sets the sources of the configuration to work.
async fn intake(config: &Config, service: &Service) -> Result<Intake, Failure> {
    for (name, source) in &config.intake {
        if service.registry().current(source.order_type()).is_none() {
            return Err(Failure::Usage(format!(
                "[intake.{name}] makes orders of the type `{}`, but there is none",
                source.order_type()
            )));
        }
    }
    let started = Intake::start(service.clone(), with_secrets(&config.intake)?).await;
    started.map_err(|error| match error {
        IntakeError::Store(error) => error.into(),
        error => Failure::process("the sources could not be set up", error),
    })
}

fn bind_failure(error: comanda_http::BindError) -> Failure {
    match error {
        comanda_http::BindError::PortInUse { addr } => Failure::PortInUse(addr),
        comanda_http::BindError::KeysNeeded { addr } => Failure::KeysNeeded(addr),
        other => Failure::Bind(other),
    }
}

/// The types that this store can keep: of those shipped, one that has queues is left out over a store without them. A
/// type of the user's own is refused by the engine instead.
fn runnable(store: &dyn Store, definitions: Vec<Definition>) -> Vec<Definition> {
    if store.capabilities().status_queues {
        return definitions;
    }
    let is_shipped = |definition: &Definition| {
        let hash = definition.order_type.hash;
        comanda_order_type::shipped().iter().any(|bundle| bundle.hash() == hash)
    };
    let fits = |definition: &Definition| {
        let order_type = &definition.order_type;
        let left_out = order_type.status_queues().next().is_some() && is_shipped(definition);
        if left_out {
            tracing::warn!(order_type = %order_type.name, "left out: this store does not keep queues");
        }
        !left_out
    };
    definitions.into_iter().filter(fits).collect()
}

fn check_mounts(config: &Config, definitions: &[Definition]) -> Result<(), Failure> {
    for (path, name) in &config.mounts {
        let distance = |definition: &&Definition| strsim::damerau_levenshtein(&definition.order_type.name, name);
        let Some(nearest) = definitions.iter().min_by_key(distance) else {
            continue;
        };
        if distance(&nearest) > 0 {
            let nearest = &nearest.order_type.name;
            return Err(Failure::Usage(format!(
                "{path} shall be mounted, but there is no order type `{name}`; did you mean `{nearest}`?"
            )));
        }
    }
    Ok(())
}

async fn open_store(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    match &config.store {
        StoreKind::Memory => Ok(Arc::new(MemoryStore::default())),
        StoreKind::Sqlite => {
            let options = comanda_store_sqlite::Options::new(&config.data);
            // Opening reads and may recover; it must not hold up a thread that others need.
            let opened = tokio::task::spawn_blocking(move || SqliteStore::open(options)).await;
            let store = opened.map_err(|error| Failure::process("the store could not be opened", error))??;
            Ok(Arc::new(store))
        }
        StoreKind::Postgres(address) => {
            let options = comanda_store_postgres::Options::new(&address.0)
                .map_err(|error| Failure::process("the store could not be opened", error))?;
            Ok(Arc::new(PostgresStore::open(options).await?))
        }
    }
}

/// The environment that templates may read: only what they name. While types can change at run time that is not known,
/// and everything is there but our own settings, among which is the API key.
async fn environment(
    config: &Config,
    store: &dyn Store,
    definitions: &[Definition],
) -> Result<BTreeMap<String, String>, Failure> {
    let mut named = environment_names(store, definitions).await?;
    let payments = config.payments.iter();
    let payments = payments.flat_map(HttpPaymentsOptions::calls);
    let carrier = match &config.shipments {
        Shipments::Carrier(options) => options.calls().to_vec(),
        Shipments::Sandbox | Shipments::ByHand => Vec::new(),
    };
    let inventory = config.inventory.iter().flat_map(HttpInventoryOptions::calls);
    let services = config.customers.iter().chain(inventory).chain(payments).chain(carrier);
    named.extend(calls::environment_names(services));
    let process =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let wanted = |name: &str| {
        if config.watch {
            !name.starts_with("COMANDA_")
        } else {
            named.contains(name)
        }
    };
    let mut environment: BTreeMap<String, String> = process.filter(|(name, _)| wanted(name)).collect();
    environment.extend(config.env.clone());
    Ok(environment)
}

fn engine_options(config: &Config) -> comanda_engine::Options {
    let engine = &config.engine;
    comanda_engine::Options {
        concurrency: engine.concurrency,
        outstanding_max: engine.outstanding_max,
        lease: engine.lease,
        sweep: engine.sweep,
        idempotency_kept: engine.idempotency_kept,
        wait_scale: if config.fast_retries { FAST } else { 1.0 },
        breaks: Breaks(config.breaks.clone()),
        bench_no_store: config.bench_no_store,
        ..comanda_engine::Options::default()
    }
}

fn http_options(
    config: &Config,
    keys: Arc<KeyRing>,
    deliveries: Deliveries,
    intake: Intake,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
) -> comanda_http::Options {
    let limits = &config.limits;
    comanda_http::Options {
        listen: config.listen,
        body_bytes_max: limits.body_bytes_max,
        header_bytes_max: limits.header_bytes_max,
        connections_max: limits.connections_max,
        header_read_timeout: limits.header_read_timeout,
        request_timeout: limits.request_timeout,
        streams_max: limits.streams_max,
        mounts: config.mounts.clone(),
        insecure: config.insecure,
        keys,
        deliveries: Some(deliveries),
        intake: Some(intake),
        metrics: Some(metrics),
        public_url: config.public_url.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// A token that is cancelled at the first SIGTERM or ctrl-c. The second one ends the process at once: everything that
/// was accepted is durable, so that is only impolite to whoever waits for an answer.
fn stop_signal() -> Result<CancellationToken, Failure> {
    let failed = |error| Failure::process("signals cannot be caught", chain_of(&error));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    // A limit on the size of files would end the process. Caught, it makes the write fail, and that is answered like a
    // full disk: nothing more is accepted, and all else goes on. The handler stays when this handle goes.
    let _caught = signal(SignalKind::from_raw(SIGXFSZ)).map_err(failed)?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        for round in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if round > 0 {
                std::process::exit(1);
            }
            token.cancel();
            tell(format_args!(
                "Stopping: running steps have {} s. Once more stops at once.",
                GRACE.as_secs()
            ));
        }
    });
    Ok(stop)
}

fn chain_of(error: &std::io::Error) -> String {
    chain(error)
}
