//! E-mail of the real binary, through an independent mail server with STARTTLS and a login: what arrives, in which
//! language, what is refused, and `kill -9` while messages are on their way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use serde_json::{Value, json};
use support::{Home, PATIENCE, Server, lines};

/// The mail server's process. It ends with the test.
struct MailServer {
    child: Child,
    said: Receiver<String>,
}

impl MailServer {
    fn start(port: u16, directory: &Path) -> Self {
        Self::start_with(port, directory, &[])
    }

    fn start_with(port: u16, directory: &Path, more: &[&str]) -> Self {
        let python = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/aiosmtpd/bin/python");
        assert!(
            python.exists(),
            "aiosmtpd is missing; `cargo xtask test` installs it: {}",
            python.display()
        );
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mail_server.py"))
            .arg(port.to_string())
            .arg(directory)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = lines(child.stdout.take().unwrap());
        assert_eq!(said.recv_timeout(PATIENCE).unwrap().trim(), "ready");
        Self { child, said }
    }

    fn next(&self) -> Value {
        serde_json::from_str(&self.said.recv_timeout(PATIENCE).unwrap()).unwrap()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn configure(home: &Path, port: u16) {
    let configuration = format!(
        "[mail]\nserver = \"127.0.0.1:{port}\"\nfrom = \"The Shop <shop@example.com>\"\nca_file = \"ca.pem\"\n\
         user = \"shop\"\npassword_env = \"MAIL_PASSWORD\"\ntemplates = \"templates\"\n"
    );
    std::fs::write(home.join("comanda.toml"), configuration).unwrap();
    std::fs::create_dir_all(home.join("templates")).unwrap();
}

fn serve(home: &Path) -> Server {
    let password = [("MAIL_PASSWORD", "a secret")];
    Server::start_with(Home::Lent(home.to_owned()), &["--fast-retries"], &password)
}

fn purchase(server: &Server, data: Value) -> String {
    let mut data = data;
    data["customerId"] = json!("c-1");
    data["items"] = json!([{"sku": "A-1"}]);
    let (status, answer) = server.post("/v1/orders", &json!({"type": "purchase", "data": data}).to_string());
    assert_eq!(status, 202, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

fn notices(server: &Server) -> Vec<Value> {
    let log = server.run(
        &["subscriptions", "deliveries", "customer-notices", "--output", "json"],
        "",
    );
    log.ok().json()["items"].as_array().unwrap().clone()
}

#[test]
fn customers_are_told_in_their_language_and_one_bad_address_stops_nobody() {
    let home = tempfile::tempdir().unwrap();
    let port = free_port();
    let mail = MailServer::start(port, home.path());
    configure(home.path(), port);
    std::fs::write(
        home.path().join("templates/shop-order.cancelled.en.txt"),
        "Subject: No {{ data.none }}{{ order.data.items[0].name }}\n\nDear {{ order.data.customer_name }}, {{ reason }}\n\
         {% if order.data.total_price > 1000 %}large{% else %}small{% endif %}: {{ order.data.total_price }}",
    )
    .unwrap();
    std::fs::write(
        home.path().join("templates/shop-order.cancelled.en.html"),
        "<p>{{ order.data.customer_name }}</p>",
    )
    .unwrap();
    let server = serve(home.path());
    let refused = purchase(&server, json!({"email": "nobody@example.com"}));
    let later = purchase(&server, json!({"email": "later@example.com"}));
    purchase(&server, json!({}));
    let mut expected = BTreeMap::new();
    for (language, word) in [("en", "It is now"), ("es", "Ahora está"), ("pt-BR", "Agora está")] {
        let to = format!("ana.{language}@example.com");
        let order = purchase(
            &server,
            json!({"email": to, "language": language, "orderId": format!("<{language}>")}),
        );
        expected.insert(to, (order, language, word));
    }
    while !expected.is_empty() {
        let message = mail.next();
        assert_eq!(
            (&message["tls"], &message["authenticated"]),
            (&json!(true), &json!(true))
        );
        assert_eq!(message["from"], "shop@example.com");
        let to = message["to"][0].as_str().unwrap();
        if to == "later@example.com" {
            continue;
        }
        let (order, language, word) = expected.remove(to).expect("each is told once");
        assert_eq!(message["language"], language.split('-').next().unwrap());
        let id = message["id"].as_str().unwrap();
        assert!(
            id.contains(&order) && id.ends_with(".customer-notices@example.com>"),
            "{id}"
        );
        let (text, html) = (message["text"].as_str().unwrap(), message["html"].as_str().unwrap());
        assert!(text.contains(word) && text.contains("COMPLETED"), "{text}");
        assert!(text.contains(&format!("<{language}>")), "{text}");
        assert!(html.contains(&format!("&lt;{language}&gt;")), "escaped in HTML: {html}");
    }
    let begun = Instant::now();
    let tries = loop {
        let tries = notices(&server);
        if tries.iter().filter(|one| one["delivered"] == true).count() == 4 {
            break tries;
        }
        assert!(begun.elapsed() < PATIENCE, "{tries:?}");
    };
    let of = |order: &str| -> Vec<&Value> {
        let begins = |one: &&Value| one["event"].as_str().unwrap().starts_with(order);
        tries.iter().filter(begins).collect()
    };
    assert_eq!(of(&refused).len(), 1, "a no for good is not asked again: {tries:?}");
    assert_eq!(
        (&of(&refused)[0]["status"], &of(&refused)[0]["delivered"]),
        (&json!(550), &json!(false))
    );
    let put_off: Vec<_> = of(&later).iter().map(|one| one["status"].clone()).collect();
    assert_eq!(put_off, [json!(250), json!(451)], "newest first: {tries:?}");
    let shown = server.run(&["subscriptions", "show", "customer-notices", "--output", "json"], "");
    assert_eq!(shown.ok().json()["state"], "active");

    let data = json!({"customer_name": "Ana <b>", "customer_email": "ana@example.com", "customer_address": "Here",
        "items": [{"product_id": 1, "name": "Pen\r\nBcc: all@example.com", "quantity": 1, "price": 9.5}], "total_price": 9.5,
        "payment_method": "card"});
    let (status, order) = server.post("/v1/orders", &json!({"type": "shop-order", "data": data}).to_string());
    assert_eq!(status, 202, "{order}");
    let path = format!("/v1/orders/{}/cancel", order["id"].as_str().unwrap());
    let (status, answer) = server.post(&path, r#"{"reason": "sold out"}"#);
    assert_eq!(status, 202, "{answer}");
    let made = server.post(
        "/v1/subscriptions",
        &json!({"url": "mailto:ops@example.com", "filter": {"types": ["shop-order"]}, "from": "oldest"}).to_string(),
    );
    assert_eq!(
        (made.0, &made.1["secret"], &made.1["signature"]),
        (201, &Value::Null, &Value::Null)
    );
    let mut told = BTreeSet::new();
    while told.len() < 2 {
        let message = mail.next();
        let to = message["to"][0].as_str().unwrap().to_owned();
        assert!(
            !message["headers"].as_array().unwrap().contains(&json!("Bcc")),
            "{message}"
        );
        if to == "ops@example.com" {
            assert!(
                message["subject"].as_str().unwrap().starts_with("comanda.order."),
                "{message}"
            );
            told.insert(to);
        } else if to == "ana@example.com" {
            assert_eq!(message["subject"], "No Pen Bcc: all@example.com");
            let text = message["text"].as_str().unwrap().replace("\r\n", "\n");
            assert_eq!(text.trim(), "Dear Ana <b>, sold out\nsmall: 9.5");
            assert_eq!(message["html"].as_str().unwrap().trim(), "<p>Ana &lt;b&gt;</p>");
            told.insert(to);
        }
    }
}

#[test]
fn killed_at_any_moment_and_with_its_mail_server_away_it_tells_every_customer_and_nobody_else() {
    let home = tempfile::tempdir().unwrap();
    let port = free_port();
    configure(home.path(), port);
    // Makes the certificates; then nobody answers there until the end.
    drop(MailServer::start(port, home.path()));
    let mut expected = BTreeSet::new();
    let mut orders = |server: &Server| {
        for _ in 0..20 {
            expected.insert(purchase(server, json!({"email": "ana@example.com"})));
        }
    };
    let server = serve(home.path());
    orders(&server);
    let begun = Instant::now();
    while !notices(&server).iter().any(|one| one["delivered"] == false) {
        assert!(begun.elapsed() < PATIENCE, "nothing was tried");
    }
    server.kill();
    let mail = MailServer::start(port, home.path());
    let server = serve(home.path());
    let first = mail.next();
    // In the middle of sending: some have been sent and not written down.
    server.kill();
    let server = serve(home.path());
    orders(&server);
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut message = first;
    loop {
        let id = message["id"].as_str().unwrap();
        let order = expected
            .iter()
            .find(|order| id.contains(&**order))
            .unwrap_or_else(|| panic!("{id} is about no order of the store"));
        ids.entry(order.clone()).or_default().insert(id.to_owned());
        if ids.len() == expected.len() {
            break;
        }
        message = mail.next();
    }
    assert!(
        ids.values().all(|ids| ids.len() == 1),
        "one id however often it is sent: {ids:?}"
    );
}

#[test]
fn tls_from_the_first_byte_is_spoken_and_a_wrong_certificate_is_sent_nothing() {
    for (tls, mode) in [("tls", "tls"), ("starttls", "starttls")] {
        let home = tempfile::tempdir().unwrap();
        let port = free_port();
        configure(home.path(), port);
        let path = home.path().join("comanda.toml");
        let configuration = std::fs::read_to_string(&path).unwrap();
        let retries = ["\"20s\""; 30].join(", ");
        std::fs::write(
            &path,
            format!("{configuration}tls = \"{tls}\"\n[deliveries]\nretries = [{retries}]\n"),
        )
        .unwrap();
        // Of the authority that is trusted, for another host.
        let wrong = MailServer::start_with(port, home.path(), &[mode, "DNS:mail.example.com"]);
        let server = serve(home.path());
        let order = purchase(&server, json!({"email": "ana@example.com"}));
        let begun = Instant::now();
        let tried = loop {
            if let Some(tried) = notices(&server).into_iter().next_back() {
                break tried;
            }
            assert!(begun.elapsed() < PATIENCE, "nothing was tried");
        };
        let reason = tried["reason"].as_str().unwrap();
        assert_eq!(
            (&tried["delivered"], &tried["status"]),
            (&json!(false), &Value::Null),
            "{tried}"
        );
        assert!(
            reason.contains("certificate") && reason.contains("not valid for"),
            "{tried}"
        );
        assert!(wrong.said.try_recv().is_err(), "it was told something");
        // The right certificate, of an authority that nobody named.
        drop(wrong);
        let trusted = std::fs::read(home.path().join("ca.pem")).unwrap();
        std::fs::remove_file(home.path().join("server.pem")).unwrap();
        let stranger = MailServer::start_with(port, home.path(), &[mode]);
        let unknown = loop {
            let log = notices(&server);
            let of_the_authority = |one: &&Value| {
                let reason = one["reason"].as_str().unwrap();
                reason.contains("invalid peer certificate") && !reason.contains("not valid for")
            };
            if let Some(found) = log.iter().find(of_the_authority) {
                break found.clone();
            }
            assert!(log.iter().all(|one| one["delivered"] == false), "{log:?}");
            assert!(begun.elapsed() < PATIENCE, "it was never refused: {log:?}");
        };
        assert_eq!(unknown["delivered"], false, "{unknown}");
        assert!(stranger.said.try_recv().is_err(), "it was told something");
        server.kill();
        // Now the authority is the one that is trusted.
        assert_ne!(trusted, std::fs::read(home.path().join("ca.pem")).unwrap());
        let server = serve(home.path());
        let message = stranger.next();
        assert_eq!(
            (&message["tls"], &message["authenticated"]),
            (&json!(true), &json!(true)),
            "{message}"
        );
        assert!(message["id"].as_str().unwrap().contains(&order), "{message}");
        drop(server);
    }
}
