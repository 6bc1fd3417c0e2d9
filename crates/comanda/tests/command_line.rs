//! The command line without a server: help, errors and what they advise, exit codes, configuration, order types.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use support::{Home, Server, command, run, run_command};
use tempfile::TempDir;

fn here() -> TempDir {
    TempDir::new().unwrap()
}

#[test]
fn help_names_every_command_and_where_to_begin() {
    let home = here();
    let help = run(home.path(), &["--help"], "").ok().out;
    for part in [
        "serve",
        "check",
        "new",
        "try",
        "submit",
        "import",
        "get",
        "list",
        "events",
        "cancel",
        "approve",
        "reject",
        "dead-letters",
        "audit",
        "erase",
        "jobs",
        "queues",
        "export",
        "backup",
        "restore",
        "verify",
        "bench",
        "config",
        "keys",
        "completions",
        "Begin with:",
        "Exit codes",
    ] {
        assert!(help.contains(part), "{part} is not in:\n{help}");
    }
    let version = run(home.path(), &["--version"], "").ok().out;
    assert_eq!(version.trim(), concat!("comanda ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_not_understood_ends_with_two() {
    let home = here();
    let ran = run(home.path(), &["serv"], "");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("'serve'"), "{}", ran.err);
    assert!(ran.out.is_empty());
    let ran = run(home.path(), &["dead-letters", "redrive"], "");
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (
            2,
            "error: say which dead letters: their ids, --type, --cause, or --all\n"
        )
    );
    let ran = run(home.path(), &["new", "Not A Name"], "");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("kebab-case"), "{}", ran.err);
}

#[test]
fn a_server_that_is_not_there_is_said_with_how_to_start_one() {
    let home = here();
    // A port that was free a moment ago; nobody else is given it so soon.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let ran = run(home.path(), &["list", "--url", &url], "");
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.starts_with(&format!("error: no server answers at {url}")),
        "{}",
        ran.err
    );
    assert!(
        ran.err
            .trim_end()
            .ends_with(&format!("Start one: comanda serve --listen 127.0.0.1:{port}")),
        "{}",
        ran.err
    );
    let ran = run(home.path(), &["list", "--url", "not a url"], "");
    assert!(ran.err.contains("http://127.0.0.1:8080"), "{}", ran.err);
}

#[test]
fn a_port_in_use_is_said_with_another_one() {
    let home = here();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ran = run(
        home.path(),
        &["serve", "--store", "memory", "--listen", &address.to_string()],
        "",
    );
    assert_eq!(ran.code, 1);
    let expected = format!(
        "error: port {} is in use. Try: comanda serve --listen 127.0.0.1:{}",
        address.port(),
        address.port().wrapping_add(1)
    );
    assert!(ran.err.contains(&expected), "{}", ran.err);
}

#[test]
fn another_address_than_loopback_needs_keys() {
    let home = here();
    let ran = run(
        home.path(),
        &["serve", "--store", "memory", "--listen", "0.0.0.0:0"],
        "",
    );
    assert_eq!(ran.code, 1);
    for part in ["is not a loopback address", "comanda keys create", "--insecure"] {
        assert!(ran.err.contains(part), "{}", ran.err);
    }
}

#[test]
fn mistakes_in_the_configuration_keep_the_server_from_starting() {
    let home = here();
    fs::write(
        home.path().join("comanda.toml"),
        "listn = \"x\"\n[engine]\nconcurrency = 0\n",
    )
    .unwrap();
    let ran = run_command(command(home.path()).arg("serve").env("COMANDA_LOG__FORMAT", "yaml"), "");
    assert_eq!(ran.code, 1);
    for part in [
        "listn (comanda.toml): there is no such setting; did you mean `listen`?",
        "engine.concurrency (comanda.toml): must be a whole number from 1",
        "log.format (COMANDA_LOG__FORMAT): `yaml`",
        "comanda config --default",
    ] {
        assert!(ran.err.contains(part), "{part} is not in:\n{}", ran.err);
    }
}

#[test]
fn the_configuration_shows_where_each_value_comes_from() {
    let home = here();
    fs::write(
        home.path().join("comanda.toml"),
        "data = \"elsewhere\"\n[secrets]\npay = { env = \"PAY\" }\n",
    )
    .unwrap();
    let mut config = command(home.path());
    config
        .args(["config", "--output", "json"])
        .env("COMANDA_LOG__LEVEL", "debug")
        .env("PAY", "hunter2");
    let ran = run_command(&mut config, "").ok();
    assert!(!ran.out.contains("hunter2"));
    let settings = ran.json();
    let of = |key: &str| {
        settings
            .as_array()
            .unwrap()
            .iter()
            .find(|setting| setting["key"] == key)
            .unwrap()
            .clone()
    };
    assert_eq!(of("data")["origin"], "comanda.toml");
    assert_eq!(of("log.level")["origin"], "COMANDA_LOG__LEVEL");
    assert_eq!(of("listen")["origin"], "default");
    // The printed default file is a configuration file.
    let default = run(home.path(), &["config", "--default"], "").ok().out;
    fs::write(home.path().join("comanda.toml"), default).unwrap();
    run(home.path(), &["config"], "").ok();
}

