//! Verifies signatures by the [Standard Webhooks](https://www.standardwebhooks.com/) specification: the other side of
//! [`Signer`](crate::Signer).

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::signature::{PUBLIC, SYMMETRIC, SecretError};

/// How far a message's time may be from ours, as the specification suggests: an old message that someone has recorded
/// is not taken again.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// The most signatures of a message that are looked at.
const SIGNATURES_MAX: usize = 16;

/// Why a message is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// The time is no number of seconds.
    #[error("`webhook-timestamp` is no number of seconds since 1970")]
    Timestamp,
    /// The time is too far from ours.
    #[error("`webhook-timestamp` is too old, or in the future: the clocks differ, or the message was sent before")]
    Expired,
    /// No signature fits.
    #[error("no signature fits: the secret is another one, or the message was changed on the way")]
    Signature,
}

/// Verifies what was received. While a secret is being replaced there are two, and either is enough.
pub struct Verifier(Vec<Key>);

enum Key {
    Symmetric(Box<hmac::Key>),
    Public([u8; 32]),
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} secrets)", self.0.len())
    }
}

impl Verifier {
    /// A verifier from secrets `whsec_…` (HMAC-SHA256) and public keys `whpk_…` (Ed25519).
    pub fn from_secrets<'s>(secrets: impl IntoIterator<Item = &'s str>) -> Result<Self, SecretError> {
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| SecretError::Encoding);
        let key = |secret: &str| {
            if let Some(text) = secret.strip_prefix(PUBLIC) {
                let bytes: [u8; 32] = decode(text)?.try_into().map_err(|_| SecretError::Length)?;
                return Ok(Key::Public(bytes));
            }
            let bytes = decode(secret.strip_prefix(SYMMETRIC).ok_or(SecretError::Received)?)?;
            if !(24..=64).contains(&bytes.len()) {
                return Err(SecretError::Length);
            }
            Ok(Key::Symmetric(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes))))
        };
        let keys: Result<Vec<Key>, SecretError> = secrets.into_iter().map(key).collect();
        keys.map(Self)
    }

    /// Verifies a message by its three headers. `now` counts seconds since 1970. Takes the same time whichever byte of a
    /// symmetric signature is wrong.
    pub fn verify(&self, id: &str, timestamp: &str, signatures: &str, body: &[u8], now: i64) -> Result<(), Unverified> {
        let at: i64 = timestamp.parse().map_err(|_| Unverified::Timestamp)?;
        if now.abs_diff(at) > TOLERANCE.as_secs() {
            return Err(Unverified::Expired);
        }
        let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        let fits = |text: &str| {
            let Some((version, signature)) = text.split_once(',') else {
                return false;
            };
            let Ok(signature) = BASE64_STANDARD.decode(signature) else {
                return false;
            };
            self.0.iter().any(|key| match (version, key) {
                ("v1", Key::Symmetric(key)) => hmac::verify(key, &signed, &signature).is_ok(),
                ("v1a", Key::Public(key)) => UnparsedPublicKey::new(&ED25519, key)
                    .verify(&signed, &signature)
                    .is_ok(),
                _ => false,
            })
        };
        if signatures.split(' ').take(SIGNATURES_MAX).any(fits) {
            Ok(())
        } else {
            Err(Unverified::Signature)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The specification's own example; for Ed25519, computed with Python's `cryptography` from the seed 0..32.
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: &str = "1614265330";
    const NOW: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const PUBLIC_KEY: &str = "whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=";
    const V1: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const V1A: &str = "v1a,yoUrgEkc12aGqm0n4Sydmdz55xJfTz4AsAgieHFjmkR7LJtqVCZOQYzvvHjI5kAey+r4iaBGxTFRrl2iBQxtDQ==";

    #[test]
    fn signatures_of_other_implementations_are_believed_also_while_a_secret_is_replaced() {
        for (secrets, signature) in [
            (vec![SECRET], V1.to_owned()),
            (vec![PUBLIC_KEY], V1A.to_owned()),
            (vec![OTHER, SECRET], V1.to_owned()),
            (vec![SECRET], format!("v1,AAAA {V1A} {V1}")),
        ] {
            let verifier = Verifier::from_secrets(secrets).unwrap();
            assert_eq!(
                verifier.verify(ID, AT, &signature, BODY, NOW + 299),
                Ok(()),
                "{signature}"
            );
        }
    }

    #[test]
    fn what_is_wrong_in_any_part_is_not() {
        let verifier = Verifier::from_secrets([SECRET, PUBLIC_KEY]).unwrap();
        let verify = |id, at, signature, body, now| verifier.verify(id, at, signature, body, now).unwrap_err();
        assert_eq!(verify("msg_other", AT, V1, BODY, NOW), Unverified::Signature);
        assert_eq!(verify(ID, "1614265331", V1, BODY, NOW), Unverified::Signature);
        assert_eq!(verify(ID, AT, V1, b"{}", NOW), Unverified::Signature);
        assert_eq!(verify(ID, AT, "v1a,g0hM", BODY, NOW), Unverified::Signature);
        assert_eq!(verify(ID, AT, "", BODY, NOW), Unverified::Signature);
        for now in [NOW + 301, NOW - 301] {
            assert_eq!(verify(ID, AT, V1, BODY, now), Unverified::Expired);
        }
        assert_eq!(verify(ID, "soon", V1, BODY, NOW), Unverified::Timestamp);
        let other = Verifier::from_secrets([OTHER]).unwrap();
        assert_eq!(other.verify(ID, AT, V1, BODY, NOW), Err(Unverified::Signature));
        for (secret, error) in [("whsk_AAAA", SecretError::Received), ("whpk_AAAA", SecretError::Length)] {
            assert_eq!(Verifier::from_secrets([secret]).unwrap_err(), error);
        }
    }
}
