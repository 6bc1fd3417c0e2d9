//! The page behind a link, in a real browser: it follows its order without being loaded again, says why the order failed in the
//! reader's language, and asks for nothing from elsewhere.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use serde_json::{Value, json};
use support::{PATIENCE, Server, lines};

/// A browser with one page. It ends with the test.
struct Browser {
    child: Child,
    said: Receiver<String>,
    /// Where the page is from.
    origin: String,
}

impl Browser {
    fn open(url: &str, origin: &str) -> Self {
        let found = Command::new("chromium").arg("--version").stdout(Stdio::null()).status();
        assert!(found.is_ok(), "chromium is missing; `cargo xtask test` installs it");
        let mut child = Command::new("python3")
            .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser.py"), url])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = lines(child.stdout.take().unwrap());
        let origin = origin.to_owned();
        Self { child, said, origin }
    }

    /// Waits until the page shows what it should. Whatever it asks for meanwhile is from its own server, and nothing goes
    /// wrong in it.
    #[track_caller]
    fn until(&self, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        loop {
            let Ok(line) = self.said.recv_timeout(PATIENCE) else {
                panic!("the page never came to it; last: {last}")
            };
            let said: Value = serde_json::from_str(&line).unwrap();
            if let Some(url) = said["asked"].as_str() {
                assert!(url.starts_with(&self.origin), "the page asked for {url}");
            }
            // Browsers ask for an icon by themselves.
            let is_icon = said["at"].as_str().is_some_and(|at| at.ends_with("/favicon.ico"));
            assert!(said["error"].is_null() || is_icon, "{said}");
            if said["shown"].is_object() {
                last = said["shown"].clone();
                if holds(&last) {
                    return last;
                }
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its script ends the browser when it is asked to end.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

#[test]
fn the_page_follows_its_order_and_says_why_it_failed_in_three_languages() {
    let server = Server::start(&["--break", "process=5", "--fast-retries"]);
    for (language, failed, late, reason) in [
        (
            "en",
            "Something went wrong",
            "Your order is delayed",
            "the step “process” did not succeed",
        ),
        (
            "es",
            "Algo no ha salido bien",
            "Su pedido se retrasa",
            "el paso «process» no se pudo completar",
        ),
        (
            "pt",
            "Algo não correu bem",
            "O seu pedido está atrasado",
            "a etapa «process» não pôde ser concluída",
        ),
    ] {
        let data = json!({"customerId": "c-1", "items": [{"sku": "A-1"}], "language": language, "orderId": format!("<b>{language}")});
        let (status, order) = server.post("/v1/orders", &json!({"type": "purchase", "data": data}).to_string());
        assert_eq!(status, 202, "{order}");
        let id = order["id"].as_str().unwrap();
        let link = server.run(&["link", id, "--output", "json"], "").ok().json();
        // The server was asked for any port, which its links do not know.
        let (_, path) = link["url"].as_str().unwrap().split_once("/v1/").unwrap();
        let browser = Browser::open(&format!("{}/v1/{path}", server.url), &server.url);
        let shown = browser.until(|shown| shown["failed"] == true);
        let page = shown["page"].as_str().unwrap();
        assert_eq!(
            (&shown["language"], &shown["status"]),
            (&json!(language), &json!("PROCESSING"))
        );
        for text in [failed, late, reason, &format!("<b>{language}")] {
            assert!(page.contains(text), "{text:?} is not in {page}");
        }
        server.run(&["dead-letters", "redrive", id], "").ok();
        let after = browser.until(|shown| shown["status"] == "COMPLETED");
        assert_eq!(after["failed"], false, "{after}");
        assert_eq!(after["loaded"], shown["loaded"], "it was not loaded again");
        assert!(after["page"].as_str().unwrap().contains("COMPLETED"), "{after}");
    }
}