#[test]
fn a_new_type_passes_the_check_and_can_be_tried() {
    let home = here();
    fs::write(home.path().join("sample.json"), r#"{"device":"phone","price":12.50}"#).unwrap();
    let ran = run(home.path(), &["new", "repair", "--from", "sample.json"], "").ok();
    assert!(ran.out.contains("order-types/repair.toml"), "{}", ran.out);
    let ran = run(home.path(), &["check"], "").ok();
    assert!(ran.out.contains("0 errors"), "{}", ran.out);
    let ran = run(home.path(), &["try", "repair", "sample.json"], "").ok();
    assert!(ran.out.starts_with("accepted in "), "{}", ran.out);
    // Nobody's work is overwritten.
    let again = run(home.path(), &["new", "repair"], "");
    assert_eq!(again.code, 1);
    assert!(again.err.contains("repair.toml could not be written"), "{}", again.err);
}

#[test]
fn a_type_with_mistakes_is_shown_with_the_place_and_keeps_the_server_from_starting() {
    let home = here();
    run(home.path(), &["new", "repair"], "").ok();
    let path = home.path().join("order-types/repair.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("nmae = \"x\"\n{text}")).unwrap();
    let ran = run(home.path(), &["check"], "");
    assert_eq!(ran.code, 1);
    for part in ["error[type/", "repair.toml:1", "nmae"] {
        assert!(ran.err.contains(part), "{part} is not in:\n{}", ran.err);
    }
    let ran = run(
        home.path(),
        &["serve", "--store", "memory", "--listen", "127.0.0.1:0"],
        "",
    );
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("comanda check"), "{}", ran.err);
}

#[test]
fn a_doubled_type_is_an_error_and_an_equal_copy_is_none() {
    let home = here();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../order-types");
    let own = home.path().join("order-types");
    fs::create_dir(&own).unwrap();
    for entry in fs::read_dir(&shipped).unwrap().flatten() {
        fs::copy(entry.path(), own.join(entry.file_name())).unwrap();
    }
    run(home.path(), &["check"], "").ok();
    let sale = own.join("sale.toml");
    let text = fs::read_to_string(&sale).unwrap();
    fs::write(&sale, format!("{text}\n# changed\n")).unwrap();
    let ran = run(home.path(), &["check"], "");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("there are two order types `sale`"), "{}", ran.err);
}

