//! Keeps calls away from addresses that only the inside of a network should reach.
//!
//! A URL that someone else may choose must not make this process a way into the network that it stands in, or to the
//! credentials that clouds hand out at a link-local address. The check is made on the address that is connected to,
//! and not on the name: a name can resolve to another address a moment later (DNS rebinding). Three doors are closed
//! together by [`Guard::apply`]: names (its resolver answers public addresses only), redirects (never followed) and
//! proxies of the environment (they would connect in our place). An address that stands in the URL itself is never
//! resolved, so it needs [`Guard::check`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::ClientBuilder;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Why a call was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The address is not one of the public internet.
    #[error("`{host}` leads to {address}, which is no public address; only the operator may point a call there")]
    Private {
        /// The host as it was written.
        host: String,
        /// Where it leads.
        address: IpAddr,
    },
    /// Something other than `http` and `https`.
    #[error("`{0}:` is not called; use https or http")]
    Scheme(String),
    /// There is no host.
    #[error("the URL names no host")]
    NoHost,
    /// User and password in a URL end in logs.
    #[error("a URL must not carry a user or a password")]
    Credentials,
}

/// How names become addresses.
pub trait Lookup: Send + Sync + 'static {
    /// The addresses of a host. Asked once for each connection; the connection goes to what was answered.
    fn lookup(&self, host: &str) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
}

/// The system's way.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: &str) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), 0)).await?.collect()) })
    }
}

/// Answers public addresses only.
struct Checked(Arc<dyn Lookup>);

/// Refuses everything that is not of the public internet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guard;

