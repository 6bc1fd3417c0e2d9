//! Which crate may use which: the arrows of the house point one way.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each crate, and those of ours that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("comanda-model", &[]),
    ("comanda-outbound", &[]),
    ("comanda-order-type", &["comanda-model"]),
    ("comanda-store", &["comanda-model"]),
    ("comanda-store-sqlite", &["comanda-store", "comanda-model"]),
    ("comanda-store-postgres", &["comanda-store", "comanda-model"]),
    (
        "comanda-engine",
        &["comanda-store", "comanda-order-type", "comanda-model"],
    ),
    (
        "comanda-steps",
        &["comanda-engine", "comanda-outbound", "comanda-model"],
    ),
    (
        "comanda-builtin",
        &["comanda-engine", "comanda-steps", "comanda-store", "comanda-model"],
    ),
    (
        "comanda-deliver",
        &["comanda-engine", "comanda-store", "comanda-outbound", "comanda-model"],
    ),
    (
        "comanda-intake",
        &["comanda-engine", "comanda-store", "comanda-outbound", "comanda-model"],
    ),
    (
        "comanda-http",
        &[
            "comanda-intake",
            "comanda-deliver",
            "comanda-builtin",
            "comanda-engine",
            "comanda-store",
            "comanda-order-type",
            "comanda-model",
        ],
    ),
    (
        "comanda",
        &[
            "comanda-intake",
            "comanda-http",
            "comanda-deliver",
            "comanda-outbound",
            "comanda-steps",
            "comanda-builtin",
            "comanda-engine",
            "comanda-store-sqlite",
            "comanda-store-postgres",
            "comanda-store",
            "comanda-order-type",
            "comanda-model",
        ],
    ),
    (
        "comanda-embed",
        &[
            "comanda-http",
            "comanda-deliver",
            "comanda-steps",
            "comanda-builtin",
            "comanda-engine",
            "comanda-store-sqlite",
            "comanda-store-postgres",
            "comanda-store",
            "comanda-order-type",
            "comanda-model",
        ],
    ),
    (
        "comanda-sim",
        &[
            "comanda-deliver",
            "comanda-builtin",
            "comanda-engine",
            "comanda-store",
            "comanda-order-type",
            "comanda-model",
        ],
    ),
    ("comanda-example-embedded", &["comanda-embed"]),
    ("comanda-example-rust-steps", &["comanda"]),
    ("xtask", &[]),
];

/// Fails if a crate uses one that it may not, or is not in the table.
pub fn check() -> Result<(), String> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()
        .map_err(|error| format!("cargo could not be started: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let faults = faults(&metadata);
    if faults.is_empty() {
        println!("direction: every crate uses only what it may");
        return Ok(());
    }
    Err(format!(
        "the direction of dependencies is broken:\n  {}",
        faults.join("\n  ")
    ))
}

fn faults(metadata: &Value) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = allowed.get(name) else {
            faults.push(format!("{name} is not in the table of xtask/src/direction.rs"));
            continue;
        };
        for dependency in package["dependencies"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
        {
            let used = dependency["name"].as_str().unwrap_or_default();
            // Tests may reach further: a store's tests drive it through the engine.
            if dependency["kind"].as_str() != Some("dev") && ours.contains(used) && !allowed.contains(&used) {
                faults.push(format!("{name} must not use {used}"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_against_the_direction_is_found() {
        let metadata = serde_json::json!({"packages": [
            {"name": "comanda-model", "dependencies": [{"name": "comanda-engine", "kind": null}]},
            {"name": "comanda-engine", "dependencies": [{"name": "comanda-model", "kind": null}, {"name": "serde", "kind": null}]},
            {"name": "comanda-new", "dependencies": []},
        ]});
        assert_eq!(
            faults(&metadata),
            [
                "comanda-model must not use comanda-engine",
                "comanda-new is not in the table of xtask/src/direction.rs"
            ]
        );
    }
}
