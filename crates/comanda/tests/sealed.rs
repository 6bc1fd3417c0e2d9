//! Secrets in the store of the real binary: they stand there sealed, under a key that can be replaced, and without which they
//! are of no use.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::path::Path;
use std::time::Instant;

use comanda_model::Json;
use comanda_store::Store;
use comanda_store::seal::Sealer;
use comanda_store_sqlite::{Options, SqliteStore};
use serde_json::{Value, json};
use support::receiver::{Arrived, Receiver};
use support::{Home, PATIENCE, Server};

fn serve(home: &Path) -> Server {
    Server::start_with(Home::Lent(home.to_owned()), &[], &[])
}

fn sell(server: &Server) {
    let (status, answer) = server.post(
        "/v1/orders",
        r#"{"type":"sale","data":{"amount":1.50,"currency":"EUR"}}"#,
    );
    assert_eq!(status, 202, "{answer}");
}

/// The next webhook of an order that is submitted now.
fn delivered(server: &Server, receiver: &Receiver) -> Arrived {
    receiver.waiting();
    sell(server);
    receiver.next()
}

/// Whether a text stands anywhere in the data directory.
fn stands_in(directory: &Path, text: &str) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return stands_in(&path, text);
        }
        let bytes = std::fs::read(&path).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn secrets_stand_sealed_and_their_key_can_be_replaced() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(
        home.path().join("comanda.toml"),
        "[deliveries]\nallow_private = true\nretries = [\"10ms\"]\n",
    )
    .unwrap();
    let receiver = Receiver::start();
    let server = serve(home.path());
    let (status, made) = server.post(
        "/v1/subscriptions",
        &json!({"url": receiver.url(), "filter": {"statuses": ["COMPLETED"]}}).to_string(),
    );
    assert_eq!(status, 201, "{made}");
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    assert!(delivered(&server, &receiver).verifies(secret));
    let (_, page) = server.get("/v1/orders?limit=1");
    let order = page["items"][0]["id"].as_str().unwrap().to_owned();
    let (_, link) = server.post(&format!("/v1/orders/{order}/links"), "{}");
    let link = link["url"]
        .as_str()
        .unwrap()
        .strip_prefix(&format!("{}/v1/", server.url));
    let link = link.expect("it names the port that was taken").to_owned();
    let opens = |server: &Server| server.get(&format!("/v1/{link}")).0;
    assert_eq!(opens(&server), 200);
    server.stop();

    let data = home.path().join("comanda-data");
    let key_file = data.join("secrets.key");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&key_file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "only its owner reads it");
    }
    assert!(stands_in(&data, id), "the subscription is there");
    let bare = secret.strip_prefix("whsec_").unwrap();
    assert!(!stands_in(&data, bare), "its secret is not");
    let old = std::fs::read_to_string(&key_file).unwrap();
    let old_id = |data: &Path| stands_in(data, &sealed_with(&old));
    assert!(old_id(&data), "it is sealed with the key that was made");

    // A new key before the old one: what the old one has sealed is sealed anew.
    let new = Sealer::new_key().unwrap();
    std::fs::write(&key_file, format!("{new}\n{old}")).unwrap();
    let server = serve(home.path());
    assert!(delivered(&server, &receiver).verifies(secret));
    assert_eq!(opens(&server), 200);
    server.stop();
    std::fs::write(&key_file, format!("{new}\n")).unwrap();
    let server = serve(home.path());
    assert!(
        delivered(&server, &receiver).verifies(secret),
        "the old key is needed no longer"
    );
    assert_eq!(opens(&server), 200);
    server.stop();

    // Without its key a secret is of no use, and a new one mends it.
    std::fs::write(&key_file, Sealer::new_key().unwrap()).unwrap();
    let server = serve(home.path());
    sell(&server);
    let begun = Instant::now();
    let reason = loop {
        let (_, log) = server.get(&format!("/v1/subscriptions/{id}/deliveries"));
        if let Some(reason) = log["items"][0]["reason"].as_str() {
            break reason.to_owned();
        }
        assert!(begun.elapsed() < PATIENCE, "{log}");
    };
    assert!(reason.contains("sealed with a key that is not here"), "{reason}");
    assert_eq!(opens(&server), 503);
    let (status, rotated) = server.post(
        &format!("/v1/subscriptions/{id}/rotate-secret"),
        r#"{"keepSeconds": 0}"#,
    );
    assert_eq!(status, 200, "{rotated}");
    let fresh: Value = rotated["secret"].clone();
    let (status, _) = server.post(&format!("/v1/subscriptions/{id}/resume"), "{}");
    assert_eq!(status, 200);
    assert!(receiver.next().verifies(fresh.as_str().unwrap()));
    let (status, _) = server.post("/v1/links/rotate-key", "{}");
    assert_eq!(status, 204);
    assert_eq!(opens(&server), 404, "links from before are void");
}

