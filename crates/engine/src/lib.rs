//! The engine: it takes orders in, works those that are due, and answers what outsiders ask of them.
//!
//! [`Service`] is its face. Inside: *intake* turns a submission into one commit; the *worker* claims what is due, runs
//! its step through the [`StepRunner`] port, and commits what the decision function makes of the outcome; *commands*
//! are what the outside does to an order. All of them know the store only through its port.
//!
//! Nothing leaves the process (an answer, a step's call, a wake-up) before the commit it rests on is durable.

mod attempt;
mod audit;
mod callback;
mod chance;
mod command;
mod commit;
mod dead_letter;
mod environment;
mod erase;
mod error;
mod intake;
mod job;
mod meter;
mod pull;
mod registry;
mod release;
mod service;
mod settling;
mod step;
mod tasks;
mod view;
mod watch;
mod worker;

pub use audit::{Act, AuditEntry, AuditFilter, AuditOutcome, AuditPage, BegunAct};
pub use callback::{Callback, CallbackError};
pub use chance::{Chance, SeededChance, SystemChance};
pub use command::{Change, Precondition};
pub use dead_letter::{DeadLetterFilter, Redrive, Sweep, SweepItem};
pub use environment::environment_names;
pub use erase::{CUSTOMER_RECORDS, Erasable};
pub use error::{CommandError, StartError, SubmitError};
pub use intake::{Accepted, Idempotency, Submission};
pub use job::{Job, JobFailure, JobState, Task};
pub use pull::{Answered, Pull, Pulled, Pulls};
pub use registry::{Registry, TypeChange};
pub use service::{Breaks, Options, Service};
pub use step::{Admission, Effect, Postponed, StepCall, StepRunner};
pub use view::{DeadLetterView, Found, OrderView, WorkState, WorkView};
pub use watch::WaitFor;
