//! Made-up messages, signatures, links and files: what comes from outside as an order. Nothing panics or takes long; what is
//! cut out of a message is JSON that stands in it to the letter; nothing counts as signed that is not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use comanda_outbound::{Signer, signature};
use comanda_store::memory::MemoryStore;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::Value;

use crate::directory::{Directory, DirectoryOptions};
use crate::feed::{next_link, place};
use crate::message::{Envelope, Message, at, scalar_at};
use crate::source::{Source, Taken};
use crate::webhook::{Webhook, WebhookOptions};

const SECRET: &str = "whsec_c2VjcmV0LW9mLXRoZS1tYWRlLXVwLW1lc3NhZ2Vz";
const NOW: i64 = 1_800_000_000;

fn within<T>(run: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = run();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        begun.elapsed()
    );
    answer
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z~/0-9]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("[a-z~/0-9]{0,3}", inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => json().prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..60),
        1 => "[\\[\\]{}\",:0-9a-z~/ ]{0,30}".prop_map(String::into_bytes),
        1 => (0_usize..5000).prop_map(|depth| "[".repeat(depth).into_bytes()),
    ]
}

fn pointer() -> impl Strategy<Value = String> {
    prop_oneof!["(/[a-z~0-9]{0,3}){0,5}", "(/[0-9]{1,25}){0,3}", "\\PC{0,12}"]
}

proptest! {
    #[test]
    fn data_is_cut_out_to_the_letter(body in body(), pointer in pointer()) {
        let found = within(|| at(&body, &pointer).map(|raw| raw.get().to_owned()));
        if let Ok(found) = found {
            let text = std::str::from_utf8(&body).unwrap();
            prop_assert!(text.contains(&found));
            let whole: Value = serde_json::from_str(text).unwrap();
            // A pointer that does not begin with a slash is not one; of the others both must find the same.
            if pointer.starts_with('/') && whole.pointer(&pointer).is_some() {
                prop_assert_eq!(whole.pointer(&pointer).cloned(), serde_json::from_str::<Value>(&found).ok());
            }
        }
        let _ = scalar_at(&body, &pointer);
        for envelope in [Envelope::Plain, Envelope::CloudEvent, Envelope::Data] {
            let message = Message::new(&pointer, Bytes::from(body.clone()), envelope);
            if let Ok(data) = message.data(&pointer) {
                prop_assert!(data.value().is_ok());
            }
        }
    }

    #[test]
    fn only_what_is_signed_counts(
        body in body(),
        id in "[ -~]{0,12}",
        time in prop_oneof!["[0-9]{0,25}", "-[0-9]{1,12}", "[ -~]{0,8}"],
        signature in prop_oneof!["(v1,[A-Za-z0-9+/=]{0,50} ?){0,3}", "[ -~]{0,40}"],
        drift in -1000_i64..1000,
        touched in any::<prop::sample::Index>(),
    ) {
        let webhook = Webhook::new(&WebhookOptions { secrets: vec![SECRET.to_owned()] }).unwrap();
        let now = Timestamp::from_second(NOW).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [("webhook-id", &id), ("webhook-timestamp", &time), ("webhook-signature", &signature)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        prop_assert!(webhook.message(&headers, Bytes::from(body.clone()), now).is_err());
        // The right one counts for five minutes, and not with a single bit changed.
        let signers = [Signer::from_secret(SECRET).unwrap()];
        let mut headers = HeaderMap::new();
        for (name, value) in signature::headers(&signers, "m-1", NOW + drift, &body) {
            headers.insert(HeaderName::try_from(name.to_string()).unwrap(), HeaderValue::from_str(&value.to_string()).unwrap());
        }
        let taken = webhook.message(&headers, Bytes::from(body.clone()), now);
        prop_assert_eq!(taken.is_ok(), drift.abs() <= 300, "{:?} at {}", taken, drift);
        if !body.is_empty() {
            let mut other = body.clone();
            other[touched.index(body.len())] ^= 1;
            prop_assert!(webhook.message(&headers, Bytes::from(other), now).is_err());
        }
    }

    #[test]
    fn links(value in prop_oneof!["(<[a-z/?=&]{0,8}>; ?rel=\"?[a-z ]{0,8}\"?,? ?){0,4}", "[<>;,=\"a-z ]{0,40}", "\\PC{0,30}"]) {
        if let Some(target) = within(|| next_link(&value)) {
            prop_assert!(value.contains(&target));
        }
        if let Ok(url) = reqwest::Url::parse(&format!("http://shop.example/{value}")) {
            prop_assert!(!place(&url).contains('?'));
        }
    }
}

/// The only line of the file after the one that is made up.
const END: &str = "the end";

/// Lines of any kind and length; the last one may have no end.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        3 => json().prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>().prop_filter("no end of line", |byte| *byte != b'\n'), 0..30),
        1 => "[ \t\r]{0,3}".prop_map(String::into_bytes),
    ];
    (prop::collection::vec(line, 0..30), any::<bool>()).prop_map(|(lines, ended)| {
        let mut text = lines.join(&b'\n');
        if ended {
            text.push(b'\n');
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 8))]
    #[test]
    fn each_line_of_a_watched_file_comes_once_and_in_order(bytes in lines(), taken in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("a.ndjson"), &bytes).unwrap();
        std::fs::write(home.path().join("b.ndjson"), END).unwrap();
        let wanted: Vec<Vec<u8>> = bytes
            .split(|byte| *byte == b'\n')
            .map(|line| line.trim_ascii().to_vec())
            .filter(|line| !line.is_empty())
            .collect();
        let come = runtime.block_on(async {
            let options = DirectoryOptions { path: home.path().to_owned(), id: None };
            let mut directory = Directory::new(options, Arc::new(MemoryStore::default()), "made-up");
            let mut come = Vec::new();
            let order = "01900000-0000-7000-8000-000000000000".parse().unwrap();
            loop {
                let messages = directory.receive().await.unwrap();
                if messages.iter().any(|message| message.body == END) {
                    return come;
                }
                let settled = |_| if taken { Taken::Accepted(order) } else { Taken::Rejected("made up".to_owned()) };
                let settled: Vec<Taken> = messages.iter().map(settled).collect();
                come.extend(messages.iter().map(|message| message.body.trim_ascii().to_vec()));
                directory.settle(&settled).await.unwrap();
            }
        });
        prop_assert_eq!(come, wanted);
    }
}
