//! What is set before the engine starts, and the start itself: the parts are put together in their order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use comanda_builtin::customers::{Customers, Directory};
use comanda_builtin::payments::{Provider, Sandbox};
use comanda_builtin::shipments::{Carrier, CarrierSandbox};
use comanda_builtin::{BuiltIns, Options as BuiltInOptions};
use comanda_deliver::Deliveries;
use comanda_deliver::archive::Archives;
use comanda_engine::{Options, Service, environment_names};
use comanda_steps::{Caller, Finding, Outcome, RustSteps, StepContext, Steps};
use comanda_store::memory::MemoryStore;
use comanda_store::{Store, StoreError};
use comanda_store_sqlite::SqliteStore;

use crate::error::StartError;
use crate::running::{Comanda, Parts};
use crate::types::{self, Source};

const USER_AGENT: &str = concat!("comanda/", env!("CARGO_PKG_VERSION"));

/// Begins to say what is to run. Without a store named, orders are kept in memory.
pub fn builder() -> Builder {
    Builder::default()
}

/// What is to run. Each method says its default; [`Builder::start`] starts it.
#[derive(Default)]
#[must_use = "nothing runs before `start`"]
pub struct Builder {
    place: Place,
    sources: Vec<Source>,
    steps: RustSteps,
    env: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
    options: Options,
    public_url: Option<String>,
    archives: Option<PathBuf>,
    payments: Option<Arc<dyn Provider>>,
    customers: Option<Arc<dyn Directory>>,
    carrier: Option<Arc<dyn Carrier>>,
}

/// Where orders are kept.
#[derive(Default)]
enum Place {
    #[default]
    Memory,
    Sqlite(PathBuf),
    #[cfg(feature = "postgres")]
    Postgres(String),
    Given(Arc<dyn Store>),
}

impl std::fmt::Debug for Builder {
    // Neither secrets nor an address with a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("sources", &self.sources)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Keeps orders in a directory, with SQLite; it is made if it is not there. One process has it open at a time. What is
    /// accepted survives a `kill -9` and a power cut. The commands `comanda verify`, `backup` and `export` work on it.
    pub fn sqlite(mut self, directory: impl Into<PathBuf>) -> Self {
        self.place = Place::Sqlite(directory.into());
        self
    }

    /// Keeps orders in memory, for tests: they end with the process. The default.
    pub fn memory(mut self) -> Self {
        self.place = Place::Memory;
        self
    }

    /// Keeps orders in PostgreSQL, at `postgres://USER:PASSWORD@HOST:PORT/DATABASE`; many processes may share it. The database
    /// is brought up to date at the start.
    #[cfg(feature = "postgres")]
    pub fn postgres(mut self, address: impl Into<String>) -> Self {
        self.place = Place::Postgres(address.into());
        self
    }

