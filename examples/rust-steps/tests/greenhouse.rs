//! The example, run as its README says: the program serves an order type that needs its steps, and the plain one does not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_greenhouse");

fn program(home: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.current_dir(home);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("COMANDA_")) {
        command.env_remove(name);
    }
    command
}

struct Server {
    url: String,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the program over order types; the error is what it said when it did not start.
fn serve(home: &Path, order_types: &Path) -> Result<Server, String> {
    let mut child = program(home)
        .args([
            "serve",
            "--store",
            "memory",
            "--listen",
            "127.0.0.1:0",
            "--fast-retries",
        ])
        .arg("--order-types")
        .arg(order_types)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = String::new();
    for line in lines.by_ref() {
        let line = line.unwrap();
        if let Some((_, rest)) = line.split_once("is ready at ") {
            let url = rest.split(';').next().unwrap().to_owned();
            // Whatever else it says must go somewhere.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(Server { url, child });
        }
        said.push_str(&line);
        said.push('\n');
    }
    child.wait().unwrap();
    Err(said)
}

fn ask(home: &Path, url: &str, args: &[&str], input: &str) -> Value {
    let mut child = program(home)
        .args(args)
        .args(["--url", url, "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that takes no input may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_team_compiles_its_own_steps_in() {
    let home = tempfile::tempdir().unwrap();
    let types = Path::new(env!("CARGO_MANIFEST_DIR")).join("order-types");
    let server = serve(home.path(), &types).unwrap();
    let order = |plant: &str, count: u32| {
        let data = format!(r#"{{"plant":"{plant}","count":{count}}}"#);
        ask(home.path(), &server.url, &["submit", "seedlings", "--wait=20"], &data)
    };
    let tomatoes = order("tomato", 30);
    assert_eq!(tomatoes["status"], "growing", "{tomatoes}");
    assert_eq!(tomatoes["results"]["plant"]["plant"], "tomato");
    assert_eq!(order("pumpkin", 80)["status"], "given-up", "there is no room");
    let id = tomatoes["id"].as_str().unwrap();
    ask(home.path(), &server.url, &["cancel", id], "");
    let given_up = ask(home.path(), &server.url, &["get", id, "--wait=20"], "");
    assert_eq!(given_up["status"], "given-up", "{given_up}");
    assert_eq!(
        order("pumpkin", 80)["status"],
        "growing",
        "what was taken back left room"
    );
}

#[test]
fn a_type_whose_step_is_not_compiled_in_is_refused_at_the_start() {
    let home = tempfile::tempdir().unwrap();
    let types = home.path().join("types");
    std::fs::create_dir(&types).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("order-types/seedlings.toml");
    let text = std::fs::read_to_string(source).unwrap();
    std::fs::write(
        types.join("seedlings.toml"),
        text.replace("greenhouse.clear", "greenhouse.weed"),
    )
    .unwrap();
    let said = serve(home.path(), &types).err().unwrap();
    assert!(
        said.contains("`seedlings` needs the step `greenhouse.weed`") && said.contains(".step(\"greenhouse.weed\""),
        "{said}"
    );
}
