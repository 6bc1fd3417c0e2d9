//! Comanda inside a program of your own: it opens a store, works your order types with your steps in Rust, and is called
//! like any library. Its HTTP API is there if you want it: as a server of its own, or behind your routes.
//!
//! ```
//! use comanda_embed::{Json, Outcome, Submission, WaitFor};
//! use std::time::Duration;
//!
//! const GREETING: &str = r#"
//! name = "greeting"
//! initial = "asked"
//! [schema]
//! type = "object"
//! required = ["name"]
//! properties.name = { type = "string" }
//! [statuses.asked]
//! steps = ["greet"]
//! next = "greeted"
//! [statuses.greeted]
//! final = true
//! [steps.greet]
//! use = "myteam.greet"
//! with = { name = "{{ data.name }}" }
//! "#;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let comanda = comanda_embed::builder()
//!     .memory() // or .sqlite("./orders"): then what was accepted survives a crash
//!     .order_type(GREETING)
//!     .step("myteam.greet", |context| async move {
//!         println!("Hello, {}", context.with()["name"]);
//!         Outcome::done()
//!     })
//!     .start()
//!     .await?;
//!
//! let accepted = comanda.submit(Submission::new("greeting", Json::parse(r#"{"name":"Ada"}"#)?)).await?;
//! let order = comanda.wait(accepted.id(), WaitFor::Rest, Duration::from_secs(10)).await?;
//! assert_eq!(order.map(|order| order.status.to_string()).as_deref(), Some("greeted"));
//! comanda.stop().await?;
//! # Ok(())
//! # }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #     tokio::runtime::Runtime::new()?.block_on(run())
//! # }
//! ```
//!
//! [`Builder`] says what there is to set, [`Comanda`] what can be done. What the two leave out is reached through
//! [`Comanda::engine`] and its store, with the types of [`engine`], [`store`] and [`model`].
//!
//! What the program `comanda` adds, and this library leaves to yours: the command line, `comanda.toml`, intake from feeds
//! and files, e-mail, the removal of old orders, and the set-up of logs and metrics. Logs are [`tracing`] events,
//! counts go to the [`metrics`](https://docs.rs/metrics) facade; install what receives them.

mod builder;
mod error;
mod running;
mod server;
mod types;

pub use comanda_builtin as built_in;
pub use comanda_engine as engine;
pub use comanda_model as model;
pub use comanda_store as store;

pub use comanda_engine::{
    Accepted, Change, CommandError, Idempotency, OrderView, Precondition, Submission, SubmitError, WaitFor,
};
pub use comanda_http::{BindError, KeyError};
pub use comanda_model::{Json, OrderId};
pub use comanda_steps::{Finding, Outcome, StepContext};
pub use comanda_store::{Cursor, FeedEvent, FeedPage, FeedStart, StoreError};

pub use builder::{Builder, builder};
pub use error::StartError;
pub use running::Comanda;
pub use server::{Access, Server, ServerError};
