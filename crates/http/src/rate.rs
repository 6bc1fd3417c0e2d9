//! The rate at which a key may ask, and what tells its holder how much of it is left.
//!
//! A rate is counted by the generic cell rate algorithm (GCRA): up to `burst` requests at once, which come back evenly.
//! Where only this process has the store it counts by itself. Nodes that share a store each lease a share of a rate
//! from it (see [`comanda_store::rate`]) and spend it without asking again; the share grows with what the key asks for.
//!
//! Answers carry `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10), refusals `Retry-After`.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use comanda_store::Store;
use comanda_store::rate::{RATE_LEASE, RateAsk, RateStore};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::problem::Problem;

/// The largest burst, and the most requests in a rate's span.
pub const RATE_MAX: u32 = 1_000_000;
/// A lease that lasts less than this was too small, and one that lasts longer than twice this too large.
const LEASE_AIM: Duration = Duration::from_millis(100);

/// How many requests a key may make: in text `100/s`, `600/m` or `1000/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    requests: NonZeroU32,
    span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Span {
    Second,
    Minute,
    Hour,
}

impl Span {
    const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Second => 's',
            Self::Minute => 'm',
            Self::Hour => 'h',
        }
    }
}

impl Rate {
    /// How many in its span.
    pub const fn requests(self) -> NonZeroU32 {
        self.requests
    }

    /// The time in which one request comes back. At least a microsecond.
    pub fn interval(self) -> Duration {
        Duration::from_secs(u64::from(self.span.seconds())) / self.requests.get()
    }
}

/// A text that is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no rate. Write how many requests per second, minute or hour: 100/s, 600/m, 1000/h; at most 1000000")]
pub struct RateError(String);

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let wrong = || RateError(text.to_owned());
        let (requests, span) = text.trim().split_once('/').ok_or_else(wrong)?;
        let span = match span.trim() {
            "s" => Span::Second,
            "m" => Span::Minute,
            "h" => Span::Hour,
            _ => return Err(wrong()),
        };
        let requests: NonZeroU32 = requests.trim().parse().map_err(|_| wrong())?;
        if requests.get() > RATE_MAX {
            return Err(wrong());
        }
        Ok(Self { requests, span })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.requests, self.span.letter())
    }
}

impl TryFrom<String> for Rate {
    type Error = RateError;

    fn try_from(text: String) -> Result<Self, RateError> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

/// A key's rate, and how many requests it may make at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRate {
    /// The rate.
    pub rate: Rate,
    /// At once. At most [`RATE_MAX`].
    pub burst: NonZeroU32,
}

impl KeyRate {
    fn quota(self) -> Option<Quota> {
        Some(Quota::with_period(self.rate.interval())?.allow_burst(self.burst))
    }

    /// In which time a whole burst comes back, in seconds, rounded up.
    fn window_seconds(self) -> u64 {
        seconds_up(self.rate.interval() * self.burst.get())
    }
}

fn seconds_up(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// How a key stands after a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    rate: KeyRate,
    left: u32,
}

