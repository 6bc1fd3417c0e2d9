//! The description of the API against the running server: [schemathesis](https://schemathesis.io) makes thousands of
//! requests of `/openapi.json`, right ones and wrong ones, to a server that holds orders in every state. No answer may
//! be a server error, have a status or a content type that the description does not name, or another shape.
//!
//! `cargo xtask install` puts schemathesis into `target/tools`. `DESCRIPTION_EXAMPLES` sets the requests made up per
//! operation (15), `DESCRIPTION_SEED` other ones (1).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Home, PATIENCE, Server};

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";

/// Sources of orders: one that others post to, and one that has taken lines of which no order can be made.
const SOURCES: &str = r#"
[intake.shop]
kind = "webhook"
type = "sale"
secret = { env = "SHOP_SECRET" }
[intake.files]
kind = "directory"
type = "sale"
path = "incoming"
"#;

#[test]
fn every_answer_of_the_running_server_is_as_described() {
    let schemathesis = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/schemathesis/bin/schemathesis");
    assert!(
        schemathesis.exists(),
        "{} is missing. Try: cargo xtask install",
        schemathesis.display()
    );
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/description");
    let home = tempfile::tempdir().unwrap();
    let types = home.path().join("order-types");
    std::fs::create_dir(&types).unwrap();
    std::fs::copy(Path::new(folder).join("gate.toml"), types.join("gate.toml")).unwrap();
    std::fs::write(home.path().join("comanda.toml"), SOURCES).unwrap();
    let incoming = home.path().join("incoming");
    std::fs::create_dir(&incoming).unwrap();
    std::fs::write(incoming.join("sales.ndjson"), "{\"amount\":\"nothing\"}\n".repeat(20)).unwrap();
    let server = Server::start_with(
        Home::Lent(home.path().to_owned()),
        &["--break", "record=5", "--fast-retries"],
        &[
            ("COMANDA_DELIVERIES__ALLOW_PRIVATE", "true"),
            ("SHOP_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ],
    );
    let known = home.path().join("known.json");
    std::fs::write(&known, json!(fill(&server)).to_string()).unwrap();
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let output = Command::new(schemathesis)
        .current_dir(home.path())
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("KNOWN_IDS", &known)
        .args(["run", &format!("{}/openapi.json", server.url), "--checks", CHECKS])
        .args(["--max-examples", &setting("DESCRIPTION_EXAMPLES", "15")])
        // One at a time: Python 3.11 now and then fails when two threads parse code at once ("AST constructor recursion
        // depth mismatch", python/cpython#106905), as the tool does while it makes up data.
        .args(["--phases", "examples,coverage,fuzzing", "--workers", "1"])
        .args(["--suppress-health-check", "all", "--request-timeout", "20"])
        .args(["--seed", &setting("DESCRIPTION_SEED", "1")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success(),
        "the server does not do what it describes:\n{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (status, _) = server.get("/readyz");
    assert_eq!(status, 200, "the server is not what it was before");
}

/// Fills the server with one of each, and answers their ids by kind, as the first segment of the path names it.
fn fill(server: &Server) -> BTreeMap<&'static str, Vec<String>> {
    let mut known: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let submit = |order_type: &str, data: Value| -> String {
        let mut body = json!({"type": order_type, "data": data});
        if order_type == "work-order" {
            body["status"] = json!("recibida");
        }
        let (status, order) = server.post("/v1/orders", &body.to_string());
        assert_eq!(status, 202, "{order}");
        order["id"].as_str().unwrap().to_owned()
    };
    let sale = submit("sale", json!({"amount": 12.50, "currency": "EUR"}));
    let purchase = submit("purchase", json!({"customerId": "c-1", "items": [{"sku": "tea"}]}));
    let shop = submit(
        "shop-order",
        json!({"customer_name": "Ana", "customer_email": "ana@example.com", "customer_address": "1 High Street",
            "items": [{"product_id": "tea", "name": "Tea", "quantity": 2, "price": 1.5}], "total_price": 3.0, "payment_method": "card"}),
    );
    let work = submit(
        "work-order",
        json!({"descripcion": "Cambiar", "fecha_entrega": "10/04/2026"}),
    );
    let asked: Vec<String> = (0..8).map(|_| submit("gate", json!({"ask": true}))).collect();
    for _ in 0..8 {
        submit("gate", json!({}));
    }
    let (status, stock) = server.post(
        "/v1/inventory/tea/receive",
        r#"{"quantity": 100, "price": "1.50", "currency": "EUR"}"#,
    );
    assert!(status < 300, "{stock}");
    let (status, customer) = server.post("/v1/customers", r#"{"id": "c-1", "name": "Ana"}"#);
    assert!(status < 300, "{customer}");
    let store = submit(
        "storefront-order",
        json!({"userId": "c-1", "products": [{"sku": "tea", "quantity": 2}]}),
    );
    for name in ["one", "two", "three"] {
        let body = json!({"name": name, "url": "http://127.0.0.1:9/hook"});
        let (status, subscription) = server.post("/v1/subscriptions", &body.to_string());
        assert_eq!(status, 201, "{subscription}");
        let id = subscription["id"].as_str().unwrap().to_owned();
        known.entry("subscriptions").or_default().push(id);
    }
    // Whoever claims waits until there is something.
    let claim = r#"{"max": 4, "waitSeconds": 30, "leaseSeconds": 600}"#;
    let (status, claimed) = server.post("/v1/queues/picking/claims", claim);
    assert_eq!(status, 200, "{claimed}");
    let items = claimed["items"].as_array().unwrap();
    assert!(!items.is_empty(), "{claimed}");
    for item in items {
        let token = item["token"].as_str().unwrap().to_owned();
        known.entry("claims").or_default().push(token);
    }
    // `--break` makes a dead letter of the sale.
    let (_, settled) = server.get(&format!("/v1/orders/{sale}?wait=60"));
    assert_eq!(settled["work"]["state"], "parked", "{settled}");
    known.insert("dead-letters", vec![sale.clone()]);
    for order in &asked {
        let (status, link) = server.post(&format!("/v1/orders/{order}/links"), "{}");
        assert_eq!(status, 201, "{link}");
        let token = link["url"].as_str().unwrap().rsplit('/').next().unwrap();
        known.entry("links").or_default().push(token.to_owned());
    }
    for id in ["c-2", "c-3"] {
        let (status, customer) = server.post("/v1/customers", &json!({"id": id, "name": "Eva"}).to_string());
        assert!(status < 300, "{customer}");
        let (status, job) = server.post(&format!("/v1/customers/{id}/erase"), "{}");
        assert_eq!(status, 202, "{job}");
        let job = job["id"].as_str().unwrap().to_owned();
        known.entry("jobs").or_default().push(job);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, rejected) = server.get("/v1/intake/files/rejected");
        if !rejected["items"].as_array().unwrap().is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "the file is never taken: {rejected}");
        std::thread::sleep(Duration::from_millis(50));
    }
    known.insert("intake", vec!["shop".to_owned(), "files".to_owned()]);
    known.insert("customers", vec!["c-1".to_owned()]);
    known.insert("inventory", vec!["tea".to_owned()]);
    known.insert("queues", vec!["picking".to_owned(), "ordenes-recibidas".to_owned()]);
    known.insert("callbacks", known["claims"].clone());
    known.insert("order-types", vec!["sale".to_owned(), "gate".to_owned()]);
    for (mount, id) in [
        ("sale", &sale),
        ("purchase", &purchase),
        ("shop-order", &shop),
        ("work-order", &work),
        ("storefront-order", &store),
    ] {
        known.insert(mount, vec![id.clone()]);
    }
    let mut orders = vec![sale, purchase, shop, work, store];
    orders.extend(asked.iter().cloned());
    known.insert("gate", asked);
    known.insert("orders", orders);
    known
}