    /// Keeps orders in a store that was opened elsewhere. [`Comanda::stop`] closes it.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.place = Place::Given(store);
        self
    }

    /// Adds every `*.toml` of a directory as an order type, with the schema files beside them.
    pub fn order_types(mut self, directory: impl Into<PathBuf>) -> Self {
        self.sources.push(Source::Directory(directory.into()));
        self
    }

    /// Adds an order type from the text of its file, such as `include_str!("cake.toml")`. Its schema stands in it.
    pub fn order_type(mut self, text: impl Into<String>) -> Self {
        self.sources.push(Source::Text(text.into()));
        self
    }

    /// Adds the order types that Comanda ships. Without this only your own are there.
    pub fn shipped_order_types(mut self) -> Self {
        self.sources.push(Source::Shipped);
        self
    }

    /// Adds a step in Rust under a dotted name, such as `myteam.greet`: words of lower-case letters, digits, `-` and `_`. The
    /// families of the built-in steps (`inventory`, `payments`, `customers`, `shipments`) are taken. An order type runs it with
    /// `use = "myteam.greet"`, and takes it back with `undo = { use = "myteam.forget" }`, which is a step too.
    ///
    /// The code runs at least once per visit, on the runtime's threads: it must not block one. A panic ends the attempt as
    /// [`Outcome::Unknown`].
    pub fn step<F, R>(mut self, name: &str, run: F) -> Self
    where
        F: Fn(StepContext) -> R + Send + Sync + 'static,
        R: Future<Output = Outcome> + Send + 'static,
    {
        self.steps.insert(name, run);
        self
    }

    /// Adds the question of a step that was added before: asked, under the same key, before anything is tried again where
    /// nobody knows what became of an attempt. A step without a question is simply run again.
    pub fn question<F, R>(mut self, name: &str, question: F) -> Self
    where
        F: Fn(StepContext) -> R + Send + Sync + 'static,
        R: Future<Output = Finding> + Send + 'static,
    {
        self.steps.ask(name, question);
        self
    }

    /// Sets what templates read as `env.NAME`, before the process's environment. Of that they see only the names that they
    /// use.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets what templates read as `secret.NAME`. It is taken out of every reason and log.
    pub fn secret(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.secrets.insert(name.into(), value.into());
        self
    }

    /// How the engine works: bounds, leases, how long keys are kept.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Where others reach the HTTP API, such as `https://orders.example`: links and callbacks begin with it. Default
    /// `http://127.0.0.1:8080`.
    pub fn public_url(mut self, url: impl Into<String>) -> Self {
        self.public_url = Some(url.into());
        self
    }

    /// The directory under which each archive that order types name is a directory of its own. Default: `archive` within
    /// the directory of the orders, or `./comanda-archive` where they are in none.
    pub fn archives(mut self, directory: impl Into<PathBuf>) -> Self {
        self.archives = Some(directory.into());
        self
    }

    /// Who takes the payments of `payments.*` steps. Default: the sandbox, which moves no money.
    pub fn payments(mut self, provider: Arc<dyn Provider>) -> Self {
        self.payments = Some(provider);
        self
    }

    /// Who knows the customers of `customers.check`. Default: those that are registered over the API.
    pub fn customers(mut self, directory: Arc<dyn Directory>) -> Self {
        self.customers = Some(directory);
        self
    }

    /// Who carries the parcels of `shipments.*` steps. Default: the sandbox, which carries nothing.
    pub fn carrier(mut self, carrier: Arc<dyn Carrier>) -> Self {
        self.carrier = Some(carrier);
        self
    }

    /// Opens the store, reads the order types, and begins to work what is due, within the Tokio runtime that this is called
    /// in.
    ///
    /// # Errors
    /// If a part cannot be set up; also if an order type, or an order that is not final yet, needs a step that was not added.
    pub async fn start(self) -> Result<Comanda, StartError> {
        let definitions = types::load(&self.sources, &self.env, &self.secrets)?;
        let archives = self.archives.clone().unwrap_or_else(|| match &self.place {
            Place::Sqlite(directory) => directory.join("archive"),
            _ => PathBuf::from("comanda-archive"),
        });
        let store = open(&self.place).await?;
        let started = self.start_over(store.clone(), definitions, archives).await;
        if started.is_err()
            && let Err(error) = store.close().await
        {
            tracing::warn!(%error, "the store did not close well after a start that failed");
        }
        started
    }

    async fn start_over(
        self,
        store: Arc<dyn Store>,
        definitions: Vec<comanda_order_type::Definition>,
        archives: PathBuf,
    ) -> Result<Comanda, StartError> {
        let names = environment_names(&*store, &definitions).await?;
        let process =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut env: BTreeMap<String, String> = process.filter(|(name, _)| names.contains(name)).collect();
        env.extend(self.env);
        let public_url = self
            .public_url
            .unwrap_or_else(|| "http://127.0.0.1:8080".to_owned())
            .trim_end_matches('/')
            .to_owned();
        let caller = Caller::new(comanda_steps::Options {
            env: env.clone(),
            secrets: self.secrets,
            user_agent: USER_AGENT.to_owned(),
            public_url: public_url.clone(),
            ..comanda_steps::Options::default()
        })?;
        let others = Arc::new(Steps::over(Arc::new(caller)));
        let others = Arc::new(self.steps.over(env.clone(), &public_url, others));
        let built_in = BuiltInOptions {
            env,
            payments: self.payments.unwrap_or_else(|| Arc::new(Sandbox::new(store.clone()))),
            customers: self
                .customers
                .unwrap_or_else(|| Arc::new(Customers::new(store.clone()))),
            carrier: self
                .carrier
                .unwrap_or_else(|| Arc::new(CarrierSandbox::new(store.clone()))),
            inventory: None,
        };
        let steps = Arc::new(BuiltIns::new(built_in, store.clone(), others));
        let service = Service::start(self.options, store, steps, definitions).await?;
        let deliveries = Deliveries::start(
            comanda_deliver::Options {
                user_agent: USER_AGENT.to_owned(),
                archives: Archives {
                    default_directory: archives,
                    ..Archives::default()
                },
                ..comanda_deliver::Options::default()
            },
            service.clone(),
            Vec::new(),
        )
        .await;
        match deliveries {
            Ok(deliveries) => Ok(Comanda::new(Parts {
                service,
                deliveries,
                public_url,
            })),
            Err(error) => {
                service.stop(std::time::Duration::ZERO).await;
                Err(error.into())
            }
        }
    }
}

async fn open(place: &Place) -> Result<Arc<dyn Store>, StartError> {
    match place {
        Place::Memory => Ok(Arc::new(MemoryStore::default())),
        Place::Given(store) => Ok(store.clone()),
        Place::Sqlite(directory) => {
            let options = comanda_store_sqlite::Options::new(directory);
            // Opening reads and may recover; it must not hold up a thread that others need.
            match tokio::task::spawn_blocking(move || SqliteStore::open(options)).await {
                Ok(opened) => Ok(Arc::new(opened?)),
                Err(error) => Err(StoreError::failed("open the store", error).into()),
            }
        }
        #[cfg(feature = "postgres")]
        Place::Postgres(address) => {
            let options = comanda_store_postgres::Options::new(address)?;
            Ok(Arc::new(comanda_store_postgres::PostgresStore::open(options).await?))
        }
    }
}
