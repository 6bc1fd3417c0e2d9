//! Who may ask: keys and their scopes; without keys, only programs of this machine.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, Method, Uri};

use crate::App;
use crate::keys::Scope;
use crate::mount::{Mounted, allows_origin};
use crate::problem::Problem;
use crate::rate::{KeyRate, Standing};

/// Who asks, and in what trace.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// `local`, or `key:ID`.
    pub(crate) by: Arc<str>,
    /// What the caller's key allows; `None` where no key is needed.
    scopes: Option<Vec<Scope>>,
    /// How much the caller's key may ask, if that is bounded.
    pub(crate) rate: Option<KeyRate>,
    /// The trace context, the client's or a new one.
    pub(crate) traceparent: String,
    /// The request's id, the client's or a new one.
    pub(crate) request_id: String,
}

impl Caller {
    /// A caller on this machine, of whom no key is asked.
    pub(crate) fn local(traceparent: String, request_id: String) -> Self {
        Self {
            by: "local".into(),
            scopes: None,
            rate: None,
            traceparent,
            request_id,
        }
    }

    /// Refuses a caller whose key lacks a scope.
    pub(crate) fn needs(&self, scope: Scope) -> Result<(), Problem> {
        match &self.scopes {
            Some(scopes) if !scopes.contains(&scope) => Err(Problem::new(
                "forbidden",
                format!("this needs a key with the scope `{}`", scope.name()),
            )),
            _ => Ok(()),
        }
    }
}

/// What of a request decides who may ask.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) mounted: Option<&'a Mounted>,
    /// Whether everyone may have it, key or not: probes, documentation, preflights.
    pub(crate) open: bool,
}

impl App {
    /// Whether keys are asked for. An address that can be reached from elsewhere stays closed also when its file of
    /// keys is taken away while it runs.
    fn is_guarded(&self) -> bool {
        !self.options.keys.is_empty() || !(self.loopback || self.options.insecure)
    }

    /// Makes a caller of who asks, or says why not.
    pub(crate) fn admit(&self, asked: &Asked<'_>, caller: Caller) -> Result<Caller, Problem> {
        if !self.is_guarded() {
            if self.loopback {
                refuse_foreign_host(asked)?;
                refuse_foreign_page(asked)?;
            }
            return Ok(caller);
        }
        if asked.open {
            return Ok(caller);
        }
        let text = |name| asked.headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text(AUTHORIZATION.as_str()).and_then(bearer);
        let secret = bearer.or_else(|| text("x-api-key"));
        let secret = secret.ok_or_else(|| Problem::new("unauthorized", "the request carries no API key"))?;
        let key = self.options.keys.find(secret.trim());
        let key = key.ok_or_else(|| Problem::new("unauthorized", "the API key is unknown or revoked"))?;
        Ok(Caller {
            by: format!("key:{}", key.id).into(),
            scopes: Some(key.scopes),
            rate: key.rate,
            ..caller
        })
    }
}

impl App {
    /// Counts so many requests of a caller whose key has a rate; how the key then stands, if anything was counted.
    pub(crate) async fn count(&self, caller: &Caller, requests: usize) -> Result<Option<Standing>, Problem> {
        let (Some(rate), Some(requests)) = (caller.rate, NonZeroUsize::new(requests)) else {
            return Ok(None);
        };
        let requests = NonZeroU32::try_from(requests).unwrap_or(NonZeroU32::MAX);
        let store = self.service.store();
        self.rates.take(&**store, &caller.by, rate, requests).await.map(Some)
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(secret)
}

/// A page whose name was made to lead to this machine (DNS rebinding) still sends its own name.
fn refuse_foreign_host(asked: &Asked<'_>) -> Result<(), Problem> {
    let named = asked
        .headers
        .get(HOST)
        .map(|host| String::from_utf8_lossy(host.as_bytes()));
    let in_uri = asked.uri.host().map(Into::into);
    match named.into_iter().chain(in_uri).find(|host| !is_loopback_host(host)) {
        Some(host) => Err(Problem::new(
            "host-not-allowed",
            format!("`{host}` is no name of this machine"),
        )),
        None => Ok(()),
    }
}

/// A page from elsewhere may send simple requests to this machine without asking, and does not need to read the answer
/// to do harm.
fn refuse_foreign_page(asked: &Asked<'_>) -> Result<(), Problem> {
    if matches!(*asked.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let Some(origin) = asked.headers.get(ORIGIN) else {
        return Ok(());
    };
    let is_ours = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"))
        .is_some_and(|(_, host)| is_loopback_host(host));
    if is_ours
        || asked
            .mounted
            .is_some_and(|mounted| allows_origin(&mounted.definition, origin))
    {
        return Ok(());
    }
    let origin = String::from_utf8_lossy(origin.as_bytes());
    Err(Problem::new(
        "origin-not-allowed",
        format!("pages of `{origin}` may not change anything here"),
    ))
}

/// Whether a `Host` is a loopback name, whatever its port.
fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The identity of a request: what the client calls it, if that is something that a log can carry, or a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> String {
    let sane = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    let sent = headers.get("x-request-id").and_then(|id| id.to_str().ok()).filter(sane);
    sent.map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned)
}

/// The trace context of a request: a span of our own, in the client's trace or in a new one.
pub(crate) fn traceparent(parent: Option<&str>) -> String {
    // Zero is no valid id; it will not be drawn, and must not be sent.
    let span = rand::random::<u64>().max(1);
    match parent {
        // The form was checked when the header was read: version 00's parts stand at fixed places.
        Some(parent) => format!("00-{}-{span:016x}-{}", &parent[3..35], &parent[53..55]),
        None => format!("00-{:032x}-{span:016x}-01", rand::random::<u128>().max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request;

    #[test]
    fn only_loopback_names_are_loopback_hosts() {
        for good in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(is_loopback_host(good), "{good}");
        }
        for bad in [
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1",
            "",
            "[::2]",
        ] {
            assert!(!is_loopback_host(bad), "{bad}");
        }
    }

    #[test]
    fn the_scheme_of_a_key_is_in_any_case() {
        assert_eq!(bearer("bEARER x"), Some("x"));
        assert_eq!(bearer("Basic x"), None);
        assert_eq!(bearer("Bearer"), None);
    }

    #[test]
    fn a_request_keeps_an_id_that_a_log_can_carry() {
        let id = |text: &'static str| {
            request_id(
                &[("x-request-id".parse().unwrap(), text.parse().unwrap())]
                    .into_iter()
                    .collect(),
            )
        };
        assert_eq!(id("a-1"), "a-1");
        assert_eq!(id("a b").len(), 32);
        let sound = |trace: &str| {
            let headers = [("traceparent".parse().unwrap(), trace.parse().unwrap())]
                .into_iter()
                .collect();
            request::traceparent(&headers).is_some()
        };
        assert!(sound(&traceparent(None)));
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let ours = traceparent(Some(parent));
        assert!(sound(&ours) && ours != parent, "{ours}");
        assert!(
            ours.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && ours.ends_with("-00"),
            "{ours}"
        );
    }
}
