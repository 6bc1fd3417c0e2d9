//! E-mail: an event as a message in the reader's language, to an address that stands in a subscription's URL
//! (`mailto:ops@shop.example`, RFC 6068) or, for the customer's notices (`mailto:`), in the order's data.
//!
//! A reply that is a no for good (5xx) concerns one message: it stands in the log, and the subscription goes on. One that
//! says "later" (4xx) is tried again by the schedule. Only a server that is not there, or lets us not in, is down.

mod customer;
mod message;
mod notices;
mod options;
mod templates;
mod transport;

use std::sync::Arc;
use std::time::Instant;

use comanda_engine::{CommandError, Service};
use comanda_model::{Event, OrderId};
use lettre::Address;
use serde_json::json;

pub use customer::{Told, language};
pub(crate) use notices::wants as notifies;
pub use options::{MailError, MailOptions, MailTls};

use crate::event::CloudEvent;
use crate::target::{Outcome, Tried};
use message::Letter;
use templates::Templates;
use transport::Transport;

/// How the URL of a subscription begins that is sent by e-mail.
pub(crate) const MAILTO: &str = "mailto:";
/// The id of the subscription that tells customers of their orders.
pub const NOTICES: &str = "customer-notices";

/// What sends e-mail.
#[derive(Debug)]
pub struct Mail {
    transport: Transport,
    templates: Templates,
    language: Arc<str>,
}

impl Mail {
    /// Sets it up. The server is not asked yet: one that is down now is tried when there is something to send.
    ///
    /// # Errors
    /// An address, a certificate or a template that cannot be read.
    pub fn new(options: MailOptions) -> Result<Self, MailError> {
        Ok(Self {
            templates: Templates::load(options.templates.as_deref())?,
            language: options.language.as_str().into(),
            transport: Transport::new(options)?,
        })
    }

    /// Sends an event to an address that a subscription names: all that the event says.
    pub(crate) async fn send(
        &self,
        service: &Service,
        to: &str,
        subscription: &str,
        order: OrderId,
        event: &CloudEvent,
    ) -> Result<Tried, CommandError> {
        let begun = Instant::now();
        let Ok(address) = to.parse::<Address>() else {
            let reason = format!("`{to}` is no e-mail address");
            return Ok(Tried::new(Outcome::Refused(reason), begun));
        };
        let view = service.find(order).await?.map(|found| found.view(service.now()));
        let context = json!({"event": event, "order": view});
        let names = [event.kind.to_owned(), "event".to_owned()];
        Ok(self
            .post(
                address,
                &names,
                &self.language,
                &context,
                (&event.id, subscription),
                begun,
            )
            .await)
    }

    /// Sends an event that is about a subscription itself.
    pub(crate) async fn send_own(&self, to: &str, subscription: &str, event: &serde_json::Value) -> Tried {
        let begun = Instant::now();
        let Ok(address) = to.parse::<Address>() else {
            let reason = format!("`{to}` is no e-mail address");
            return Tried::new(Outcome::Refused(reason), begun);
        };
        let context = json!({"event": event, "order": null});
        let id = event["id"].as_str().unwrap_or_default();
        let names = ["event".to_owned()];
        self.post(address, &names, &self.language, &context, (id, subscription), begun)
            .await
    }

    /// Tells an order's customer of an event, if the type says so and the data says where.
    pub(crate) async fn notify(&self, service: &Service, order: OrderId, event: &Event) -> Result<Tried, CommandError> {
        let begun = Instant::now();
        let unwanted = || Ok(Tried::new(Outcome::Unwanted, begun));
        let Some(found) = service.find(order).await? else {
            return unwanted();
        };
        let order_type = &found.definition.order_type;
        let Some(place) = order_type.notify.as_ref().filter(|_| notices::wants(order_type, event)) else {
            return unwanted();
        };
        // Data that is no JSON was never accepted.
        let data = found.shown().value().unwrap_or_default();
        let text = |pointer: &str| data.pointer(pointer).and_then(serde_json::Value::as_str);
        let Some(to) = text(&place.email).filter(|to| !to.trim().is_empty()) else {
            metrics::counter!("comanda_notices_without_address_total", "order_type" => order_type.name.to_string())
                .increment(1);
            return unwanted();
        };
        let Ok(address) = to.trim().parse::<Address>() else {
            let reason = format!("{} holds no e-mail address", place.email);
            return Ok(Tried::new(Outcome::Refused(reason), begun));
        };
        let language = language(order_type, &data);
        let told = Told::new(order_type, event, language);
        let context = json!({
            "order": {
                "id": order, "reference": found.stored.order.accepted.key.clone().unwrap_or_else(|| order.to_string()),
                "type": order_type.name, "data": data, "acceptedAt": found.stored.order.accepted.at,
            },
            "event": {"id": format!("{order}:{}", event.number), "type": event.kind.wire_name(), "at": event.at},
            "status": event.to, "reason": told.reason, "step": told.step,
        });
        let kind = notices::template(event);
        let mut names = vec![format!("{}.{kind}", order_type.name), kind.to_owned()];
        if let Some(status) = event.to.as_deref() {
            names.insert(0, format!("{}.{status}", order_type.name));
        }
        let id = format!("{order}:{}", event.number);
        Ok(self
            .post(address, &names, language, &context, (&id, NOTICES), begun)
            .await)
    }

    async fn post(
        &self,
        to: Address,
        names: &[String],
        language: &str,
        context: &serde_json::Value,
        (event, subscription): (&str, &str),
        begun: Instant,
    ) -> Tried {
        let rendered = match self.templates.render(names, language, context) {
            Ok(rendered) => rendered,
            // A template can be mended: what is written with it is tried again.
            Err(error) => return Tried::new(Outcome::failed_alone(error.to_string()), begun),
        };
        let letter = Letter {
            to,
            event,
            subscription,
            language,
            rendered,
        };
        self.transport.send(letter, begun).await
    }
}
