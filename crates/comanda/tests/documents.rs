//! Every example of an order type, of a part of one, and of `comanda.toml` in `docs/` is read by the program: a part is put into
//! the smallest type that it can stand in. Every call with `curl` is made, as it is written, and understood by the server. And each
//! kind of step has a page.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use support::{Server, command, run_command};

/// What parts of types point at.
const SCHEMA: &str = r#"
[schema]
type = "object"
properties.email = { type = "string" }
properties.language = { type = "string" }
properties.customer = { type = "string" }
properties.customerId = { type = "string" }
properties.userId = { type = "string" }
properties.payment = { type = "string" }
properties.currency = { type = "string" }
properties.due = { type = "string" }
properties.opensAt = { type = "string", format = "date-time" }
properties.amount = { type = "number" }
properties.total = { type = "number" }
properties.total_price = { type = "number" }
properties.sku = { type = "string" }
properties.products = { type = "array" }
properties.items = { type = "array", items = { type = "object", properties = { quantity = { type = "integer" }, price = { type = "number" } } } }
properties.shipping = { type = "object" }
properties.shipTo = { type = "object" }
"#;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Each page's path and text. The tutorial is run by a test of its own.
fn pages() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    for directory in [docs(), docs().join("steps")] {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let is_page = path.extension().is_some_and(|extension| extension == "md");
            if is_page && !path.ends_with("tutorial.md") {
                let name = path.strip_prefix(docs()).unwrap().display().to_string();
                pages.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    pages.sort();
    pages
}

/// The blocks of code in one language. What stands before the first is none.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let opening = format!("```{language}\n");
    let parts = text.split(opening.as_str()).skip(1);
    parts.map(|rest| rest.split("```").next().unwrap()).collect()
}

