//! Signatures by the [Standard Webhooks](https://www.standardwebhooks.com/) specification.
//!
//! What is signed is `id.timestamp.body`. A secret `whsec_…` signs with HMAC-SHA256 (`v1,…`), a secret `whsk_…` with
//! Ed25519 (`v1a,…`), to be verified with its public key `whpk_…`. While a secret is being replaced, the old one and
//! the new one both sign, and the receiver accepts whichever it knows.

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

pub(crate) const SYMMETRIC: &str = "whsec_";
const ASYMMETRIC: &str = "whsk_";
pub(crate) const PUBLIC: &str = "whpk_";

/// Why a text is no secret. It never says what stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Another beginning.
    #[error("a signing secret begins with `whsec_` (HMAC-SHA256) or `whsk_` (Ed25519)")]
    Prefix,
    /// Another beginning, of what is verified with.
    #[error("what is verified with begins with `whsec_` (HMAC-SHA256) or `whpk_` (an Ed25519 public key)")]
    Received,
    /// What follows is not base64.
    #[error("what follows the prefix of a signing secret must be base64")]
    Encoding,
    /// Too short to be safe, or too long to be a secret.
    #[error(
        "a `whsec_` secret has 24 to 64 bytes, a `whsk_` secret the 32 bytes of the seed, or 64 with the public key"
    )]
    Length,
    /// The two halves of a `whsk_` secret are not of one pair.
    #[error("the public half of the `whsk_` secret does not belong to its private half")]
    Pair,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

/// Signs what is sent.
pub struct Signer(Key);

enum Key {
    Symmetric(Box<hmac::Key>),
    Asymmetric(Ed25519KeyPair),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Key::Symmetric(_) => "Signer(whsec)",
            Key::Asymmetric(_) => "Signer(whsk)",
        })
    }
}

impl Signer {
    /// A signer from `whsec_…` or `whsk_…`.
    pub fn from_secret(secret: &str) -> Result<Self, SecretError> {
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| SecretError::Encoding);
        if let Some(text) = secret.strip_prefix(SYMMETRIC) {
            let bytes = decode(text)?;
            if !(24..=64).contains(&bytes.len()) {
                return Err(SecretError::Length);
            }
            return Ok(Self(Key::Symmetric(Box::new(hmac::Key::new(
                hmac::HMAC_SHA256,
                &bytes,
            )))));
        }
        let text = secret.strip_prefix(ASYMMETRIC).ok_or(SecretError::Prefix)?;
        let bytes = decode(text)?;
        let pair = match bytes.len() {
            32 => Ed25519KeyPair::from_seed_unchecked(&bytes).map_err(|_| SecretError::Length)?,
            64 => {
                Ed25519KeyPair::from_seed_and_public_key(&bytes[..32], &bytes[32..]).map_err(|_| SecretError::Pair)?
            }
            _ => return Err(SecretError::Length),
        };
        Ok(Self(Key::Asymmetric(pair)))
    }

    /// A new random `whsec_…` secret of 32 bytes.
    pub fn symmetric_secret() -> Result<String, SecretError> {
        Ok(format!("{SYMMETRIC}{}", BASE64_STANDARD.encode(random()?)))
    }

    /// A new random `whsk_…` secret: seed and public key.
    pub fn asymmetric_secret() -> Result<String, SecretError> {
        let seed = random()?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| SecretError::Length)?;
        let whole = [seed.as_slice(), pair.public_key().as_ref()].concat();
        Ok(format!("{ASYMMETRIC}{}", BASE64_STANDARD.encode(whole)))
    }

    /// The public key `whpk_…` to verify with, where the secret is asymmetric.
    pub fn public_key(&self) -> Option<String> {
        match &self.0 {
            Key::Symmetric(_) => None,
            Key::Asymmetric(pair) => {
                let key = BASE64_STANDARD.encode(pair.public_key().as_ref());
                Some(format!("{PUBLIC}{key}"))
            }
        }
    }

    /// One signature, `v1,…` or `v1a,…`. `timestamp` counts seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        match &self.0 {
            Key::Symmetric(key) => format!("v1,{}", BASE64_STANDARD.encode(hmac::sign(key, &signed))),
            Key::Asymmetric(pair) => format!("v1a,{}", BASE64_STANDARD.encode(pair.sign(&signed))),
        }
    }
}

/// The three headers of a signed message. All signers sign: during a rotation there are two.
pub fn headers<'a>(
    signers: impl IntoIterator<Item = &'a Signer>,
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> [(&'static str, String); 3] {
    let signatures: Vec<String> = signers
        .into_iter()
        .map(|signer| signer.sign(id, timestamp, body))
        .collect();
    [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-signature", signatures.join(" ")),
    ]
}

fn random() -> Result<[u8; 32], SecretError> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| SecretError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The specification's own example for HMAC; for Ed25519, computed with Python's `cryptography` from the seed 0..32.
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SEED: &str = "whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const PAIR: &str = "whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8DoQe/884Qvh1w3RjnS8CZZ+TWMJulDV8d3IZkElUxuA==";

    #[test]
    fn signatures_are_those_of_other_implementations() {
        let symmetric = Signer::from_secret(SECRET).unwrap();
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(symmetric.sign(ID, AT, BODY), expected);
        assert_eq!(symmetric.public_key(), None);
        let both = "v1a,yoUrgEkc12aGqm0n4Sydmdz55xJfTz4AsAgieHFjmkR7LJtqVCZOQYzvvHjI5kAey+r4iaBGxTFRrl2iBQxtDQ==";
        for secret in [SEED, PAIR] {
            let signer = Signer::from_secret(secret).unwrap();
            assert_eq!(signer.sign(ID, AT, BODY), both);
            let public = signer.public_key().unwrap();
            assert_eq!(public, "whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=");
        }
        let asymmetric = Signer::from_secret(SEED).unwrap();
        let [id, at, signature] = headers([&symmetric, &asymmetric], ID, AT, BODY);
        assert_eq!(id, ("webhook-id", ID.to_owned()));
        assert_eq!(at, ("webhook-timestamp", "1614265330".to_owned()));
        assert_eq!(signature, ("webhook-signature", format!("{expected} {both}")));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for (secret, error) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", SecretError::Prefix),
            ("whsec_%%%", SecretError::Encoding),
            ("whsec_AAAA", SecretError::Length),
            ("whsk_AAAA", SecretError::Length),
        ] {
            assert_eq!(Signer::from_secret(secret).unwrap_err(), error, "{secret}");
        }
        let foreign = [[7_u8; 32], [9; 32]].concat();
        let foreign = format!("{ASYMMETRIC}{}", BASE64_STANDARD.encode(foreign));
        assert_eq!(Signer::from_secret(&foreign).unwrap_err(), SecretError::Pair);
    }

    #[test]
    fn new_secrets_are_new_and_are_not_shown() {
        for make in [Signer::symmetric_secret, Signer::asymmetric_secret] {
            let secret = make().unwrap();
            assert_ne!(secret, make().unwrap());
            let signer = Signer::from_secret(&secret).unwrap();
            assert!(format!("{signer:?}").len() < 16);
        }
    }
}