#[test]
fn what_an_earlier_version_left_in_plain_text_is_sealed_at_the_first_start() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("comanda.toml"), "[deliveries]\nallow_private = true\n").unwrap();
    let receiver = Receiver::start();
    let server = serve(home.path());
    let (_, made) = server.post(
        "/v1/subscriptions",
        &json!({"url": receiver.url(), "filter": {"statuses": ["COMPLETED"]}}).to_string(),
    );
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(delivered(&server, &receiver).verifies(&secret));
    let (_, page) = server.get("/v1/orders?limit=1");
    let order = page["items"][0]["id"].as_str().unwrap().to_owned();
    let (_, link) = server.post(&format!("/v1/orders/{order}/links"), "{}");
    let link = link["url"]
        .as_str()
        .unwrap()
        .strip_prefix(&server.url)
        .unwrap()
        .to_owned();
    server.stop();

    // As it was before there were keys: everything stands as it is, and nothing to seal with.
    let data = home.path().join("comanda-data");
    let key_file = data.join("secrets.key");
    let key = Sealer::from_keys(&std::fs::read_to_string(&key_file).unwrap()).unwrap();
    std::fs::remove_file(&key_file).unwrap();
    let link_key = in_store(&data, async |store| {
        let subscriptions = store.subscriptions().unwrap();
        let all = subscriptions.all_subscriptions().await.unwrap();
        let mut plain = all.into_iter().find(|one| !one.secrets.is_empty()).unwrap();
        for one in &mut plain.secrets {
            one.secret = key.open(&format!("subscription:{}", plain.id), &one.secret).unwrap();
        }
        subscriptions.put_subscription(&plain).await.unwrap();
        let mut record = store.record("link-key", "current").await.unwrap().unwrap();
        let link_key = key
            .open("link-key", record.value.value().unwrap().as_str().unwrap())
            .unwrap();
        record.version += 1;
        record.value = Json::from(&json!(link_key));
        store.put_record(&record).await.unwrap();
        link_key
    });
    let bare = secret.strip_prefix("whsec_").unwrap();
    assert!(stands_in(&data, bare) && stands_in(&data, &link_key));

    let server = serve(home.path());
    assert!(delivered(&server, &receiver).verifies(&secret), "it is the same secret");
    assert_eq!(server.get(&link).0, 200, "links from before are good");
    server.stop();
    assert!(key_file.exists(), "a key was made");
    assert!(!stands_in(&data, bare), "the secret stands there no more");
    assert!(!stands_in(&data, &link_key), "nor does the key of links");
}

/// Does something with a store that no server has open.
fn in_store<T>(data: &Path, act: impl AsyncFnOnce(&SqliteStore) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(Options::new(data)).unwrap();
        let done = act(&store).await;
        store.close().await.unwrap();
        done
    })
}

/// How what a key has sealed begins.
fn sealed_with(key: &str) -> String {
    let sealed = Sealer::from_keys(key).unwrap().seal("x", "y").unwrap();
    sealed.rsplit_once(':').unwrap().0.to_owned()
}
