//! Secrets and addresses that nobody would write: nothing panics, and what is taken for a secret signs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use comanda_outbound::guard::is_public;
use comanda_outbound::signature::Signer;
use proptest::prelude::*;

proptest! {
    // A failure is reproduced by the case that it prints; no file is left behind.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn secrets(secret in prop_oneof!["whsec_[A-Za-z0-9+/]{0,90}={0,3}", "whsk_[A-Za-z0-9+/]{0,90}={0,3}", "\\PC{0,40}"], id in "\\PC{0,20}", at in any::<i64>(), body in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(signer) = Signer::from_secret(&secret) {
            let signature = signer.sign(&id, at, &body);
            prop_assert!(signature.starts_with("v1,") || signature.starts_with("v1a,"));
            prop_assert_eq!(signer.sign(&id, at, &body), signature.clone());
            prop_assert_ne!(signer.sign(&id, at.wrapping_add(1), &body), signature);
            prop_assert!(!format!("{signer:?}").contains(&secret[6..]), "a secret is shown");
        }
    }

    /// An address is no more public for being written as one of version 6.
    #[test]
    fn addresses(bits in any::<u32>()) {
        let four = Ipv4Addr::from_bits(bits);
        let [a, b, c, d] = four.octets().map(u16::from);
        let mapped = four.to_ipv6_mapped();
        let translated = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a << 8 | b, c << 8 | d);
        prop_assert_eq!(is_public(IpAddr::V6(mapped)), is_public(IpAddr::V4(four)));
        prop_assert!(!is_public(IpAddr::V6(translated)) || is_public(IpAddr::V4(four)), "{}", translated);
    }
}
