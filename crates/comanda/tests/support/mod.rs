//! Runs the real binary: a server on a port of its own with a directory of its own, and commands.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub mod clients;
#[cfg(target_os = "linux")]
pub mod disk;
pub mod hook;
pub mod random;
pub mod receiver;
pub mod services;
pub mod shop;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes; only a test that hangs meets it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A command in a directory, with none of our variables from the environment of the tests.
pub fn command(directory: &Path) -> Command {
    command_of(Path::new(env!("CARGO_BIN_EXE_comanda")), directory)
}

/// As [`command`], of another build of the program.
fn command_of(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).env_remove("NO_COLOR");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("COMANDA_")) {
        command.env_remove(name);
    }
    command
}

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it printed as data.
    pub out: String,
    /// What it printed besides.
    pub err: String,
}

impl Ran {
    /// The data as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Panics unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }
}

/// Runs a command to its end.
pub fn run(directory: &Path, args: &[&str], input: &str) -> Ran {
    run_command(command(directory).args(args), input)
}

/// Runs a prepared command to its end.
pub fn run_command(command: &mut Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running server. It is killed when it is dropped.
pub struct Server {
    /// Where it answers, without a slash at the end.
    pub url: String,
    /// Its data directory.
    pub data: PathBuf,
    /// Its working directory, which holds the data directory; removed with the last owner.
    pub home: Home,
    /// The process.
    pub child: Child,
    /// What it said on stderr until it was ready.
    first_lines: Vec<String>,
    /// What it says on stderr, from its readiness on.
    lines: Receiver<String>,
}

/// A working directory: one of our own, or one that outlives a server.
pub enum Home {
    /// Removed at the end.
    Own(TempDir),
    /// Somebody else's.
    Lent(PathBuf),
}

impl Home {
    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Own(directory) => directory.path(),
            Self::Lent(path) => path,
        }
    }
}

impl Server {
    /// Starts `comanda serve` in a new directory, and waits until it is ready. It keeps its orders on disk and listens
    /// on a free port of loopback unless `args` say otherwise.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(Home::Own(TempDir::new().unwrap()), args, &[])
    }

    /// Starts in a directory that is there: to go on with the orders of an earlier server.
    pub fn start_in(directory: &Path, args: &[&str]) -> Self {
        Self::start_with(Home::Lent(directory.to_owned()), args, &[])
    }

    /// Starts with variables in its environment.
    pub fn start_with(home: Home, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut server = Self::launch(home, args, environment);
        server.url = server.wait_until_ready().unwrap_or_else(|said| {
            panic!("the server did not start; it said:\n{}", said.join("\n"));
        });
        server
    }

    /// Starts another build of the program.
    pub fn start_program(program: &Path, home: Home, args: &[&str]) -> Self {
        let serve = command_of(program, home.path());
        let mut server = Self::launch_by(serve, home, args, &[]);
        server.url = server.wait_until_ready().unwrap_or_else(|said| {
            panic!("{} did not start; it said:\n{}", program.display(), said.join("\n"));
        });
        server
    }

    /// Starts on what may be damaged: what it said, if it ended instead.
    pub fn try_start_in(directory: &Path) -> Result<Self, Vec<String>> {
        let mut server = Self::launch(Home::Lent(directory.to_owned()), &[], &[]);
        server.url = server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<String, Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        while let Ok(line) = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if let Some((_, ready)) = line.split_once("is ready at ") {
                let address = ready.split(';').next().unwrap_or_default().to_owned();
                said.push(line);
                self.first_lines = said;
                return Ok(address);
            }
            said.push(line);
        }
        Err(said)
    }

    fn launch(home: Home, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let serve = command(home.path());
        Self::launch_by(serve, home, args, environment)
    }

    fn launch_by(mut serve: Command, home: Home, args: &[&str], environment: &[(&str, &str)]) -> Self {
        serve.arg("serve").args(args).envs(environment.iter().copied());
        if !args.contains(&"--listen") {
            serve.args(["--listen", "127.0.0.1:0"]);
        }
        let mut child = serve
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines(child.stderr.take().unwrap());
        let data = home.path().join("comanda-data");
        Self {
            url: String::new(),
            data,
            home,
            child,
            first_lines: Vec::new(),
            lines,
        }
    }

    /// Asks it to stop, and answers all that it said on stderr, from its start to its end.
    pub fn said_until_stopped(mut self) -> Vec<String> {
        self.signal("TERM");
        self.child.wait().unwrap();
        let mut said = std::mem::take(&mut self.first_lines);
        said.extend(self.lines.iter());
        said
    }

    /// Waits until the server says something that contains this, and answers the whole line. It may have said so already when it
    /// was not yet ready.
    #[track_caller]
    pub fn wait_for_line(&mut self, part: &str) -> String {
        self.lines_until(part).pop().unwrap()
    }

    /// As [`Self::wait_for_line`], with everything that it said before.
    #[track_caller]
    pub fn lines_until(&mut self, part: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = self.first_lines.clone();
        if let Some(at) = said.iter().position(|line| line.contains(part)) {
            said.truncate(at + 1);
            return said;
        }
        while let Ok(line) = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            let is_it = line.contains(part);
            said.push(line);
            if is_it {
                return said;
            }
        }
        panic!("the server never said {part:?}; it said:\n{}", said.join("\n"));
    }

    /// Runs a command against this server.
    pub fn run(&self, args: &[&str], input: &str) -> Ran {
        run_command(command(self.home.path()).args(args).args(["--url", &self.url]), input)
    }

    /// Ends the process at once, as a power cut would: nothing is flushed, nothing is told.
    pub fn kill(mut self) -> Home {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.give_home()
    }

    /// Asks it to stop (SIGTERM), and waits for its end.
    pub fn stop(mut self) -> (ExitStatus, Home) {
        self.signal("TERM");
        let status = self.child.wait().unwrap();
        (status, self.give_home())
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    fn give_home(&mut self) -> Home {
        std::mem::replace(&mut self.home, Home::Lent(PathBuf::new()))
    }

    /// One HTTP request on a connection of its own: the status, the headers as text, and the body.
    pub fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if head.to_lowercase().contains("transfer-encoding: chunked") {
            unchunk(body)
        } else {
            body.to_owned()
        };
        (status, head.to_owned(), body)
    }

    /// Posts JSON.
    pub fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let (status, _, body) = self.http("POST", path, &[("content-type", "application/json")], body);
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// Gets JSON.
    pub fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.http("GET", path, &[], "");
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a process's lines in the background, so that it never waits for us.
pub fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if std::env::var_os("TEST_SHOW_SERVER").is_some() {
                eprintln!("server: {line}");
            }
            // Nobody may be listening any more; the process must be drained all the same.
            let _ = sender.send(line);
        }
    });
    receiver
}

fn unchunk(body: &str) -> String {
    let mut text = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        text.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    text
}
