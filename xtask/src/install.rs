//! Installs what the tests need and the machine lacks.

use std::process::{Command, Stdio};

use crate::run::{cargo, shown};

/// Everything.
pub fn all() -> Result<(), String> {
    cargo_deny()?;
    if !is_there("promtool") {
        install_package("prometheus")?;
    }
    // The distribution keeps the server's programs off the path.
    if !is_there("initdb") && !std::path::Path::new("/usr/lib/postgresql").exists() {
        install_package("postgresql")?;
    }
    if !is_there("pgbouncer") {
        install_package("pgbouncer")?;
    }
    Ok(())
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
