//! `/v1/subscriptions`: who wants which events, how far each has come, and what was sent.

use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::Response;
use comanda_deliver::{DeliverError, Deliveries, Resend, Rotated, SecretKind};
use comanda_engine::Act;
use comanda_store::subscription::{Delivery, EventFilter, Ordering, Progress, Subscription};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::access::Caller;
use crate::keys::Scope;
use crate::listing::Page;
use crate::problem::Problem;
use crate::request::Query;
use crate::respond::{insert, json_response};
use crate::{App, body};

/// The longest that a replaced secret may go on signing.
const KEEP_SECONDS_MAX: u64 = 30 * 24 * 60 * 60;

/// Which events. All that is set must hold; of each list one is enough.
#[derive(Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FilterView {
    /// Of orders of these types.
    #[serde(default)]
    types: Vec<String>,
    /// That lead into one of these statuses.
    #[serde(default)]
    statuses: Vec<String>,
    /// Of these kinds: `comanda.order.accepted` and so on.
    #[serde(default)]
    events: Vec<String>,
    /// Of orders for these customers.
    #[serde(default)]
    customers: Vec<String>,
}

/// A new subscription.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SubscriptionBody {
    /// Where events are sent: an `https` or `http` URL, or `mailto:` with an address.
    url: String,
    /// For people.
    #[serde(default)]
    name: String,
    /// Which events; all unless said.
    #[serde(default)]
    filter: FilterView,
    /// Whether the order, as it stands when the event is sent, goes with it.
    #[serde(default)]
    include: Option<Include>,
    /// How many lanes' events are sent at the same time, from 1 to 64; 8 unless said.
    #[serde(default)]
    concurrency: Option<u32>,
    /// What is sent one after another, each event only when the one before was taken; `lane` unless said.
    #[serde(default)]
    ordering: OrderingView,
    /// Where it begins: with the next event, or with the oldest that is kept.
    #[serde(default)]
    from: Begin,
    /// What is signed with: `hmac` (a shared secret) or `ed25519` (a public key).
    #[serde(default)]
    signature: Signature,
}

/// What is sent one after another.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[schema(as = Ordering)]
#[serde(rename_all = "camelCase")]
pub(crate) enum OrderingView {
    /// The events of all orders of one lane; of an order without a group key, its own.
    #[default]
    Lane,
    /// The events of one order.
    Order,
}

/// What goes with an event.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Include {
    /// The order.
    Order,
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Begin {
    /// With the next event that is committed.
    #[default]
    Newest,
    /// With the oldest event that is kept.
    Oldest,
}

/// What is signed with.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Signature {
    /// HMAC-SHA256 with a shared secret (`whsec_…`).
    #[default]
    Hmac,
    /// Ed25519; the receiver has the public key (`whpk_…`).
    Ed25519,
}

/// A new secret.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RotateBody {
    /// How long the old secret goes on signing beside the new one; a day unless said, at most 30 days.
    #[serde(default)]
    keep_seconds: Option<u64>,
}

/// What to send again: one event, or what is wanted of a time.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ResendBody {
    /// The id of one event.
    #[serde(default)]
    event: Option<String>,
    /// Events recorded at or after this time…
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// …and before this one.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// What will be sent again.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct ResendAnswer {
    /// Events of so many orders.
    orders: usize,
    /// Whether there are more than one call takes: call again with a later `since`.
    more: bool,
}

/// A subscription.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Subscription)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubscriptionView {
    id: String,
    name: String,
    url: String,
    filter: FilterView,
    include: Option<Include>,
    concurrency: u32,
    ordering: OrderingView,
    /// What is signed with; null for e-mail.
    signature: Option<Signature>,
    /// Whether it stands in the server's configuration, where alone it can be changed.
    configured: bool,
    /// `active` or `paused`.
    state: &'static str,
    /// Why it is paused, if it is.
    reason: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    paused_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// The place in the feed up to which everything was sent or has failed. Only where one subscription is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    /// Of how many orders events wait to be sent again. Only where one subscription is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_orders: Option<usize>,
    /// What to verify signatures with: the secret, or the public key. Only where it was just made: it is never told
    /// again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// One try to send one event.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeliveryView {
    /// The event's id.
    event: String,
    /// The event's type.
    #[serde(rename = "type")]
    kind: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// How often it has been tried with this one.
    attempt: u32,
    took_ms: u64,
    delivered: bool,
    /// The HTTP status, if there was an answer.
    status: Option<u16>,
    /// Why it was not taken.
    reason: Option<String>,
}

