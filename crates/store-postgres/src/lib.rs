//! The store for many nodes: PostgreSQL 15 or newer.
//!
//! Any number of processes use one database, and none of them leads. Each batch of commits is one call of a function in
//! the database (`functions/commit.sql`), which checks and applies every commit, each alone, and is a transaction of its own:
//! one round trip, no lock that outlives it, nothing that a proxy in between could break. Claims are rows with leases by
//! the database's clock; the feed has one lock, taken last, so that its positions become visible in their order.

mod batch;
mod claiming;
mod clock;
mod column;
mod columns;
mod committer;
mod connect;
mod due;
mod export;
mod failure;
mod follow;
mod identity;
mod import;
mod item;
mod ledger;
mod migrate;
mod rate;
mod read;
mod record;
mod refusal;
mod server;
mod settings;
mod store;
mod subscription;
mod text;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use comanda_store::StoreError;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use import::{Compared, Import, Moved};
pub use migrate::MigrationStatus;
pub use refusal::ServerError;
pub use server::AddressError;
pub use verify::{Fault, Report};

use crate::claiming::Claiming;
use crate::clock::Clock;
use crate::committer::{Committer, Queue};
use crate::due::Answered;
use crate::failure::Failure;
use crate::follow::Follower;
use crate::server::{Address, Server};

/// How long one check of [`PostgresStore::verify`] may take.
const VERIFY_TIME_MAX: Duration = Duration::from_secs(3600);

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    address: Address,
    /// The most connections to the server; one more commits. Default 8.
    pub connections_max: usize,
    /// The most commits that wait; further ones are answered with `Busy`. Default 16384.
    pub commits_max: usize,
    /// How long the server may take to answer a statement. Default 10 s.
    pub answer_time_max: Duration,
    /// Whether an older database is brought up to date. Default true.
    pub migrate: bool,
}

impl Options {
    /// The defaults, for a server at `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. `sslmode` is `disable` or
    /// `verify-full` (the default for other machines); `sslrootcert` names a PEM file instead of the system's
    /// certificates, `sslcert` and `sslkey` name those of our own certificate and its key. All else is as libpq has it.
    pub fn new(address: &str) -> Result<Self, AddressError> {
        Ok(Self {
            address: Address::parse(address)?,
            connections_max: 8,
            commits_max: 16 * 1024,
            answer_time_max: Duration::from_secs(10),
            migrate: true,
        })
    }
}

/// Orders in PostgreSQL. See the crate for how.
pub struct PostgresStore {
    /// This process among those that use the database; another one after every start.
    node: Uuid,
    server: Server,
    commits: Server,
    queue: Arc<Queue>,
    clock: Arc<Clock>,
    position: watch::Sender<u64>,
    claiming: Claiming,
    answered: tokio::sync::Mutex<Answered>,
    stop: CancellationToken,
    committer: Mutex<Option<JoinHandle<()>>>,
    follower: Mutex<Option<JoinHandle<()>>>,
}

impl PostgresStore {
    /// Opens the store: checks the server's settings and the database's format, and begins to work.
    pub async fn open(options: Options) -> Result<Self, StoreError> {
        let server = Server::new(&options.address, options.connections_max, options.answer_time_max)?;
        settings::check(&server).await?;
        let mut status = migrate::status(&server).await?;
        if status.found < migrate::FORMAT && options.migrate {
            status = migrate::up(&server).await?;
        } else if status.has_older_functions() && options.migrate {
            match migrate::up(&server).await {
                Ok(replaced) => status = replaced,
                // They do the same as ours.
                Err(error) => tracing::warn!(
                    %error,
                    "the database's functions are of an older build and stay: let a role that may migrate run \
                     `comanda migrate up`"
                ),
            }
        }
        migrate::check(status)?;
        migrate::check_not_moving(&server).await?;
        identity::recognise(&server).await?;
        let rows = server
            .ask("read the database's clock", follow::END, &[])
            .await
            .map_err(Failure::into_error)?;
        let first = rows
            .first()
            .ok_or_else(|| failure::corrupt("the database", "it does not tell the time"))?;
        let clock = Arc::new(Clock::new(first.get(1)));
        let position = watch::Sender::new(u64::try_from(first.get::<_, i64>(0)).unwrap_or(0));
        let commits = Server::new(&options.address, 1, options.answer_time_max)?;
        let queue = Arc::new(Queue::new(options.commits_max));
        let node = Uuid::new_v4();
        follow::beat(&server, node, follow::ALIVE)
            .await
            .map_err(Failure::into_error)?;
        let committer = Committer {
            server: commits.clone(),
            node,
            queue: queue.clone(),
            clock: clock.clone(),
            position: position.clone(),
        };
        let stop = CancellationToken::new();
        let follower = Follower {
            server: server.clone(),
            node,
            clock: clock.clone(),
            position: position.clone(),
            stop: stop.clone(),
        };
        Ok(Self {
            node,
            server,
            commits,
            queue,
            clock,
            position,
            claiming: Claiming::default(),
            answered: tokio::sync::Mutex::default(),
            stop,
            committer: Mutex::new(Some(tokio::spawn(committer.run()))),
            follower: Mutex::new(Some(tokio::spawn(follower.run()))),
        })
    }

    /// Which format a database has.
    pub async fn migration_status(options: &Options) -> Result<MigrationStatus, StoreError> {
        let server = Server::new(&options.address, 1, options.answer_time_max)?;
        migrate::status(&server).await
    }

    /// Looks through a whole database for anything that does not fit. It is only read, and nodes may go on working.
    pub async fn verify(options: &Options) -> Result<Report, StoreError> {
        // Each check reads whole tables.
        let server = Server::new(&options.address, 1, options.answer_time_max.max(VERIFY_TIME_MAX))?;
        let status = migrate::status(&server).await?;
        if status.found == 0 {
            let cause = std::io::Error::other("it holds no orders: there is no schema `comanda` in it");
            return Err(StoreError::failed("verify this database", cause));
        }
        verify::verify(&server, status.found).await
    }

    /// Brings a database up to date, and answers what it then is. Nodes of the version before go on working.
    pub async fn migrate(options: &Options) -> Result<MigrationStatus, StoreError> {
        let server = Server::new(&options.address, 1, options.answer_time_max)?;
        settings::check(&server).await?;
        migrate::up(&server).await
    }
}
