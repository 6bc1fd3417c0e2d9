//! Signed webhooks: verified by the Standard Webhooks specification, and read as the sender's own JSON or as a CloudEvent
//! (1.0, HTTP binding) in structured or binary mode.

use bytes::Bytes;
use comanda_outbound::{SecretError, Unverified, Verifier};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use jiff::Timestamp;

use crate::message::{Envelope, Message};

/// What a webhook is verified with.
#[derive(Clone)]
pub struct WebhookOptions {
    /// `whsec_…` or `whpk_…`; while a secret is being replaced there are two.
    pub secrets: Vec<String>,
}

impl std::fmt::Debug for WebhookOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WebhookOptions({} secrets)", self.secrets.len())
    }
}

/// Why a request is no message that is believed. Nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// A header that the specification asks for is missing, or is not text.
    #[error("the header `{0}` is missing")]
    Header(&'static str),
    /// The signature, or its time.
    #[error(transparent)]
    Unverified(#[from] Unverified),
}

/// A webhook, ready to verify.
#[derive(Debug)]
pub(crate) struct Webhook(Verifier);

impl Webhook {
    pub(crate) fn new(options: &WebhookOptions) -> Result<Self, SecretError> {
        Verifier::from_secrets(options.secrets.iter().map(String::as_str)).map(Self)
    }

    /// The message that a request carries.
    pub(crate) fn message(&self, headers: &HeaderMap, body: Bytes, now: Timestamp) -> Result<Message, WebhookError> {
        let header = |name: &'static str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value
                .filter(|value| !value.is_empty())
                .ok_or(WebhookError::Header(name))
        };
        let (id, at) = (header("webhook-id")?, header("webhook-timestamp")?);
        self.0
            .verify(id, at, header("webhook-signature")?, &body, now.as_second())?;
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let envelope = if kind.eq_ignore_ascii_case("application/cloudevents+json") {
            Envelope::CloudEvent
        } else if headers.contains_key("ce-specversion") {
            Envelope::Data
        } else {
            Envelope::Plain
        };
        Ok(Message::new(id, body, envelope))
    }
}