#[test]
fn try_walks_the_way_of_each_shipped_type_and_says_what_is_wrong() {
    let home = here();
    let ran = run(home.path(), &["try", "sale"], "").ok();
    assert_eq!(
        ran.out,
        "accepted in ACCEPTED\n  step record (noop)\nACCEPTED → COMPLETED\nCOMPLETED is final\n"
    );
    for name in ["purchase", "work-order", "shop-order", "storefront-order"] {
        run(home.path(), &["try", name], "").ok();
    }
    let ran = run(home.path(), &["try", "sale", "-"], r#"{"amount":-1,"currency":"EUR"}"#);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("/amount"), "{}", ran.err);
    let ran = run(home.path(), &["try", "sail"], "");
    assert!(
        ran.err.contains("there is no order type `sail`; there are"),
        "{}",
        ran.err
    );
}

#[test]
fn try_shows_what_http_steps_would_send_and_no_secret() {
    let home = here();
    let own = home.path().join("order-types");
    fs::create_dir(&own).unwrap();
    let text = r#"
name = "parcel"
initial = "packed"
[schema]
type = "object"
required = ["to"]
properties.to = { type = "string" }
properties.weight = { type = "number" }
[statuses.packed]
steps = ["book"]
next = "booked"
[statuses.booked]
final = true
[steps.book]
http = "POST {{ env.CARRIER_URL }}/parcels/{{ data.to }}"
headers = { Authorization = "Bearer {{ secret.carrier }}" }
body = { weight = "{{ data.weight }}" }
"#;
    fs::write(own.join("parcel.toml"), text).unwrap();
    fs::write(
        home.path().join("comanda.toml"),
        "[secrets]\ncarrier = { env = \"CARRIER\" }\n",
    )
    .unwrap();
    let mut rehearse = command(home.path());
    rehearse
        .args(["try", "parcel", "-"])
        .env("CARRIER_URL", "http://carrier.example")
        .env("CARRIER", "hunter2");
    let ran = run_command(&mut rehearse, r#"{"to":"a b","weight":1.10}"#).ok();
    assert!(
        ran.out.contains("POST http://carrier.example/parcels/a%20b"),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("Authorization: Bearer <secret.carrier>"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains(r#"{"weight":1.10}"#), "{}", ran.out);
    assert!(!ran.out.contains("hunter2"));
}

#[test]
fn completions_are_scripts() {
    let home = here();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            run(home.path(), &["completions", shell], "")
                .ok()
                .out
                .contains("comanda")
        );
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let home = here();
    let mut child = command(home.path())
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn keys_are_shown_once_and_kept_as_hashes() {
    let home = here();
    let secret = run(
        home.path(),
        &["keys", "create", "shop", "--scope", "submit", "--scope", "read"],
        "",
    )
    .ok()
    .out;
    let secret = secret.trim();
    assert!(secret.starts_with("cmd_"), "{secret}");
    let listed = run(home.path(), &["keys", "list", "--output", "json"], "").ok();
    let keys = listed.json();
    assert_eq!(
        (keys[0]["name"].as_str(), keys[0]["scopes"][1].as_str()),
        (Some("shop"), Some("read"))
    );
    assert!(!listed.out.contains(secret));
    let file = fs::read_to_string(home.path().join("comanda-data/keys.json")).unwrap();
    assert!(!file.contains(secret));
    run(home.path(), &["keys", "revoke", keys[0]["id"].as_str().unwrap()], "").ok();
    let keys = run(home.path(), &["keys", "list", "--output", "json"], "").ok().json();
    assert!(keys[0]["revokedAt"].is_string(), "{keys}");
}

#[test]
fn commands_on_a_data_directory_make_none() {
    let home = here();
    for args in [
        ["verify", "--data", "nowhere"].as_slice(),
        &["backup", "--data", "nowhere", "copy.db"],
    ] {
        let ran = run(home.path(), args, "");
        assert_eq!(ran.code, 1);
        assert!(
            ran.err
                .contains("nowhere could not be read: there is no comanda.db in it"),
            "{}",
            ran.err
        );
    }
    assert!(!home.path().join("nowhere").exists());
}

#[test]
fn a_queue_of_two_kinds_is_told_by_check_and_serve() {
    let home = here();
    let own = home.path().join("order-types");
    fs::create_dir(&own).unwrap();
    let write = |name: &str, status: &str, step: &str| {
        let text = format!(
            "name = \"{name}\"\ninitial = \"a\"\n[schema]\ntype = \"object\"\n[statuses.a]\nsteps = [\"s\"]\nnext = \"b\"\n\
             [statuses.b]\nfinal = true\n{status}\n[steps.s]\n{step}\n"
        );
        fs::write(own.join(format!("{name}.toml")), text).unwrap();
    };
    write("one", "", "queue = \"picking\"");
    write("two", "", "use = \"noop\"");
    assert!(run(home.path(), &["check"], "").ok().out.contains("0 warnings"));
    write("two", "queue = \"picking\"", "use = \"noop\"");
    let told = "the queue `picking` is a status's in `two` and a step's in `one`";
    let ran = run(home.path(), &["check"], "").ok();
    assert!(ran.err.contains(told) && ran.out.contains("1 warning"), "{ran:#?}");
    let ran = run(home.path(), &["check", "--output", "json"], "").ok().json();
    assert_eq!(ran["diagnostics"][0]["message"], told);
    let server = Server::start_with(Home::Lent(home.path().to_owned()), &["--store", "memory"], &[]);
    let said = server.said_until_stopped();
    assert!(said.iter().any(|line| line.contains(told)), "{said:#?}");
}

#[test]
fn amounts_with_cents_take_the_way_that_their_size_says() {
    let home = here();
    let own = home.path().join("order-types");
    fs::create_dir(&own).unwrap();
    let text = "name = \"sized\"\ninitial = \"a\"\n[schema]\ntype = \"object\"\nproperties.total = { type = \"number\" }\n\
                [statuses.a]\nsteps = [\"s\"]\nnext = [{ when = \"data.total > 100\", to = \"large\" }, { to = \"small\" }]\n\
                [statuses.large]\nfinal = true\n[statuses.small]\nfinal = true\n\
                [steps.s]\nuse = \"fail\"\nwhen = \"data.total > 1000\"\n";
    fs::write(own.join("sized.toml"), text).unwrap();
    for (total, to) in [
        ("14.90", "small"),
        ("100.00", "small"),
        ("100.01", "large"),
        ("999.99", "large"),
    ] {
        let ran = run(home.path(), &["try", "sized", "-"], &format!(r#"{{"total":{total}}}"#)).ok();
        assert!(ran.out.contains(&format!("{to} is final")), "{total}: {}", ran.out);
    }
}
