//! The example, run as its README says: the bakery's own routes, Comanda's behind them, and a restart in between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reqwest::Client;
use serde_json::{Value, json};

struct Bakery {
    url: String,
    child: Child,
    client: Client,
}

impl Drop for Bakery {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bakery {
    fn open(home: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bakery"))
            .args(["127.0.0.1:0", "data"])
            .current_dir(home)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, url) = line.split_once("is open at ")?;
            Some(url.to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            url: url.expect("the bakery did not open"),
            child,
            client: Client::new(),
        }
    }

    async fn post(&self, path: &str, key: &str, body: Value) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.url));
        let answer = request.header("idempotency-key", key).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// Closes in order, and hands back what the bell has rung.
    fn close(mut self) -> String {
        let rung = self.child.stdout.take().unwrap();
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let rung = std::io::read_to_string(rung).unwrap();
        assert!(self.child.wait().unwrap().success());
        rung
    }
}

#[tokio::test]
async fn the_bakery_sells_cakes_over_its_own_routes_and_over_comandas() {
    let home = tempfile::tempdir().unwrap();
    let bakery = Bakery::open(home.path());
    let (status, cake) = bakery.post("/cakes", "order-1", json!({"flavour": "lemon"})).await;
    assert_eq!((status, &cake["status"]), (200, &json!("baked")), "{cake}");
    let id = cake["id"].as_str().unwrap().to_owned();
    let (_, same) = bakery.post("/cakes", "order-1", json!({"flavour": "lemon"})).await;
    assert_eq!(same["id"], cake["id"], "asked again under the same key");
    let (status, _) = bakery.post("/cakes", "order-2", json!({"flavour": ""})).await;
    assert_eq!(status, 422);
    let (_, garlic) = bakery.post("/cakes", "order-3", json!({"flavour": "garlic"})).await;
    assert_eq!(garlic["status"], "cancelled", "{garlic}");
    let (status, order) = bakery.get(&format!("/v1/orders/{id}")).await;
    assert_eq!((status, &order["status"]), (200, &json!("baked")), "{order}");
    assert!(order["results"]["bake"]["tin"].is_string(), "{order}");
    let (status, created) = bakery.post("/cake", "order-4", json!({"flavour": "plum"})).await;
    assert!(status == 202 || status == 201 || status == 200, "{status}: {created}");
    assert_eq!(bakery.get("/nothing-here").await.0, 404);
    let rung = bakery.close();
    assert!(
        rung.contains(&format!("{id} 1 comanda.order.accepted"))
            && rung.contains(&format!("{id} 2 comanda.order.status-changed")),
        "{rung}"
    );

    let bakery = Bakery::open(home.path());
    let (_, cake) = bakery.get(&format!("/cakes/{id}")).await;
    assert_eq!(cake["status"], "baked", "it is still there after a restart");
    let (status, order) = bakery
        .post(
            &format!("/v1/orders/{id}/transition"),
            "hand-1",
            json!({"to": "handed-out"}),
        )
        .await;
    assert_eq!((status, &order["status"]), (200, &json!("handed-out")), "{order}");
    bakery.close();
}