impl Standing {
    /// Tells the client, unless it was told already of something later.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
        const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
        if headers.contains_key(LIMIT) {
            return;
        }
        let (burst, window) = (self.rate.burst.get(), self.rate.window_seconds());
        let full_in = seconds_up(self.rate.rate.interval() * burst.saturating_sub(self.left));
        let told = [
            (POLICY, format!("\"key\";q={burst};w={window}")),
            (LIMIT, format!("\"key\";r={};t={full_in}", self.left)),
        ];
        for (name, value) in told {
            // Digits and ASCII letters are always a header's value.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

type Alone = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// The count of one key.
struct Count {
    rate: KeyRate,
    of: Counting,
}

enum Counting {
    /// By this process.
    Alone(Box<Alone>),
    /// Together with other nodes: what was leased and not spent yet.
    Together(tokio::sync::Mutex<Share>),
}

struct Share {
    left: u32,
    /// How many there were for anyone when it was leased.
    elsewhere: u32,
    leased_at: Instant,
    /// How many to lease next.
    next: u32,
}

/// The counts of all keys that have a rate.
#[derive(Default)]
pub(crate) struct Rates {
    counts: Mutex<HashMap<Arc<str>, Arc<Count>>>,
}

impl Rates {
    /// Takes so many requests of what a key may make, or says when it can.
    pub(crate) async fn take(
        &self,
        store: &dyn Store,
        key: &Arc<str>,
        rate: KeyRate,
        wanted: NonZeroU32,
    ) -> Result<Standing, Problem> {
        let requests = wanted.get();
        let count = self.count(key, rate, store.rates().is_some());
        let left = match (&count.of, store.rates()) {
            (Counting::Alone(limiter), _) => match limiter.check_n(wanted) {
                Ok(Ok(snapshot)) => snapshot.remaining_burst_capacity(),
                Ok(Err(until)) => return Err(refused(rate, until.wait_time_from(DefaultClock::default().now()))),
                Err(_) => return Err(too_many(rate, requests)),
            },
            (Counting::Together(share), Some(rates)) => {
                Box::pin(share.lock().await.take(rates, key, rate, requests)).await?
            }
            // A count is made for the store that there is, and a server keeps its store.
            (Counting::Together(_), None) => 0,
        };
        Ok(Standing { rate, left })
    }

    fn count(&self, key: &Arc<str>, rate: KeyRate, together: bool) -> Arc<Count> {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get(key)
            && count.rate == rate
        {
            return count.clone();
        }
        let alone = rate.quota().filter(|_| !together);
        let of = match alone {
            Some(quota) => Counting::Alone(Box::new(RateLimiter::direct(quota).with_middleware())),
            None => Counting::Together(tokio::sync::Mutex::new(Share {
                left: 0,
                elsewhere: 0,
                leased_at: Instant::now(),
                next: 1,
            })),
        };
        let count = Arc::new(Count { rate, of });
        counts.insert(key.clone(), count.clone());
        count
    }
}

impl Share {
    async fn take(&mut self, store: &dyn RateStore, key: &str, rate: KeyRate, requests: u32) -> Result<u32, Problem> {
        let age = self.leased_at.elapsed();
        if age > RATE_LEASE {
            self.left = 0;
        }
        if let Some(left) = self.left.checked_sub(requests) {
            self.left = left;
            return Ok(self.elsewhere.saturating_add(left));
        }
        // A share for about as long as a lease should last, and never so much that the others starve.
        self.next = match age {
            age if age < LEASE_AIM => self.next.saturating_mul(2),
            age if age > LEASE_AIM * 2 => self.next / 2,
            _ => self.next,
        }
        .clamp(1, (rate.burst.get() / 4).max(1));
        let least = requests - self.left;
        let ask = RateAsk {
            name: key.to_owned(),
            interval: rate.rate.interval(),
            burst: rate.burst.get(),
            least,
            most: least.max(self.next),
        };
        let lease = store.lease_rate(&ask).await?;
        if lease.granted == 0 {
            return Err(match lease.retry_after {
                Some(after) => refused(rate, after),
                None => too_many(rate, requests),
            });
        }
        self.left = (self.left + lease.granted).saturating_sub(requests);
        self.elsewhere = lease.left;
        self.leased_at = Instant::now();
        Ok(self.elsewhere.saturating_add(self.left))
    }
}

fn refused(rate: KeyRate, after: Duration) -> Problem {
    let KeyRate { rate, burst } = rate;
    let detail = format!("the API key may make {rate} requests, and {burst} at once");
    Problem::new("rate-limited", detail).after(after)
}

fn too_many(rate: KeyRate, requests: u32) -> Problem {
    let burst = rate.burst;
    let detail =
        format!("each order counts as a request, and the API key may make {burst} at once, not {requests}: send fewer");
    Problem::new("too-large", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_it_is_written() {
        for (text, interval) in [
            ("100/s", Duration::from_millis(10)),
            ("600/m", Duration::from_millis(100)),
            ("1/h", Duration::from_secs(3600)),
            ("1000000/s", Duration::from_micros(1)),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.to_string().as_str(), rate.interval()), (text, interval));
        }
        for wrong in ["", "100", "0/s", "-1/s", "1/d", "1000001/s", "1/s/s", "x/s"] {
            assert_eq!(wrong.parse::<Rate>(), Err(RateError(wrong.to_owned())), "{wrong}");
        }
    }
}
