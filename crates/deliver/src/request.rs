//! What can be asked for when a subscription is made, and whether it makes sense.

use comanda_model::EventKind;
use comanda_outbound::{Guard, Refused, SecretError, Signer};
use comanda_store::NoticeKind;
use comanda_store::subscription::{EventFilter, Ordering, Subscription};
use url::Url;

use crate::error::DeliverError;
use crate::mail::MAILTO;
use crate::service::Options;

/// A subscription that the configuration names.
#[derive(Clone, Debug)]
pub struct Configured {
    /// Its name, which is its id.
    pub name: String,
    /// What is asked for.
    pub request: Request,
    /// The secret that is signed with; none for e-mail.
    pub secret: Option<String>,
}

/// What a new subscription is to be.
#[derive(Clone, Debug)]
pub struct Request {
    /// For people.
    pub name: String,
    /// Where events are sent: a URL, or `mailto:` with an address.
    pub url: String,
    /// Which events.
    pub filter: EventFilter,
    /// Whether the order goes with each event.
    pub include_order: bool,
    /// How many orders' events are sent at the same time, from 1 to 64.
    pub concurrency: u32,
    /// What is sent one after another.
    pub ordering: Ordering,
    /// Whether it begins with the oldest event that is kept, instead of with the next one.
    pub from_oldest: bool,
    /// What kind of secret is made.
    pub secret: SecretKind,
}

/// What is signed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretKind {
    /// HMAC-SHA256, with a secret that both sides know.
    #[default]
    Symmetric,
    /// Ed25519: the receiver needs only the public key.
    Asymmetric,
}

/// A subscription with a secret that was just made: the only time that it is told.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// The subscription.
    pub subscription: Subscription,
    /// What the receiver verifies with: the secret, or the public key. None for e-mail.
    pub verify_with: Option<String>,
}

pub(crate) fn make_secret(kind: SecretKind) -> Result<(String, String), SecretError> {
    match kind {
        SecretKind::Symmetric => {
            let secret = Signer::symmetric_secret()?;
            Ok((secret.clone(), secret))
        }
        SecretKind::Asymmetric => {
            let secret = Signer::asymmetric_secret()?;
            let public = Signer::from_secret(&secret)?.public_key().ok_or(SecretError::Prefix)?;
            Ok((secret, public))
        }
    }
}

/// Whether what is asked for makes sense, wherever it leads.
/// Whether there is an event of this name, as its CloudEvents `type` has it.
pub fn is_event(name: &str) -> bool {
    let of_orders = EventKind::ALL.iter().map(|kind| kind.wire_name());
    let mut all = of_orders.chain(NoticeKind::ALL.iter().map(|kind| kind.wire_name()));
    all.any(|known| known == name)
}

pub(crate) fn check(request: &Request, options: &Options) -> Result<Url, DeliverError> {
    let invalid = |text: String| Err(DeliverError::Invalid(text));
    let url = match Url::parse(&request.url) {
        Ok(url) => url,
        Err(error) => return invalid(format!("`{}` is no URL: {error}", request.url)),
    };
    if let Some(address) = request.url.strip_prefix(MAILTO) {
        if address.parse::<lettre::Address>().is_err() {
            return invalid(format!(
                "`{address}` is no e-mail address; write mailto:ops@shop.example"
            ));
        }
        if options.mail.is_none() {
            return invalid("no mail server is set up: [mail] in comanda.toml".to_owned());
        }
    }
    match Guard::check(&url) {
        _ if url.scheme() == "mailto" => {}
        Ok(()) | Err(Refused::Private { .. }) => {}
        Err(refused) => return Err(refused.into()),
    }
    if !(1..=64).contains(&request.concurrency) {
        return invalid("`concurrency` must be from 1 to 64".to_owned());
    }
    if request.name.len() > 200 || request.url.len() > 2000 {
        return invalid("`name` has at most 200 characters, `url` at most 2,000".to_owned());
    }
    let filter = &request.filter;
    for list in [&filter.types, &filter.statuses, &filter.events, &filter.customers] {
        if list.len() > 100 || list.iter().any(|entry| entry.len() > 300) {
            return invalid("a filter has at most 100 entries of at most 300 characters".to_owned());
        }
    }
    if let Some(unknown) = filter.events.iter().find(|name| !is_event(name)) {
        return invalid(format!("there is no event `{unknown}`"));
    }
    Ok(url)
}