impl From<Delivery> for DeliveryView {
    fn from(one: Delivery) -> Self {
        Self {
            event: one.event,
            kind: one.event_type,
            at: one.at,
            attempt: one.attempt,
            took_ms: one.took_ms,
            delivered: one.delivered,
            status: one.status,
            reason: one.reason,
        }
    }
}

impl SubscriptionView {
    fn new(subscription: Subscription) -> Self {
        let EventFilter {
            types,
            statuses,
            events,
            customers,
        } = subscription.filter;
        let is_asymmetric = subscription.secrets.iter().any(|one| one.secret.starts_with("whsk_"));
        let (paused_at, reason) = subscription.paused.map(|paused| (paused.at, paused.reason)).unzip();
        Self {
            id: subscription.id,
            name: subscription.name,
            url: subscription.url,
            filter: FilterView {
                types,
                statuses,
                events,
                customers,
            },
            include: subscription.include_order.then_some(Include::Order),
            concurrency: subscription.concurrency,
            ordering: match subscription.ordering {
                Ordering::Lane => OrderingView::Lane,
                Ordering::Order => OrderingView::Order,
            },
            signature: match is_asymmetric {
                _ if subscription.secrets.is_empty() => None,
                true => Some(Signature::Ed25519),
                false => Some(Signature::Hmac),
            },
            configured: subscription.configured,
            state: if paused_at.is_some() { "paused" } else { "active" },
            reason,
            paused_at,
            created_at: subscription.created_at,
            cursor: None,
            failing_orders: None,
            secret: None,
        }
    }

    fn told(rotated: Rotated) -> Self {
        Self {
            secret: rotated.verify_with,
            ..Self::new(rotated.subscription)
        }
    }
}

impl From<DeliverError> for Problem {
    fn from(error: DeliverError) -> Self {
        let detail = error.to_string();
        match error {
            DeliverError::Unknown(_) => Self::new("unknown-subscription", detail),
            DeliverError::Configured(_) => Self::new("subscription-configured", detail),
            DeliverError::Invalid(_) => Self::new("invalid-request", detail),
            DeliverError::Refused(_) => Self::new("address-refused", detail),
            DeliverError::Secret(_) | DeliverError::Seal(_) | DeliverError::Client(_) => Self::new("internal", detail),
            DeliverError::Store(error) => error.into(),
        }
    }
}

/// A subscription as the audit log keeps it. A URL can carry a secret behind its path, or before its host.
fn told(subscription: &Subscription) -> serde_json::Value {
    let mut view = SubscriptionView::new(subscription.clone());
    let url = view.url.split(['?', '#']).next().unwrap_or_default();
    view.url = match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    };
    serde_json::json!(view)
}

impl App {
    /// Changes a subscription, with its entry in the audit log.
    async fn change_one<T>(
        &self,
        caller: &Caller,
        action: &'static str,
        id: &str,
        change: impl Future<Output = Result<T, Problem>>,
        after: impl FnOnce(&T) -> Option<serde_json::Value>,
    ) -> Result<T, Problem> {
        let (before, _) = self.deliveries()?.get(id).await?;
        let subject = format!("subscription:{id}");
        self.audited(caller, action, subject, Some(told(&before)), change, after)
            .await
    }

    fn deliveries(&self) -> Result<&Deliveries, Problem> {
        let none = || Problem::new("not-supported", "this server keeps no subscriptions");
        self.options.deliveries.as_ref().ok_or_else(none)
    }
}

/// Reads a body that may be left out.
pub(crate) async fn read<T: serde::de::DeserializeOwned>(app: &App, request: Request) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    // What may be left out altogether is an empty object.
    body::parse(if bytes.is_empty() { b"{}" } else { &bytes })
}

pub(crate) async fn list(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let all = app.deliveries()?.list().await?;
    let items: Vec<_> = all.into_iter().map(SubscriptionView::new).collect();
    Ok(json_response(StatusCode::OK, &serde_json::json!({"items": items})))
}

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let asked: SubscriptionBody = read(&app, request).await?;
    let filter = EventFilter {
        types: asked.filter.types,
        statuses: asked.filter.statuses,
        events: asked.filter.events,
        customers: asked.filter.customers,
    };
    let request = comanda_deliver::Request {
        name: asked.name,
        url: asked.url,
        filter,
        include_order: asked.include.is_some(),
        concurrency: asked.concurrency.unwrap_or(8),
        ordering: match asked.ordering {
            OrderingView::Lane => Ordering::Lane,
            OrderingView::Order => Ordering::Order,
        },
        from_oldest: asked.from == Begin::Oldest,
        secret: match asked.signature {
            Signature::Hmac => SecretKind::Symmetric,
            Signature::Ed25519 => SecretKind::Asymmetric,
        },
    };
    let deliveries = app.deliveries()?;
    let act = Act {
        by: caller.by.clone(),
        action: "subscription.created",
        // Its id is given when it is made.
        subject: "subscription:new".to_owned(),
        before: None,
    };
    let mut begun = app.service.begin_act(act).await?;
    let made = deliveries.create(request).await.map_err(Problem::from);
    let ended = match &made {
        Ok(made) => {
            begun.name(format!("subscription:{}", made.subscription.id));
            Ok(Some(told(&made.subscription)))
        }
        Err(problem) => Err(problem.code.to_owned()),
    };
    app.service.end_act(begun, ended).await;
    let made = SubscriptionView::told(made?);
    let mut response = json_response(StatusCode::CREATED, &made);
    insert(
        response.headers_mut(),
        LOCATION,
        &format!("/v1/subscriptions/{}", made.id),
    );
    Ok(response)
}

