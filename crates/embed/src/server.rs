//! The HTTP API: as a server of its own, or as a router behind the routes of another.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use comanda_http::{BindError, KeyError, KeyRing, Options};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::running::Comanda;

/// Who may use the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Programs of this machine, without a key. The `Host` header must be a name of it, so that no web page gets in by a
    /// trick with DNS.
    Local,
    /// Who has a key of this file, made by `comanda keys create`. While it holds no key, nobody has.
    Keys(PathBuf),
    /// Whoever reaches it. Only where your own server has asked who it is.
    Open,
}

impl Comanda {
    /// The HTTP API, to stand behind your routes: `/v1`, a mount for each order type, `/docs`, `/openapi.json`, the probes.
    /// It has a fallback of its own, so it is the fallback of yours, at the root:
    ///
    /// ```
    /// # async fn example(comanda: comanda_embed::Comanda) -> Result<(), Box<dyn std::error::Error>> {
    /// use axum::{Router, routing::get};
    /// use comanda_embed::Access;
    ///
    /// let app: Router = Router::new()
    ///     .route("/hello", get(|| async { "hello" }))
    ///     .fallback_service(comanda.router(Access::Local)?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Call [`Comanda::stop`] as your server begins its graceful end: event streams and long polls end with the engine.
    ///
    /// # Errors
    /// If the file of keys cannot be read.
    pub fn router(&self, access: Access) -> Result<Router, KeyError> {
        let ip = match access {
            Access::Local => Ipv4Addr::LOCALHOST,
            Access::Keys(_) | Access::Open => Ipv4Addr::UNSPECIFIED,
        };
        let options = self.http_options((ip, 0).into(), access)?;
        Ok(comanda_http::router(options, self.0.service.clone()))
    }

    /// Listens with a server of Comanda's own, with its bounds on connections. [`Server::run`] answers.
    ///
    /// # Errors
    /// [`BindError::KeysNeeded`] for an address that can be reached from elsewhere without a key; also if it is in use.
    pub async fn bind(&self, listen: SocketAddr, access: Access) -> Result<Server, ServerError> {
        let options = self.http_options(listen, access)?;
        let server = comanda_http::Server::bind(options, self.0.service.clone()).await?;
        Ok(Server {
            server,
            end: self.1.begun.clone(),
            servers: self.1.servers.clone(),
        })
    }

    fn http_options(&self, listen: SocketAddr, access: Access) -> Result<Options, KeyError> {
        let mut options = Options::new(listen);
        options.public_url.clone_from(&self.0.public_url);
        options.deliveries = Some(self.0.deliveries.clone());
        match access {
            Access::Local => {}
            Access::Keys(path) => options.keys = Arc::new(KeyRing::open(&path)?),
            Access::Open => options.insecure = true,
        }
        Ok(options)
    }
}

/// Why the API's server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The file of keys could not be read.
    #[error("the API keys could not be read")]
    Keys(#[from] KeyError),
    /// The address could not be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// A server that listens.
pub struct Server {
    server: comanda_http::Server,
    end: CancellationToken,
    servers: TaskTracker,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("addr", &self.local_addr()).finish()
    }
}

impl Server {
    /// Where it listens; the port is the real one also where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Answers until [`Comanda::stop`], which waits for the answers that are under way.
    pub async fn run(self) {
        // `Comanda::stop` waits until this is gone.
        let _counted = self.servers.token();
        self.server.run(self.end).await;
    }
}
