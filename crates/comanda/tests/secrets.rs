//! No secret is ever kept or told by the real binary: it is given secrets wherever one can stand, calls services that quote
//! all that they are sent, and then everything that it has written, said and answered is searched for them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::{Home, PATIENCE, Server, command, run, run_command};

/// Every secret begins with this, so that no part of one goes unnoticed; what follows must survive quoting and encoding.
const MARK: &str = "Zq7";
const FROM_ENV: &str = "Zq7-environment-/+\"x\\ y";
const FROM_FILE: &str = "Zq7-file-%&=é";
const IN_URL: &str = "Zq7-in-url-0451";
const IN_BODY: &str = "Zq7-in-body \"quoted\" <>";
const CLIENT: &str = "Zq7-client-:secret";
const BEARER: &str = "Zq7-bearer.token-42";
const SMTP: &str = "Zq7-smtp-password";
const FEED: &str = "Zq7-feed-authorization";
const SIGNING: &str = "whsec_Zq7Zq7Zq7Zq7Zq7Zq7Zq7Zq7Zq7Zq7AA";
const STORED: &str = "Zq7-database-password";
const WRONG_KEY: &str = "Zq7-a-mistyped-key";

const TYPE: &str = r#"
name = "quoted"
initial = "received"
schema = { type = "object" }
cancel = "refused"
[statuses.received]
steps = ["ask", "take"]
next = "done"
refused = "refused"
to = ["refused"]
[statuses.done]
final = true
[statuses.refused]
final = true
undo = true
[steps.ask]
http = "POST {{ env.SERVICE }}/200"
auth = { token_url = "{{ env.SERVICE }}/token", client_id = "shop", client_secret = "{{ secret.client }}" }
body = { word = "{{ secret.in_body }}" }
undo = { http = "POST {{ env.SERVICE }}/200?key={{ secret.in_url }}", headers = { X-Key = "{{ secret.from_file | urlencode }}" } }
[steps.take]
http = "POST {{ env.SERVICE }}/{{ data.want }}?key={{ secret.in_url }}"
headers = { Authorization = "Bearer {{ secret.from_env }}", X-Key = "{{ secret.from_file | urlencode }}" }
body = { word = "{{ secret.in_body }}", answer = "{{ callback.url }}" }
sign = "{{ secret.signing }}"
callback = { within = "1h" }
retry = { attempts = 2, first = "1ms" }
exhausted = { archive = "failures" }
"#;

fn settings(service: &str, mail: u16) -> String {
    format!(
        r#"
[log]
level = "trace"
[env]
SERVICE = "{service}"
[secrets]
from_env = {{ env = "FROM_ENV" }}
from_file = {{ file = "from-file" }}
in_url = {{ env = "IN_URL" }}
in_body = {{ env = "IN_BODY" }}
client = {{ env = "CLIENT" }}
signing = {{ env = "SIGNING" }}
[deliveries]
retries = ["1ms"]
[mail]
server = "127.0.0.1:{mail}"
from = "shop@example.com"
tls = "none"
user = "shop"
password_env = "SMTP"
[[subscriptions]]
name = "hook"
url = "{service}/500"
secret = {{ env = "SIGNING" }}
from = "oldest"
[[subscriptions]]
name = "mails"
url = "mailto:ops@shop.example"
from = "oldest"
[intake.feed]
kind = "feed"
type = "quoted"
url = "{service}/feed"
id = "/id"
interval = "1s"
authorization = {{ env = "FEED" }}
"#
    )
}

/// Answers every call with what was sent: by its path with a status, with a token, or with a redirect.
///
/// Tells where callbacks are to be sent.
fn service(told: Sender<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let told = told.clone();
            std::thread::spawn(move || while quote(&stream, &told).is_some() {});
        }
    });
    url
}

