//! What every call that leaves the process needs, whoever makes it: [`guard`] keeps calls whose address came from
//! outside away from private networks, [`signature`] signs what is sent by the Standard Webhooks specification,
//! [`verify`] is the other side of that, and [`redact`] takes out of an answer what it quotes of our secrets.

pub mod guard;
pub mod redact;
pub mod signature;
pub mod verify;

pub use guard::{Guard, Lookup, Refused, SystemLookup};
pub use redact::Secrets;
pub use signature::{SecretError, Signer};
pub use verify::{Unverified, Verifier};
