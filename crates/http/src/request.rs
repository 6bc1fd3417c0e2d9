//! What the headers and the query of a request say: preferences, conditions, keys, traces, pages.

use std::time::Duration;

use axum::http::HeaderMap;
use comanda_engine::{CommandError, Found, Precondition, Service, WaitFor};
use comanda_model::Phase;
use jiff::Timestamp;

use crate::problem::Problem;

/// The longest that a request may ask to wait.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The values that `Prefer` (RFC 7240) gives to a preference. Those that are not understood are passed over, as the
/// standard asks.
fn preferred<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(move |preference| {
            let (found, value) = preference.split(';').next()?.split_once('=')?;
            let value = value.trim().trim_matches('"');
            found.trim().eq_ignore_ascii_case(name).then_some(value)
        })
}

/// `Prefer: wait=N`.
pub(crate) fn prefer_wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = preferred(headers, "wait").find_map(|value| value.parse().ok())?;
    Some(Duration::from_secs(seconds).min(WAIT_MAX))
}

/// `Prefer: return=minimal`: the client needs no more of an order than where to find it.
pub(crate) fn prefer_minimal(headers: &HeaderMap) -> bool {
    preferred(headers, "return").next() == Some("minimal")
}

/// `Idempotency-Key`: 1 to 255 visible characters, in quotes (as the draft has it) or not.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let value = value.to_str().unwrap_or_default().trim();
    let key = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value);
    if key.is_empty() || key.len() > 255 || !key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(Problem::new(
            "invalid-request",
            "`Idempotency-Key` must be 1 to 255 visible ASCII characters",
        ));
    }
    Ok(Some(key.to_owned()))
}

/// `If-Match` (RFC 9110, 13.1.1): `None` where it is absent.
pub(crate) fn if_match(headers: &HeaderMap) -> Option<Precondition> {
    let mut versions = Vec::new();
    let mut lines = headers.get_all("if-match").iter().peekable();
    lines.peek()?;
    for line in lines {
        // What cannot be read matches nothing: a condition that was asked for must not be passed over.
        let line = line.to_str().unwrap_or_default();
        if line.trim() == "*" {
            return Some(Precondition::None);
        }
        // A weak tag never matches strongly, and a tag that is not ours matches nothing.
        versions.extend(line.split(',').filter_map(etag_version));
    }
    Some(Precondition::EtagIn(versions))
}

/// Whether `If-None-Match` names this version, weakly compared.
pub(crate) fn none_match(headers: &HeaderMap, version: u64) -> bool {
    text(headers, "if-none-match").is_some_and(|value| {
        value.trim() == "*"
            || value
                .split(',')
                .any(|tag| etag_version(tag.trim().trim_start_matches("W/")) == Some(version))
    })
}

fn etag_version(tag: &str) -> Option<u64> {
    tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// Refuses an order that does not meet a precondition, where no command does.
pub(crate) fn hold(precondition: &Precondition, etag_version: u64) -> Result<(), Problem> {
    match precondition {
        Precondition::EtagIn(versions) if !versions.contains(&etag_version) => {
            Err(CommandError::PreconditionFailed { etag_version }.into())
        }
        Precondition::EtagIn(_) | Precondition::None => Ok(()),
    }
}

/// `?wait=30&version=3`: what to wait for, and for how long. Without a version: until nothing more happens by itself.
pub(crate) fn wait_asked(query: &mut Query) -> Result<Option<(WaitFor, Duration)>, Problem> {
    let wait = query.take_parsed::<u64>("wait", "a number of seconds")?;
    let version = query.take_parsed::<u64>("version", "a version")?;
    let until = version.map_or(WaitFor::Rest, WaitFor::VersionAfter);
    Ok(wait.map(|seconds| (until, Duration::from_secs(seconds).min(WAIT_MAX))))
}

/// Waits as asked, with an order that was just read. One that is final is answered as it is: nobody waits for a change that
/// will hardly come.
pub(crate) async fn awaited(
    service: &Service,
    found: Found,
    wait: Option<(WaitFor, Duration)>,
) -> Result<Found, CommandError> {
    let order = &found.stored.order;
    match wait {
        Some((until, wait)) if order.head.phase != Phase::Final => {
            Ok(service.wait(order.id(), until, wait).await?.unwrap_or(found))
        }
        Some(_) | None => Ok(found),
    }
}

/// The entity tag of a version.
pub(crate) fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// `traceparent` (W3C trace context), if it is valid.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let value = text(headers, "traceparent")?;
    let hex = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let parts: Vec<&str> = value.split('-').collect();
    let [version, trace, span, flags] = parts[..] else {
        return None;
    };
    let sound = version.len() == 2 && version != "ff" && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    (sound && [version, trace, span, flags].iter().all(|part| hex(part)) && !zero(trace) && !zero(span))
        .then(|| value.to_owned())
}