/// Answers one call. `None` when the connection has ended.
fn quote(mut stream: &TcpStream, told: &Sender<String>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    let mut length = 0;
    loop {
        let start = head.len();
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
        let line = head[start..].trim_end();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        if let Some(callback) = line.strip_prefix("comanda-callback: ") {
            // Whoever waits for them may have seen enough.
            let _ = told.send(callback.to_owned());
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let said = format!("{head}{}", String::from_utf8_lossy(&body));
    let path = head.split(' ').nth(1).unwrap();
    let (status, more, answer) = match path.split('?').next().unwrap() {
        "/token" => (
            200,
            String::new(),
            json!({"access_token": BEARER, "was": said}).to_string(),
        ),
        "/302" => {
            let authorization = head.lines().find(|line| line.starts_with("authorization")).unwrap();
            let to: String = authorization.bytes().map(|byte| format!("%{byte:02X}")).collect();
            (302, format!("location: /login?{to}{path}\r\n"), said)
        }
        // As it is, which is no JSON.
        "/400" => (400, String::new(), said),
        "/feed" => (401, String::new(), said),
        path => {
            let status = path.trim_start_matches('/').parse().unwrap_or(404);
            (
                status,
                String::new(),
                json!({"said": said, "lines": said.lines().collect::<Vec<_>>()}).to_string(),
            )
        }
    };
    let answer = format!(
        "HTTP/1.1 {status} Told\r\n{more}content-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(answer.as_bytes()).ok()
}

/// A mail server that takes no login, and says what was wrong with it, in clear and as it came. Tells each login.
fn mail_server(told: Sender<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let told = told.clone();
            std::thread::spawn(move || refuse_login(&stream, &told));
        }
    });
    port
}

fn refuse_login(mut stream: &TcpStream, told: &Sender<()>) -> Option<()> {
    stream.write_all(b"220 mail\r\n").ok()?;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let answer = match line.strip_prefix("AUTH PLAIN ") {
            Some(login) => {
                let clear = String::from_utf8(STANDARD.decode(login).unwrap()).unwrap();
                // Whoever waits for it may have seen enough.
                let _ = told.send(());
                format!("535 5.7.8 not {login}, which is {}\r\n", clear.replace('\0', " "))
            }
            None if line.starts_with("EHLO") => "250-mail\r\n250 AUTH PLAIN\r\n".to_owned(),
            None => "250 ok\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).ok()?;
    }
    Some(())
}

/// A secret in the forms in which it may stand somewhere.
struct Form {
    secret: String,
    text: String,
}

fn forms(secrets: &[&str]) -> Vec<Form> {
    let mut all = Vec::new();
    for secret in secrets {
        let quoted = json!(secret).to_string();
        let encoded = |keep: &str| -> String {
            let byte = |byte: u8| match char::from(byte) {
                same if same.is_ascii_alphanumeric() || keep.contains(same) => same.to_string(),
                _ => format!("%{byte:02X}"),
            };
            secret.bytes().map(byte).collect()
        };
        let mut texts = BTreeSet::from([
            (*secret).to_owned(),
            quoted[1..quoted.len() - 1].to_owned(),
            json!(quoted).to_string().trim_matches('"').to_owned(),
            encoded(""),
            encoded("-_."),
        ]);
        for offset in 0..3 {
            // Wherever it begins within what was encoded: the characters that hold nothing but bits of the secret.
            let padded = [vec![0; offset], secret.as_bytes().to_vec()].concat();
            let first = (offset * 8).div_ceil(6);
            let last = padded.len() * 8 / 6;
            texts.insert(STANDARD.encode(&padded)[first..last].to_owned());
        }
        all.extend(texts.into_iter().map(|text| Form {
            secret: (*secret).to_owned(),
            text,
        }));
    }
    all
}

#[track_caller]
fn assert_without(forms: &[Form], what: &str, bytes: &[u8]) {
    for form in forms {
        let found = bytes
            .windows(form.text.len())
            .position(|window| window == form.text.as_bytes());
        if let Some(at) = found {
            let around = &bytes[at.saturating_sub(200)..(at + 100).min(bytes.len())];
            panic!(
                "{what} holds the secret {:?}: {}",
                form.secret,
                String::from_utf8_lossy(around)
            );
        }
    }
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    nested.flatten().collect()
}

/// What the test does, and everything that it is answered.
struct Client<'a> {
    server: &'a Server,
    key: &'a str,
    answered: Vec<(String, String)>,
}