pub(crate) async fn one(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let (subscription, progress) = app.deliveries()?.get(&id).await?;
    let (cursor, failing_orders) = progress
        .map(|Progress { cursor, exceptions }| (cursor.to_string(), exceptions.len()))
        .unzip();
    let view = SubscriptionView {
        cursor,
        failing_orders,
        ..SubscriptionView::new(subscription)
    };
    Ok(json_response(StatusCode::OK, &view))
}

pub(crate) async fn remove(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.needs(Scope::Operate)?;
    let deliveries = app.deliveries()?;
    let change = async { Ok(deliveries.remove(&id).await?) };
    app.change_one(&caller, "subscription.deleted", &id, change, |()| None)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn pause(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let reason = format!("paused by {}", caller.by);
    let deliveries = app.deliveries()?;
    let change = async { Ok(deliveries.pause(&id, reason).await?) };
    let after = |now: &Subscription| Some(told(now));
    let subscription = app
        .change_one(&caller, "subscription.paused", &id, change, after)
        .await?;
    Ok(json_response(StatusCode::OK, &SubscriptionView::new(subscription)))
}

pub(crate) async fn resume(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let deliveries = app.deliveries()?;
    let change = async { Ok(deliveries.resume(&id).await?) };
    let after = |now: &Subscription| Some(told(now));
    let subscription = app
        .change_one(&caller, "subscription.resumed", &id, change, after)
        .await?;
    Ok(json_response(StatusCode::OK, &SubscriptionView::new(subscription)))
}

pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let asked: RotateBody = read(&app, request).await?;
    if asked.keep_seconds.is_some_and(|keep| keep > KEEP_SECONDS_MAX) {
        let detail = format!("`keepSeconds` must be at most {KEEP_SECONDS_MAX}");
        return Err(Problem::new("invalid-request", detail));
    }
    let keep = asked.keep_seconds.map(Duration::from_secs);
    let deliveries = app.deliveries()?;
    let change = async { Ok(deliveries.rotate(&id, keep).await?) };
    let after = |rotated: &Rotated| Some(told(&rotated.subscription));
    let rotated = app
        .change_one(&caller, "subscription.secret-rotated", &id, change, after)
        .await?;
    Ok(json_response(StatusCode::OK, &SubscriptionView::told(rotated)))
}

pub(crate) async fn resend(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let asked: ResendBody = read(&app, request).await?;
    let resend = match (asked.event, asked.since) {
        (Some(event), None) => Resend::Event(event),
        (None, Some(since)) => Resend::Range(since, asked.until),
        _ => {
            let detail = "name either `event`, or `since` and perhaps `until`";
            return Err(Problem::new("invalid-request", detail));
        }
    };
    let deliveries = app.deliveries()?;
    let change = async {
        let resent = deliveries.resend(&id, resend).await?;
        Ok(ResendAnswer {
            orders: resent.orders,
            more: resent.more,
        })
    };
    let after = |answer: &ResendAnswer| Some(serde_json::json!({"orders": answer.orders}));
    let answer = app
        .change_one(&caller, "subscription.resent", &id, change, after)
        .await?;
    Ok(json_response(StatusCode::ACCEPTED, &answer))
}

pub(crate) async fn deliveries(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let mut query = Query::parse(request.uri().query());
    let limit = query.take_limit()?;
    let before = query.take_parsed::<u64>("cursor", "what an earlier page gave you")?;
    query.end()?;
    let log = app
        .deliveries()?
        .deliveries(&id, before.unwrap_or(u64::MAX), limit)
        .await?;
    let next_cursor = log
        .last()
        .filter(|_| log.len() == limit)
        .map(|last| last.number.to_string());
    let items: Vec<DeliveryView> = log.into_iter().map(DeliveryView::from).collect();
    Ok(Page { items, next_cursor }.respond(request.uri()))
}