/// The names after a prefix, up to what cannot stand in a name: `env.NAME`, `[steps.NAME]`.
fn named(text: &str, prefix: &str) -> Vec<String> {
    let ends = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-'));
    let mut names = Vec::new();
    for rest in text.split(prefix).skip(1) {
        let name = rest.split(ends).next().unwrap().to_owned();
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Whether a block is a part of `comanda.toml`, which says so by its first table.
fn is_settings(block: &str) -> bool {
    let table = block.lines().find(|line| line.starts_with('[')).unwrap_or_default();
    let table = table.trim_start_matches('[');
    let table = table.split([']', '.']).next().unwrap();
    let settings = include_str!("../src/config/default.toml");
    settings.contains(&format!("\n[{table}]")) || settings.contains(&format!("[[{table}]]"))
}

/// The smallest type that a part can stand in.
fn whole(part: &str) -> String {
    if part.lines().any(|line| line.starts_with("name = ")) {
        return part.to_owned();
    }
    let steps = named(part, "[steps.");
    let statuses = named(part, "[statuses.");
    let (before, tables) = part.split_at(part.find("\n[").map_or(part.len(), |at| at + 1));
    let (before, tables) = if part.starts_with('[') {
        ("", part)
    } else {
        (before, tables)
    };
    let mut text = "name = \"example\"\ninitial = \"first\"\nrefused = \"refused\"\n".to_owned();
    let mut first: Vec<String> = Vec::new();
    let mut added = String::new();
    // A line that stands alone belongs to a step where it is none of the type's own.
    if before.contains("auth = ") {
        first.push("alone".to_owned());
        added.push_str(&format!(
            "[steps.alone]\nhttp = \"POST https://service.example/\"\n{before}"
        ));
    } else {
        text.push_str(before);
    }
    // What a step reads of another that is not shown.
    for name in named(part, "steps.").into_iter().filter(|name| !steps.contains(name)) {
        added.push_str(&format!("[steps.{name}]\nhttp = \"GET https://service.example/\"\n"));
        first.push(name);
    }
    first.extend(steps);
    text.push_str(SCHEMA);
    let next = statuses.first().map_or("last", String::as_str);
    text.push_str(&format!(
        "[statuses.first]\nsteps = {first:?}\nnext = {next:?}\nto = [\"refused\"]\n"
    ));
    text.push_str("[statuses.last]\nfinal = true\n[statuses.refused]\nfinal = true\nundo = true\n");
    text.push_str(&added);
    let mut is_last_named = false;
    for line in tables.lines() {
        text.push_str(line);
        text.push('\n');
        let is_status = line.starts_with("[statuses.");
        if is_status && !tables.contains("final = true") {
            text.push_str("to = [\"last\"]\n");
            is_last_named = true;
        }
    }
    if next != "last" && !is_last_named {
        text = text.replace("[statuses.last]\nfinal = true\n", "");
    }
    text
}

#[test]
fn every_example_can_be_read() {
    let home = tempfile::tempdir().unwrap();
    let (mut types, mut settings) = (0, 0);
    for (page, text) in pages() {
        let blocks = blocks(&text, "toml").into_iter();
        for block in blocks.filter(|block| !block.starts_with("[dependencies]")) {
            let mut command = command(home.path());
            for name in named(block, "env.").into_iter().chain(named(block, "env = \"")) {
                command.env(name, "https://service.example");
            }
            for name in named(block, "_env = \"") {
                command.env(name, "secret");
            }
            let secrets: String = named(block, "secret.")
                .iter()
                .map(|name| format!("{name} = {{ env = \"PATH\" }}\n"))
                .collect();
            if is_settings(block) {
                let text = format!("{block}\n[secrets]\n{secrets}");
                std::fs::write(home.path().join("comanda.toml"), &text).unwrap();
                let ran = run_command(command.arg("config"), "");
                assert_eq!(ran.code, 0, "{page}:\n{text}\n{}", ran.err);
                settings += 1;
            } else {
                let text = whole(block);
                std::fs::write(home.path().join("comanda.toml"), format!("[secrets]\n{secrets}")).unwrap();
                std::fs::write(home.path().join("example.toml"), &text).unwrap();
                let ran = run_command(command.args(["check", "example.toml"]), "");
                assert_eq!(ran.code, 0, "{page}:\n{text}\n{}{}", ran.out, ran.err);
                types += 1;
            }
        }
    }
    assert!(
        types > 15 && settings > 5,
        "{types} types and {settings} settings were found"
    );
}

#[test]
fn each_kind_of_step_has_a_page() {
    let page = std::fs::read_to_string(docs().join("order-types.md")).unwrap();
    let steps: Vec<_> = pages()
        .into_iter()
        .filter(|(name, _)| name.starts_with("steps/"))
        .collect();
    let readme = include_str!("../../../README.md");
    for (name, text) in &steps {
        assert!(
            readme.contains(&format!("docs/{name}")),
            "the README does not lead to docs/{name}"
        );
        let is_undo = name == "steps/undo.md";
        assert!(
            is_undo || page.contains(name.as_str()),
            "docs/order-types.md does not lead to docs/{name}"
        );
        assert!(text.contains("```toml\n"), "docs/{name} shows no step");
    }
    // Each built-in step that the program knows, as the shipped table of them names it.
    let known: BTreeSet<&str> = comanda_model::order_type::BuiltInKind::ALL
        .iter()
        .map(|kind| kind.name())
        .collect();
    for name in known.into_iter().chain(["approval", "wait"]) {
        let named = [format!("`{name}`"), format!("use = \"{name}\"")];
        let told = steps
            .iter()
            .any(|(_, text)| named.iter().any(|named| text.contains(named)));
        assert!(told, "no page under docs/steps says what `{name}` does");
        assert!(page.contains(&named[0]), "docs/order-types.md does not name `{name}`");
    }
}

/// What is said of calls that are right in themselves, and ask for what this order, or this server, does not have.
const IMPOSSIBLE: [&str; 10] = [
    "illegal-transition",
    "no-approval",
    "not-a-dead-letter",
    "not-cancellable",
    "order-final",
    "precondition-failed",
    "unknown-order",
    "unknown-queue",
    "unknown-source",
    "unknown-status",
];

/// The calls with `curl` of a page, each with the lines that it goes on in.
fn calls(text: &str) -> Vec<String> {
    let mut calls: Vec<String> = Vec::new();
    for block in blocks(text, "sh") {
        let mut goes_on = false;
        for line in block.lines() {
            if line.starts_with("curl ") {
                calls.push(String::new());
            } else if !goes_on {
                continue;
            }
            let call = calls.last_mut().unwrap();
            call.push_str(line);
            call.push('\n');
            goes_on = line.ends_with('\\') || call.matches('\'').count() % 2 == 1;
        }
    }
    calls
}

#[test]
fn every_call_is_understood() {
    let server = Server::start(&["--store", "memory"]);
    std::fs::write(
        server.home.path().join("orders.ndjson"),
        "{\"type\":\"sale\",\"data\":{\"amount\":1,\"currency\":\"EUR\"}}\n",
    )
    .unwrap();
    let (status, order) = server.post(
        "/v1/orders?wait=5",
        r#"{"type":"sale","data":{"amount":1,"currency":"EUR"}}"#,
    );
    assert_eq!(status, 202, "{order}");
    let id = order["id"].as_str().unwrap();
    let mut made = 0;
    for (page, text) in pages() {
        for call in calls(&text) {
            let mut call = call.replace("localhost:8080", "127.0.0.1:8080").replace("0190…", id);
            call = call.replace("http://127.0.0.1:8080", &server.url);
            call = call.replace("127.0.0.1:8080", server.url.strip_prefix("http://").unwrap());
            call = call
                .replace("wait=30", "wait=0")
                .replace("\"waitSeconds\": 30", "\"waitSeconds\": 0");
            // Else as it is, but for what it prints; a stream is listened to for a moment.
            let patience = if call.contains(" -N ") { "0.5" } else { "20" };
            let script = format!(
                "curl() {{ command curl -s -m {patience} -o answer -w '%{{http_code}}\\n' \"$@\" || test $? = 28; }}\nrm -f answer\n{call}"
            );
            let mut shell = std::process::Command::new("sh");
            shell
                .current_dir(server.home.path())
                .env("ID", id)
                .env("COMANDA_API_KEY", "");
            let ran = run_command(shell.args(["-c", &script]), "");
            let answer = std::fs::read_to_string(server.home.path().join("answer")).unwrap_or_default();
            let status: u16 = ran.out.trim().parse().unwrap_or(0);
            // Understood, if perhaps not possible for this order.
            let is_understood =
                (200..300).contains(&status) || IMPOSSIBLE.iter().any(|code| answer.contains(&format!("\"{code}\"")));
            assert!(is_understood, "{page}: {call}{status}: {answer}{}", ran.err);
            made += 1;
        }
    }
    assert!(made > 25, "{made} calls were found");
}
