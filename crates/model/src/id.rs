//! Identifiers: of orders, commits, attempts (tokens) and order-type versions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// An order's id: a UUIDv7 (RFC 9562), so that ids sort by the time of acceptance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(pub Uuid);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for OrderId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::from_str(text).map(Self)
    }
}

/// Names one commit. A retry that finds its own id in the head knows that it has already succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitId(pub Uuid);

impl CommitId {
    /// The id's lower half, which has 62 random bits: enough to tell the latest commits of one order apart.
    pub fn lower_half(self) -> u64 {
        self.0.as_u64_pair().1
    }
}

/// The fencing token of one attempt.
///
/// It protects an order from a worker that has lost its claim and does not know it: a step's result is committed
/// only if its token is still the one on the claim. `secret` has 122 random bits, so that a token is never issued
/// twice, not even by a process that was restarted and counts its attempts from the beginning again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token {
    /// The order that the attempt belongs to.
    pub order: OrderId,
    /// The visit within the order.
    pub visit: u32,
    /// The attempt within the visit.
    pub attempt: u32,
    /// What makes the token unguessable and unrepeatable.
    pub secret: Uuid,
}

impl Token {
    /// The whole token as text, its secret included: for whoever is to answer with it, and for nobody else.
    pub fn expose(&self) -> String {
        format!(
            "{}.{:x}.{:x}.{}",
            self.order.0.simple(),
            self.visit,
            self.attempt,
            self.secret.simple()
        )
    }
}

/// A text that is no token.
#[derive(Debug, thiserror::Error)]
#[error("not a token: pass on exactly what a claim gave you")]
pub struct InvalidToken;

impl FromStr for Token {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.splitn(5, '.').collect();
        let [order, visit, attempt, secret] = parts[..] else {
            return Err(InvalidToken);
        };
        let number = |text: &str| u32::from_str_radix(text, 16).map_err(|_| InvalidToken);
        let id = |text: &str| Uuid::try_parse(text).map_err(|_| InvalidToken);
        let token = Self {
            order: OrderId(id(order)?),
            visit: number(visit)?,
            attempt: number(attempt)?,
            secret: id(secret)?,
        };
        // One token has one text.
        if token.expose() == text {
            Ok(token)
        } else {
            Err(InvalidToken)
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret is left out: whoever reads a log must not be able to answer for the worker.
        write!(f, "Token({}:{}:{})", self.order, self.visit, self.attempt)
    }
}

/// The content hash of one version of an order type: SHA-256 over its source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeHash(pub [u8; 32]);

impl TypeHash {
    /// Hashes a type's whole source.
    pub fn of(source: &[u8]) -> Self {
        Self(Sha256::digest(source).into())
    }
}

impl fmt::Display for TypeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every answer with an order shows one: its digits are looked up, which costs far less than to format 32 numbers.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [[0; 2]; 32];
        for (digits, byte) in hex.iter_mut().zip(self.0) {
            *digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        f.write_str("sha256:")?;
        f.write_str(std::str::from_utf8(hex.as_flattened()).unwrap_or_default())
    }
}

impl fmt::Debug for TypeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no type hash.
#[derive(Debug, thiserror::Error)]
#[error("not a type hash: expected `sha256:` and 64 hexadecimal digits")]
pub struct InvalidTypeHash;

impl FromStr for TypeHash {
    type Err = InvalidTypeHash;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_prefix("sha256:").ok_or(InvalidTypeHash)?;
        // Each is looked at: numbers are parsed with a sign before them too.
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidTypeHash);
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[index * 2..index * 2 + 2], 16).map_err(|_| InvalidTypeHash)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for TypeHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TypeHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
