//! Secrets that stand in the store, sealed: encrypted with a key that does not stand there, so that whoever has a copy of the
//! store alone (a backup, a dump, a stolen disk without the key file) cannot sign with them.
//!
//! A sealed text is `sealed:1:KEY:BYTES`: the first four bytes of the SHA-256 of the key in hex, and in base64 the nonce, then
//! the text encrypted by AES-256-GCM. What it is for (`subscription:ID`) is authenticated along, so that nobody who
//! can write to the store can put one secret in another's place.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// How sealed texts begin.
const PREFIX: &str = "sealed:1:";
/// The bytes of a key.
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// The most keys at the same time: the one that seals, and those that are being replaced.
const KEYS_MAX: usize = 16;

/// Why something could not be sealed or opened. It never says what stands in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A line of the keys is no key.
    #[error("line {0} is no key: write 32 random bytes in base64, such as `openssl rand -base64 32` makes")]
    Key(usize),
    /// No key, or too many.
    #[error("there must be 1 to {KEYS_MAX} keys, one a line, the newest first")]
    Count,
    /// Sealed with a key that is not here.
    #[error("it is sealed with the key {0}, which is not here; give that key back, or make a new secret")]
    Unknown(String),
    /// Changed, or sealed for something else.
    #[error("it was changed in the store, or belongs to something else; make a new secret")]
    Damaged,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

/// Seals and opens. The first key seals, all of them open.
pub struct Sealer(Vec<Key>);

struct Key {
    id: String,
    key: RandomizedNonceKey,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<&str> = self.0.iter().map(|key| key.id.as_str()).collect();
        f.debug_tuple("Sealer").field(&ids).finish()
    }
}

impl Sealer {
    /// One without keys: it leaves everything as it is, and opens nothing that is sealed.
    pub fn plain() -> Self {
        Self(Vec::new())
    }

    /// From keys in base64, one a line, the newest first. Empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// [`SealError::Key`] and [`SealError::Count`].
    pub fn from_keys(text: &str) -> Result<Self, SealError> {
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = SealError::Key(index + 1);
            let bytes = BASE64_STANDARD.decode(line).map_err(|_| wrong.clone())?;
            if bytes.len() != KEY_BYTES {
                return Err(wrong);
            }
            let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| wrong)?;
            let digest = digest::digest(&digest::SHA256, &bytes);
            let id = digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
            keys.push(Key { id, key });
        }
        if !(1..=KEYS_MAX).contains(&keys.len()) {
            return Err(SealError::Count);
        }
        Ok(Self(keys))
    }

    /// A new key, as [`Self::from_keys`] reads it.
    ///
    /// # Errors
    /// [`SealError::Random`].
    pub fn new_key() -> Result<String, SealError> {
        let mut bytes = [0; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SealError::Random)?;
        Ok(BASE64_STANDARD.encode(bytes))
    }

    /// Seals a text for something. One that is sealed already stays as it is.
    ///
    /// # Errors
    /// [`SealError::Random`].
    pub fn seal(&self, what: &str, text: &str) -> Result<String, SealError> {
        let Some(Key { id, key }) = self.0.first().filter(|_| !is_sealed(text)) else {
            return Ok(text.to_owned());
        };
        let mut sealed = text.as_bytes().to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(what.as_bytes()), &mut sealed)
            .map_err(|_| SealError::Random)?;
        let bytes = [nonce.as_ref().as_slice(), &sealed].concat();
        Ok(format!("{PREFIX}{id}:{}", BASE64_STANDARD.encode(bytes)))
    }

    /// The text that was sealed for something. One that is not sealed is as it is.
    ///
    /// # Errors
    /// [`SealError::Unknown`] and [`SealError::Damaged`].
    pub fn open(&self, what: &str, kept: &str) -> Result<String, SealError> {
        let Some(rest) = kept.strip_prefix(PREFIX) else {
            return Ok(kept.to_owned());
        };
        let (id, bytes) = rest.split_once(':').ok_or(SealError::Damaged)?;
        let key = self.0.iter().find(|key| key.id == id);
        let key = key.ok_or_else(|| SealError::Unknown(id.to_owned()))?;
        let bytes = BASE64_STANDARD.decode(bytes).map_err(|_| SealError::Damaged)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES).ok_or(SealError::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Damaged)?;
        let mut sealed = sealed.to_vec();
        let text = key
            .key
            .open_in_place(nonce, Aad::from(what.as_bytes()), &mut sealed)
            .map_err(|_| SealError::Damaged)?;
        String::from_utf8(text.to_vec()).map_err(|_| SealError::Damaged)
    }

    /// Whether a text stands as it would be sealed today.
    pub fn is_current(&self, kept: &str) -> bool {
        let key = kept.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':'));
        match (self.0.first(), key) {
            (Some(first), Some((id, _))) => first.id == id,
            (Some(_), None) => false,
            (None, _) => true,
        }
    }
}

/// Whether a text is a sealed one.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_for_its_purpose_and_not_otherwise() {
        let (old, new) = (Sealer::new_key().unwrap(), Sealer::new_key().unwrap());
        let before = Sealer::from_keys(&old).unwrap();
        let kept = before.seal("subscription:a", "whsec_secret").unwrap();
        assert!(is_sealed(&kept) && !kept.contains("secret_") && !kept.contains("whsec"));
        assert_ne!(
            kept,
            before.seal("subscription:a", "whsec_secret").unwrap(),
            "a nonce is used once"
        );
        assert_eq!(before.open("subscription:a", &kept).unwrap(), "whsec_secret");
        assert_eq!(before.open("subscription:b", &kept), Err(SealError::Damaged));
        let mut bytes = kept.clone().into_bytes();
        let last = bytes.len() - 3;
        bytes[last] = if bytes[last] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert_eq!(before.open("subscription:a", &changed), Err(SealError::Damaged));

        let both = Sealer::from_keys(&format!("# the new one\n{new}\n\n{old}\n")).unwrap();
        assert_eq!(both.open("subscription:a", &kept).unwrap(), "whsec_secret");
        assert!(!both.is_current(&kept) && before.is_current(&kept));
        let after = Sealer::from_keys(&new).unwrap();
        assert!(matches!(
            after.open("subscription:a", &kept),
            Err(SealError::Unknown(_))
        ));
        assert!(matches!(
            Sealer::plain().open("subscription:a", &kept),
            Err(SealError::Unknown(_))
        ));
    }

    #[test]
    fn what_was_plain_reads_as_it_is_and_is_to_be_sealed() {
        let sealer = Sealer::from_keys(&Sealer::new_key().unwrap()).unwrap();
        assert_eq!(sealer.open("x", "whsec_plain").unwrap(), "whsec_plain");
        assert!(!sealer.is_current("whsec_plain") && Sealer::plain().is_current("whsec_plain"));
        assert_eq!(Sealer::plain().seal("x", "whsec_plain").unwrap(), "whsec_plain");
    }

    #[test]
    fn what_is_no_key_is_refused_by_its_line() {
        assert!(matches!(Sealer::from_keys(""), Err(SealError::Count)));
        assert!(matches!(Sealer::from_keys("\nAAAA"), Err(SealError::Key(2))));
        assert!(matches!(Sealer::from_keys("not base64!"), Err(SealError::Key(1))));
    }
}
