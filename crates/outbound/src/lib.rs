//! What every call that leaves the process needs, whoever makes it: [`guard`] keeps calls whose address came from
//! outside away from private networks, and [`signature`] signs what is sent by the Standard Webhooks specification.

pub mod guard;
pub mod signature;

pub use guard::{Guard, Refused};
pub use signature::{SecretError, Signer};
