//! The storefront's whole way against real services over HTTP: each fails at each moment, and is dead and comes back, and the
//! server is killed between an effect and the commit that writes it down. Stock and money are right at the end, nothing is
//! doubled, nobody is charged without an order, and `comanda verify` finds nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use serde_json::{Value, json};
use support::shop::{BACKWARD, FORWARD, Moment, STOCK, Shop};
use support::{Home, Server};
use tempfile::TempDir;

/// The shipped type under a name of its own, with less patience: a call that is never answered must not take ten seconds.
fn storefront(timeout: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../order-types/storefront-order");
    let text = std::fs::read_to_string(format!("{path}.toml")).unwrap();
    let schema = std::fs::read_to_string(format!("{path}.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["title"], "Storefront order");
    // All but the look-up are taken back.
    let calls = FORWARD.len() + FORWARD.len() - 1;
    assert_eq!(
        text.matches("timeout = \"10s\"").count(),
        calls,
        "each call has a bound"
    );
    text.replace("name = \"storefront-order\"", "name = \"shop\"")
        .replace("storefront-order.schema.json", "shop.schema.json")
        .replace("timeout = \"10s\"", &format!("timeout = \"{timeout}\""))
}

/// A running server and the services that it is told of.
struct Running {
    server: Server,
    shop: Shop,
    home: TempDir,
}

impl Running {
    fn start(timeout: &str, settings: &str) -> Self {
        let home = TempDir::new().unwrap();
        let types = home.path().join("order-types");
        std::fs::create_dir(&types).unwrap();
        std::fs::write(types.join("shop.toml"), storefront(timeout)).unwrap();
        let schema = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../order-types/storefront-order.schema.json"
        );
        std::fs::copy(schema, types.join("shop.schema.json")).unwrap();
        let shop = Shop::open();
        std::fs::write(
            home.path().join("comanda.toml"),
            format!("{settings}{}", shop.settings()),
        )
        .unwrap();
        Self {
            server: Server::start_in(home.path(), &["--fast-retries"]),
            shop,
            home,
        }
    }

    /// Kills the server at once, and starts it again on what it has left.
    fn kill_and_start(self) -> Self {
        let Self { server, shop, home } = self;
        let _: Home = server.kill();
        Self {
            server: Server::start_in(home.path(), &["--fast-retries"]),
            shop,
            home,
        }
    }

    /// Submits the order of a case.
    fn submit(&self, case: &str) -> String {
        let order = json!({"type": "shop", "data": {"userId": case, "products": [{"sku": "A-1", "quantity": 1}]}});
        let (status, answer) = self.server.post("/v1/orders", &order.to_string());
        assert_eq!(status, 202, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the order is as it is to be.
    fn until(&self, id: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut version = 0;
        loop {
            let (_, order) = self.server.get(&format!("/v1/orders/{id}?wait=60&version={version}"));
            if is(&order) {
                return order;
            }
            assert_ne!(order["version"], version, "it does not move: {order}");
            version = order["version"].as_u64().unwrap();
        }
    }

    /// Waits until nothing moves the order by itself any more.
    fn rest(&self, id: &str) -> Value {
        self.until(id, |order| {
            let work = &order["work"];
            order["final"] == true
                || work["state"] == "parked"
                || (work["state"] == "waiting" && work["step"].is_null())
        })
    }

    fn is_through(&self, case: &str, id: &str) {
        let order = self.rest(id);
        assert_eq!(order["status"], "processing", "{case}: {order}");
        assert_eq!(order["work"]["state"], "waiting", "{case}: {order}");
        let standing = self.shop.standing(id);
        assert_eq!(standing, [vec!["shipped"], vec!["captured"], vec!["made"]], "{case}");
        let (_, shown) = self.server.get(&format!("/shop/{id}"));
        assert_eq!(shown["shipping"]["carrier"], "Carrier", "{case}: {shown}");
    }

    fn is_undone(&self, case: &str, id: &str) {
        let order = self.rest(id);
        assert_eq!(order["status"], "canceled", "{case}: {order}");
        assert_eq!(order["final"], true, "{case}: {order}");
        let nothing: [Vec<&str>; 3] = Default::default();
        assert_eq!(self.shop.standing(id), nothing, "{case}");
    }

    fn dead_letter(&self, act: &str, body: Value) {
        let (status, answer) = self.server.post(&format!("/v1/dead-letters/{act}"), &body.to_string());
        assert!((200..300).contains(&status), "{answer}");
    }

    /// Nothing was done for an order that is not there, what has left is what went through, and the store is sound.
    fn end(self, through: i64) {
        for id in self.shop.orders() {
            assert_eq!(
                self.server.get(&format!("/v1/orders/{id}")).0,
                200,
                "{id} was never accepted"
            );
        }
        assert_eq!(self.shop.stock(), (STOCK - through, through));
        self.server.stop();
        let data = self.home.path().join("comanda-data");
        let verified = support::run(self.home.path(), &["verify", "--data", data.to_str().unwrap()], "");
        assert_eq!(verified.code, 0, "{verified:?}");
    }
}

/// What becomes of a case in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Through,
    Undone,
    /// A dead letter, then put back to work.
    Redriven,
    /// A dead letter, then given up.
    Discarded,
}

#[test]
fn however_a_service_takes_a_request_stock_and_money_are_right() {
    let running = Running::start("2s", "[calls]\ncircuit_failures = 1000000\n");
    let mut cases = vec![("plain".to_owned(), End::Through)];
    for act in FORWARD {
        for (moment, end) in [
            (Moment::Refuses, End::Undone),
            (Moment::Fails, End::Redriven),
            (Moment::Fails, End::Discarded),
            (Moment::ActsAndFails, End::Redriven),
            (Moment::ActsAndFails, End::Discarded),
            (Moment::ActsInSilence, End::Through),
            (Moment::AnswersTwice, End::Through),
        ] {
            // A customer who is not found is refused with 404; the service's "no" is that.
            if (act, moment) == ("look-up", Moment::Refuses) {
                continue;
            }
            let case = format!("{act}-{moment:?}-{end:?}");
            running.shop.plan(&case, act, moment);
            cases.push((case, end));
        }
    }
    // What is taken back fails too: the money is refused last, or the order is cancelled when all is done.
    for act in BACKWARD {
        for moment in [Moment::ActsInSilence, Moment::AnswersTwice] {
            let case = format!("{act}-{moment:?}");
            running.shop.plan(&case, act, moment);
            cases.push((case, End::Undone));
        }
    }
    let orders: Vec<_> = cases
        .iter()
        .map(|(case, end)| (case, *end, running.submit(case)))
        .collect();
    for (case, end, id) in &orders {
        let order = running.rest(id);
        match end {
            End::Redriven | End::Discarded => {
                assert_eq!(order["work"]["state"], "parked", "{case}: {order}");
                running.shop.heal(case);
                let filter = json!({"orderIds": [id]});
                if *end == End::Redriven {
                    running.dead_letter("redrive", json!({"filter": filter, "from": "failedStep"}));
                } else {
                    running.dead_letter("discard", json!({"filter": filter, "reason": "given up"}));
                }
                running.until(id, |order| order["work"]["state"] != "parked");
            }
            End::Undone if order["status"] == "processing" => {
                let (status, answer) = running.server.post(&format!("/v1/orders/{id}/cancel"), "{}");
                assert_eq!(status, 202, "{answer}");
            }
            End::Undone | End::Through => {}
        }
    }
    let mut through = 0;
    for (case, end, id) in &orders {
        match end {
            End::Through | End::Redriven => {
                running.is_through(case, id);
                through += 1;
            }
            End::Undone | End::Discarded => {
                running.until(id, |order| order["final"] == true);
                running.is_undone(case, id);
            }
        }
    }
    running.end(through);
}

#[test]
fn a_service_that_dies_and_comes_back_loses_nothing() {
    // After one failure nothing is sent for a moment, and then one call tries: orders use up no attempt meanwhile.
    let settings = "[calls]\ncircuit_failures = 1\ncircuit_open = \"50ms\"\n";
    let mut running = Running::start("10s", settings);
    for act in FORWARD {
        running.shop.plan(act, act, Moment::Dies);
        let id = running.submit(act);
        running.shop.wait_until_met(act);
        // Held back, and not dead.
        let order = running.until(&id, |order| order["work"]["heldBackSince"].is_string());
        let waiting_for = order["work"]["waitingFor"].as_str().unwrap();
        assert!(waiting_for.contains("http://127.0.0.1:"), "{order}");
        assert!(order["work"]["dueAt"].is_string(), "{order}");
        running.shop.revive(act);
        running.is_through(act, &id);
    }
    running.end(i64::try_from(FORWARD.len()).unwrap());
}

#[test]
fn a_kill_between_an_effect_and_its_commit_doubles_nothing() {
    let mut running = Running::start("30s", "");
    let mut through = 0;
    for act in FORWARD {
        for moment in [Moment::HoldsBefore, Moment::HoldsAfter] {
            let case = format!("{act}-{moment:?}");
            running.shop.plan(&case, act, moment);
            let id = running.submit(&case);
            running.shop.wait_until_met(&case);
            running = running.kill_and_start();
            running.is_through(&case, &id);
            through += 1;
        }
    }
    for act in BACKWARD {
        let case = format!("{act}-undone");
        running.shop.plan(&case, act, Moment::HoldsAfter);
        let id = running.submit(&case);
        running.is_through(&case, &id);
        let (status, answer) = running.server.post(&format!("/v1/orders/{id}/cancel"), "{}");
        assert_eq!(status, 202, "{answer}");
        running.shop.wait_until_met(&case);
        running = running.kill_and_start();
        running.until(&id, |order| order["final"] == true);
        running.is_undone(&case, &id);
    }
    running.end(through);
}