/// The parameters of a query. Each is taken once, and what is left over is an error that names it.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        Self(
            form_urlencoded::parse(query.unwrap_or_default().as_bytes())
                .into_owned()
                .collect(),
        )
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.remove(at).1)
    }

    pub(crate) fn take_parsed<T: std::str::FromStr>(&mut self, name: &str, what: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let problem = || Problem::new("invalid-request", format!("`{name}` must be {what}, not `{text}`"));
        text.parse().map(Some).map_err(|_| problem())
    }

    pub(crate) fn take_time(&mut self, name: &str) -> Result<Option<Timestamp>, Problem> {
        self.take_parsed(name, "an RFC 3339 time")
    }

    /// `limit`: 50 unless said, at most 500.
    pub(crate) fn take_limit(&mut self) -> Result<usize, Problem> {
        let limit = self
            .take_parsed::<usize>("limit", "a number from 1 to 500")?
            .unwrap_or(50);
        if (1..=500).contains(&limit) {
            return Ok(limit);
        }
        Err(Problem::new(
            "invalid-request",
            format!("`limit` must be a number from 1 to 500, not `{limit}`"),
        ))
    }

    pub(crate) fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::new(
                "invalid-request",
                format!("there is no parameter `{name}` here"),
            )),
        }
    }
}

/// Refuses a number outside its bounds, by name.
pub(crate) fn within(name: &str, number: u64, min: u64, max: u64) -> Result<(), Problem> {
    if (min..=max).contains(&number) {
        return Ok(());
    }
    let detail = format!("`{name}` must be from {min} to {max}, not {number}");
    Err(Problem::new("invalid-request", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn preferences_are_read_as_the_standard_has_them() {
        let wait = |value| prefer_wait(&headers("prefer", value));
        assert_eq!(wait("wait=5"), Some(Duration::from_secs(5)));
        assert_eq!(wait("respond-async, Wait=\"7\"; x=1"), Some(Duration::from_secs(7)));
        assert_eq!(wait("wait=9999"), Some(WAIT_MAX));
        assert_eq!(wait("wait=soon"), None);
        assert_eq!(wait("return=minimal"), None);
        let minimal = |value| prefer_minimal(&headers("prefer", value));
        assert!(minimal("wait=5, return=minimal"));
        assert!(minimal("Return=\"minimal\"; x=1"));
        // Of two, the first counts.
        assert!(!minimal("return=representation, return=minimal"));
        assert!(!minimal("return"));
    }

    #[test]
    fn conditions_compare_tags() {
        assert_eq!(
            if_match(&headers("if-match", "\"3\", \"4\"")),
            Some(Precondition::EtagIn(vec![3, 4]))
        );
        assert_eq!(
            if_match(&headers("if-match", "W/\"3\"")),
            Some(Precondition::EtagIn(vec![]))
        );
        assert_eq!(if_match(&headers("if-match", "*")), Some(Precondition::None));
        assert_eq!(if_match(&headers("prefer", "x")), None);
        let mut several = headers("if-match", "\"3\"");
        several.append("if-match", axum::http::HeaderValue::from_bytes(b"\xff").unwrap());
        several.append("if-match", "\"4\"".parse().unwrap());
        assert_eq!(if_match(&several), Some(Precondition::EtagIn(vec![3, 4])));
        assert!(none_match(&headers("if-none-match", "W/\"3\""), 3));
        assert!(!none_match(&headers("if-none-match", "\"2\""), 3));
    }

    #[test]
    fn keys_and_traces_that_are_not_sound_are_refused() {
        assert_eq!(
            idempotency_key(&headers("idempotency-key", "\"a 1\""))
                .unwrap()
                .as_deref(),
            Some("a 1")
        );
        assert!(idempotency_key(&headers("idempotency-key", "\"\"")).is_err());
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(traceparent(&headers("traceparent", good)).as_deref(), Some(good));
        for bad in [
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-x-y-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(traceparent(&headers("traceparent", bad)), None);
        }
    }
}
