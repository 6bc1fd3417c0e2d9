//! `comanda keys`: who may do what.

use std::num::NonZeroU32;
use std::path::PathBuf;

use comanda_http::{KeyRate, KeyRing};
use serde_json::{Value, json};

use crate::cli::{KeyPlace, Keys, RateChoice, Scope};
use crate::config::Config;
use crate::failure::Failure;
use crate::output::{Output, cell};

pub(super) fn run(
    config: &dyn Fn() -> Result<Config, Failure>,
    command: Keys,
    output: &mut Output,
) -> Result<(), Failure> {
    let file = |place: KeyPlace| -> Result<PathBuf, Failure> {
        match place.data {
            Some(data) => Ok(data.join("keys.json")),
            None => Ok(config()?.keys_file),
        }
    };
    let failed = |error| Failure::process("the API keys could not be changed", error);
    match command {
        Keys::Create {
            name,
            scopes,
            rate,
            place,
        } => {
            let scopes: Vec<comanda_http::Scope> = scopes.into_iter().map(scope).collect();
            let (key, secret) = KeyRing::create(&file(place)?, &name, &scopes, chosen(rate)).map_err(failed)?;
            if output.is_json() {
                output.json(&json!({"id": key.id, "name": key.name, "secret": secret}))?;
            } else {
                output.line(&secret)?;
                eprintln!(
                    "This is key {} and the only time that it is shown. Use it as COMANDA_API_KEY.",
                    key.id
                );
            }
            Ok(())
        }
        Keys::List { place } => {
            let keys = KeyRing::list(&file(place)?).map_err(failed)?;
            let keys: Vec<Value> = keys
                .iter()
                .map(|key| {
                    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.name()).collect();
                    json!({"id": key.id, "name": key.name, "scopes": scopes,
                        "rate": key.rate.map(|limit| limit.rate), "burst": key.rate.map(|limit| limit.burst),
                        "createdAt": key.created_at.to_string(), "revokedAt": key.revoked_at.map(|at| at.to_string())})
                })
                .collect();
            if output.is_json() {
                return Ok(output.json(&Value::Array(keys))?);
            }
            let row = |key: &Value| {
                let scopes: Vec<&str> = key["scopes"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                vec![
                    cell(&key["id"]),
                    cell(&key["name"]),
                    scopes.join(","),
                    cell(&key["rate"]),
                    cell(&key["burst"]),
                    cell(&key["createdAt"]),
                    cell(&key["revokedAt"]),
                ]
            };
            Ok(output.table(
                &["id", "name", "scopes", "rate", "burst", "created", "revoked"],
                keys.iter().map(row).collect(),
            )?)
        }
        Keys::Limit { id, rate, place } => {
            KeyRing::limit(&file(place)?, &id, chosen(rate)).map_err(failed)?;
            let told = rate.rate.map_or("any number of".to_owned(), |rate| rate.to_string());
            eprintln!("{id} may make {told} requests; a running server notices within a second");
            Ok(())
        }
        Keys::Revoke { id, place } => {
            KeyRing::revoke(&file(place)?, &id).map_err(failed)?;
            eprintln!("{id} is revoked; a running server notices within a second");
            Ok(())
        }
    }
}

fn chosen(choice: RateChoice) -> Option<KeyRate> {
    let rate = choice.rate?;
    let burst = choice.burst.and_then(NonZeroU32::new).unwrap_or(rate.requests());
    Some(KeyRate { rate, burst })
}

fn scope(scope: Scope) -> comanda_http::Scope {
    match scope {
        Scope::Submit => comanda_http::Scope::Submit,
        Scope::Read => comanda_http::Scope::Read,
        Scope::Work => comanda_http::Scope::Work,
        Scope::Operate => comanda_http::Scope::Operate,
    }
}