impl Guard {
    /// Checks what can be told without a look-up: the scheme, credentials, and a host that is an address. Must be
    /// called with each URL before it is called, because an address is never resolved.
    pub fn check(url: &Url) -> Result<(), Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        let address = match url.host().ok_or(Refused::NoHost)? {
            Host::Domain(_) => return Ok(()),
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
        };
        if is_public(address) {
            return Ok(());
        }
        Err(Refused::Private {
            host: url.host_str().unwrap_or_default().to_owned(),
            address,
        })
    }

    /// Makes a client refuse what is not public: by its resolver, without redirects, without a proxy.
    pub fn apply(builder: ClientBuilder) -> ClientBuilder {
        Self::apply_over(builder, Arc::new(SystemLookup))
    }

    /// The same over another way to look names up.
    pub fn apply_over(builder: ClientBuilder, lookup: Arc<dyn Lookup>) -> ClientBuilder {
        builder
            .dns_resolver(Arc::new(Checked(lookup)))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
    }

    /// Finds in the chain of a client's error that it was this guard that refused.
    pub fn refusal<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Refused> {
        let mut next: Option<&'e (dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(refused) = error.downcast_ref::<Refused>() {
                return Some(refused);
            }
            next = error.source();
        }
        None
    }
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let lookup = self.0.lookup(name.as_str());
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = lookup.await?;
            // One that is not public taints the name: who mixes them hopes that the other one is tried.
            if let Some(private) = found.iter().find(|address| !is_public(address.ip())) {
                let address = private.ip();
                return Err(Refused::Private { host, address }.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the public internet (IANA's special-purpose registries, RFC 6890 and later).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = a == 0
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        // Carrier-grade NAT (RFC 6598).
        || (a == 100 && b & 0xc0 == 64)
        // IETF protocol assignments, and the relays of 6to4.
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        // Benchmarking (RFC 2544).
        || (a == 198 && b & 0xfe == 18)
        // Multicast, reserved, broadcast.
        || a >= 224;
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let s = address.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    // Translators take these to the IPv4 address that they carry (RFC 6052).
    if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        return is_public_v4(embedded(s[6], s[7]));
    }
    // 6to4 (RFC 3056).
    if s[0] == 0x2002 {
        return is_public_v4(embedded(s[1], s[2]));
    }
    let is_global_unicast = s[0] & 0xe000 == 0x2000;
    // Protocol assignments with Teredo and ORCHID, and documentation.
    let is_special = match s[0] {
        0x2001 => s[1] < 0x200 || s[1] == 0xdb8,
        0x3fff => s[1] < 0x1000,
        _ => false,
    };
    is_global_unicast && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "100::1",
            "3fff::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "223.255.255.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::",
            "2001:4860:4860::8888",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn an_address_in_the_url_is_checked_in_every_way_of_writing_it() {
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://017700000001/",
            "http://[::1]/",
            "http://[::ffff:169.254.169.254]/",
            "https://10.0.0.1:8443/x",
        ] {
            let refused = Guard::check(&Url::parse(url).unwrap());
            assert!(matches!(refused, Err(Refused::Private { .. })), "{url}: {refused:?}");
        }
        assert_eq!(Guard::check(&Url::parse("https://example.com/").unwrap()), Ok(()));
        assert_eq!(Guard::check(&Url::parse("https://1.1.1.1/").unwrap()), Ok(()));
        let credentials = Guard::check(&Url::parse("https://a:b@example.com/").unwrap());
        assert_eq!(credentials, Err(Refused::Credentials));
        let scheme = Guard::check(&Url::parse("ftp://example.com/").unwrap());
        assert_eq!(scheme, Err(Refused::Scheme("ftp".to_owned())));
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused_and_nothing_is_connected() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = Guard::apply(reqwest::Client::builder()).build().unwrap();
        let error = client
            .get(format!("http://localhost:{port}/"))
            .send()
            .await
            .unwrap_err();
        let refused = Guard::refusal(&error).unwrap();
        assert!(
            matches!(refused, Refused::Private { host, .. } if host == "localhost"),
            "{refused}"
        );
        let connected = std::pin::pin!(listener.accept());
        let waker = std::task::Waker::noop();
        let poll = Future::poll(connected, &mut std::task::Context::from_waker(waker));
        assert!(poll.is_pending(), "something was connected");
    }

    /// A name server that gives its answers one after the other, the last one for ever.
    struct Turning {
        answers: Vec<Vec<SocketAddr>>,
        asked: Arc<std::sync::atomic::AtomicUsize>,
    }

    impl Lookup for Turning {
        fn lookup(&self, _: &str) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
            let at = self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let answer = self.answers[at.min(self.answers.len() - 1)].clone();
            Box::pin(async move { Ok(answer) })
        }
    }

    #[tokio::test]
    async fn a_name_that_changes_its_address_is_looked_up_once_and_checked_each_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let inside: SocketAddr = "127.0.0.1:0".parse().unwrap();
        // A public address at which nobody answers us: what matters is that nothing else is tried in its place.
        let public: SocketAddr = "192.31.196.1:0".parse().unwrap();
        for answers in [
            vec![vec![public], vec![inside]],
            vec![vec![inside], vec![public], vec![inside]],
            vec![vec![public, inside]],
            vec![vec!["[::ffff:127.0.0.1]:0".parse().unwrap()]],
            vec![vec!["[64:ff9b::7f00:1]:0".parse().unwrap()]],
            vec![vec!["0.0.0.0:0".parse().unwrap()]],
        ] {
            let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let lookup = Turning {
                answers: answers.clone(),
                asked: asked.clone(),
            };
            let builder = reqwest::Client::builder().connect_timeout(std::time::Duration::from_millis(100));
            let client = Guard::apply_over(builder, Arc::new(lookup)).build().unwrap();
            for call in 1..=3 {
                let answer = client.get(format!("http://shop.test:{port}/")).send().await;
                let error = answer.unwrap_err();
                assert_eq!(
                    asked.load(std::sync::atomic::Ordering::SeqCst),
                    call,
                    "one look-up each"
                );
                let answered = &answers[(call - 1).min(answers.len() - 1)];
                let all_public = answered.iter().all(|address| is_public(address.ip()));
                assert_eq!(Guard::refusal(&error).is_none(), all_public, "{answered:?}: {error:?}");
            }
        }
        let connected = std::pin::pin!(listener.accept());
        let waker = std::task::Waker::noop();
        let poll = Future::poll(connected, &mut std::task::Context::from_waker(waker));
        assert!(poll.is_pending(), "something was connected");
    }
}
