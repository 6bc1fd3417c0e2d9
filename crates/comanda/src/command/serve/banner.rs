//! What `serve` says when it is ready: where everything is, and a line to paste for each type.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use comanda_order_type::Definition;

use crate::config::{Config, StoreKind};
use crate::output::tell;

/// Prints it to stderr. Where logs are for programs, it is one line of log instead.
pub(super) fn print(config: &Config, address: SocketAddr, keyed: bool, types: &[Arc<Definition>]) {
    if config.log.json {
        tracing::info!(url = url(address), "ready");
        return;
    }
    tell(text(config, address, keyed, types).trim_end_matches('\n'));
}

fn text(config: &Config, address: SocketAddr, keyed: bool, types: &[Arc<Definition>]) -> String {
    let url = url(address);
    let store = match &config.store {
        StoreKind::Sqlite => format!("orders are kept in {}", config.data.display()),
        StoreKind::Memory => "orders are kept in memory, and gone at the end".to_owned(),
        StoreKind::Postgres(address) => format!("orders are kept in {}", address.shown()),
    };
    let mut text = String::new();
    let mut line = |line: &str| {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{line}");
    };
    line(&format!(
        "comanda {} is ready at {url}; {store}",
        env!("CARGO_PKG_VERSION")
    ));
    line(&format!("  docs {url}/docs · dashboard {url}/ · metrics {url}/metrics"));
    if config.bench_no_store {
        line("\n  WARNING: --bench-no-store: submissions are answered and NOT stored. Every order is lost.");
    }
    if config.insecure && !keyed {
        line("\n  WARNING: --insecure: everyone who reaches this address may do everything.");
    }
    for (name, place) in archives(config, types) {
        line(&format!("  failed orders are archived as `{name}` in {place}"));
    }
    line("\nSubmit an order:");
    let key = if keyed {
        " -H \"authorization: Bearer $COMANDA_API_KEY\""
    } else {
        ""
    };
    for definition in types {
        let name = &definition.order_type.name;
        let path = config
            .mounts
            .iter()
            .find(|(_, mounted)| **mounted == **name)
            .map(|(path, _)| path.clone());
        let path = path.unwrap_or_else(|| format!("/{name}"));
        let sample = definition.wire_sample().to_string().replace('\'', r"'\''");
        line(&format!(
            "  curl -sS {url}{path} -H 'content-type: application/json'{key} -d '{sample}'"
        ));
    }
    line("\nThen: comanda list · comanda events --follow · comanda get ID --history");
    if config.breaks.is_empty() {
        let step = types
            .iter()
            .flat_map(|definition| definition.order_type.steps.keys())
            .next();
        if let Some(step) = step {
            line(&format!(
                "See a step fail: comanda serve --break {step}=9 --fast-retries, then comanda dead-letters list"
            ));
        }
    } else {
        let breaks: Vec<String> = config
            .breaks
            .iter()
            .map(|(step, times)| format!("{step} {times} times"))
            .collect();
        line(&format!("Steps fail on purpose: {}", breaks.join(", ")));
    }
    text
}

/// The archives that the types name, and where each is.
fn archives(config: &Config, types: &[Arc<Definition>]) -> BTreeMap<Arc<str>, String> {
    let names = types.iter().flat_map(|definition| definition.order_type.archives());
    names
        .map(|name| {
            let place = match config.archives.get(&**name) {
                Some(archive) => archive.place.to_string(),
                None => config.data.join("archive").join(&**name).display().to_string(),
            };
            (name.clone(), place)
        })
        .collect()
}

/// Where the server is reached from this machine.
fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_stands_for_all_is_named_by_one_that_can_be_reached() {
        assert_eq!(url(SocketAddr::from(([0, 0, 0, 0], 80))), "http://127.0.0.1:80");
        assert_eq!(url(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 80))), "http://[::1]:80");
    }
}