impl Client<'_> {
    fn ask(&mut self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let authorization = format!("Bearer {}", self.key);
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", "application/json"),
        ];
        let (status, head, answer) = self.server.http(method, path, &headers, body);
        let value = serde_json::from_str(&answer).unwrap_or(Value::Null);
        self.answered
            .push((format!("{method} {path}"), format!("{head}\n{answer}")));
        (status, value)
    }

    fn get(&mut self, path: &str) -> Value {
        let (status, value) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    /// Submits an order that wants this answer, and waits until it stands like this.
    fn order(&mut self, want: &str, state: &str) -> String {
        let body = json!({"type": "quoted", "data": {"want": want}}).to_string();
        let (status, order) = self.ask("POST", "/v1/orders", &body);
        assert_eq!(status, 202, "{order}");
        let id = order["id"].as_str().unwrap().to_owned();
        self.wait(&id, state);
        id
    }

    fn wait(&mut self, id: &str, state: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut version = 0;
        loop {
            let order = self.get(&format!("/v1/orders/{id}?wait=5&version={version}"));
            if order["status"] == state || order["work"]["state"] == state {
                return;
            }
            assert!(Instant::now() < deadline, "{order} is not {state}");
            version = order["version"].as_u64().unwrap();
        }
    }
}

#[test]
fn no_secret_is_kept_or_told() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path();
    let (told, callbacks): (_, Receiver<String>) = channel();
    let service = service(told);
    let (told, logins): (_, Receiver<()>) = channel();
    std::fs::write(path.join("comanda.toml"), settings(&service, mail_server(told))).unwrap();
    std::fs::write(path.join("from-file"), format!("{FROM_FILE}\n")).unwrap();
    std::fs::create_dir(path.join("order-types")).unwrap();
    std::fs::write(path.join("order-types/quoted.toml"), TYPE).unwrap();
    let environment = [
        ("FROM_ENV", FROM_ENV),
        ("IN_URL", IN_URL),
        ("IN_BODY", IN_BODY),
        ("CLIENT", CLIENT),
        ("SIGNING", SIGNING),
        ("SMTP", SMTP),
        ("FEED", FEED),
    ];
    let scopes = ["submit", "read", "operate"].map(|scope| ["--scope", scope]);
    let create = [["keys", "create"].as_slice(), &["all"], scopes.as_flattened()].concat();
    let key = run(path, &create, "").ok().out;
    let key = key.trim().to_owned();
    let server = Server::start_with(Home::Lent(path.to_owned()), &[], &environment);
    let mut client = Client {
        server: &server,
        key: &key,
        answered: Vec::new(),
    };

    let done = client.order("200", "done");
    let waits = client.order("202", "waiting");
    for (want, state) in [
        ("409", "refused"),
        ("500", "parked"),
        ("400", "parked"),
        ("302", "parked"),
        ("401", "parked"),
    ] {
        client.order(want, state);
    }
    // Who should see it, sees it: the order's results, in which everything else stands that was quoted.
    let order = client.get(&format!("/v1/orders/{done}"));
    let said = order["results"]["take"]["said"].as_str().unwrap();
    assert!(
        said.contains("POST /200?key=***") && said.contains("idempotency-key"),
        "{said}"
    );
    // A mistyped key, and malformed, refused and unknown requests.
    let wrong = format!("Bearer {WRONG_KEY}");
    let (status, ..) = server.http("GET", "/v1/orders", &[("authorization", wrong.as_str())], "");
    assert_eq!(status, 401);
    assert_eq!(client.ask("POST", "/v1/orders", "{").0, 400);
    assert_eq!(
        client.ask("POST", "/v1/orders", r#"{"type":"nothing","data":{}}"#).0,
        422
    );
    assert_eq!(client.ask("POST", &format!("/v1/orders/{waits}/cancel"), "{}").0, 202);
    client.wait(&waits, "refused");
    // A callback that comes too late: its URL is the right to answer.
    let tokens: Vec<String> = callbacks
        .try_iter()
        .map(|url| url.rsplit('/').next().unwrap().to_owned())
        .collect();
    let late = tokens.iter().find(|token| token.starts_with(&waits.replace('-', "")));
    let late = format!("/v1/callbacks/{}", late.unwrap());
    assert_eq!(server.http("POST", &late, &[], "{}").0, 410);
    let (status, link) = client.ask("POST", &format!("/v1/orders/{done}/links"), "{}");
    assert_eq!(status, 201, "{link}");
    // It is given out here and nowhere else.
    client.answered.pop();
    let link = link["url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    assert_eq!(server.http("GET", &format!("/v1/links/{link}"), &[], "").0, 200);
    logins.recv_timeout(PATIENCE).unwrap();
    for name in ["hook", "mails"] {
        let deadline = Instant::now() + PATIENCE;
        while client.get(&format!("/v1/subscriptions/{name}/deliveries"))["items"]
            .as_array()
            .unwrap()
            .is_empty()
        {
            assert!(Instant::now() < deadline, "nothing was sent to {name}");
        }
    }
    let archive = path.join("comanda-data/archive/failures");
    let deadline = Instant::now() + PATIENCE;
    while !archive.exists() || files(&archive).is_empty() {
        assert!(Instant::now() < deadline, "nothing was archived");
        client.get("/v1/dead-letters");
    }

    for path in [
        "/v1/orders",
        "/v1/events?limit=500",
        "/v1/dead-letters",
        "/v1/dead-letter-causes",
        "/v1/order-types",
        "/v1/order-types/quoted",
        "/v1/subscriptions",
        "/v1/intake",
        "/v1/audit",
        "/v1/queues",
        "/v1/jobs",
    ] {
        client.get(path);
    }
    for path in ["/metrics", "/readyz", "/openapi.json", "/v1/intake/feed/rejected"] {
        client.ask("GET", path, "");
    }
    let listed = client.get("/v1/orders?limit=500");
    for order in listed["items"].as_array().unwrap() {
        let id = order["id"].as_str().unwrap();
        for part in ["", "/attempts", "/events"] {
            client.get(&format!("/v1/orders/{id}{part}"));
        }
        client.get(&format!("/quoted/{id}"));
        client.ask("GET", &format!("/v1/dead-letters/{id}"), "");
    }
    let answered = std::mem::take(&mut client.answered);
    let said = server.said_until_stopped();
    let database = format!("postgres://shop:{STORED}@127.0.0.1:1/orders");
    let unreachable = run_command(
        command(path).args(["serve", "--store", &database]).envs(environment),
        "",
    );
    assert_ne!(unreachable.code, 0);
    let shown = run_command(
        command(path)
            .arg("config")
            .env("COMANDA_STORE", &database)
            .envs(environment),
        "",
    );
    let exported = run_command(
        command(path)
            .args(["export", "--data", "comanda-data"])
            .envs(environment),
        "",
    )
    .ok();

    let mut secrets = vec![
        FROM_ENV, FROM_FILE, IN_URL, IN_BODY, CLIENT, BEARER, SMTP, FEED, SIGNING, STORED, WRONG_KEY, &key, &link,
    ];
    secrets.extend(tokens.iter().map(String::as_str));
    let forms = forms(&secrets);
    assert!(
        said.iter().any(|line| line.contains("TRACE")),
        "the log is not detailed"
    );
    for line in &said {
        assert_without(&forms, "the log", line.as_bytes());
    }
    for (what, answer) in &answered {
        assert_without(&forms, what, answer.as_bytes());
    }
    for (what, ran) in [("serve", &unreachable), ("config", &shown.ok()), ("export", &exported)] {
        assert_without(&forms, what, ran.out.as_bytes());
        assert_without(&forms, what, ran.err.as_bytes());
    }
    for file in files(&path.join("comanda-data")) {
        assert_without(&forms, &file.display().to_string(), &std::fs::read(&file).unwrap());
    }
    // Nothing that begins like one is left either, cut off or written in a form that was not thought of.
    let all = said
        .iter()
        .chain(answered.iter().map(|(_, answer)| answer))
        .chain([&exported.out]);
    for text in all {
        assert!(!text.contains(MARK), "something of a secret is left in {text}");
    }
}
