//! Erasing what orders know of a customer, and handing a customer everything that is known.

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use comanda_deliver::{AttemptView, CloudEvent};
use comanda_engine::Task;
use comanda_model::OrderId;
use comanda_order_type::Fault;
use comanda_store::{ListQuery, StoreError, Stored};
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::access::Caller;
use crate::keys::Scope;
use crate::orders::order_id;
use crate::problem::Problem;
use crate::respond::json_response;
use crate::{App, body};

/// How many orders, events or attempts of an export are read at once.
const PAGE: usize = 100;

/// How a customer's orders are erased.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct EraseBody {
    /// Cancel orders that are not final (discard dead letters), and erase them when they are. Without it they are refused.
    cancel_first: bool,
    /// Only tell what would be done.
    dry_run: bool,
}

/// What there is to erase of a customer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ErasableView {
    customer: String,
    /// How many orders name the customer.
    orders: u64,
    /// How many of them are not final.
    not_final: u64,
    /// Some of those, at most 100.
    not_final_orders: Vec<NotFinalView>,
    dry_run: bool,
}

/// An order that is not final.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NotFinalView {
    #[schema(value_type = String)]
    order_id: OrderId,
    status: String,
}

pub(crate) async fn order(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let found = app.service.erase(order_id(&id)?, caller.by).await?;
    Ok(app.order_response(StatusCode::OK, &found))
}

pub(crate) async fn customer(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(customer): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let (parts, body) = request.into_parts();
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let asked: EraseBody = match bytes.trim_ascii() {
        [] => EraseBody::default(),
        text => body::parse(text)?,
    };
    if !app.service.store().capabilities().erasure {
        return Err(Problem::new("not-supported", "this store cannot erase orders"));
    }
    let erasable = app.service.erasable(&customer).await?;
    if asked.dry_run {
        let named = erasable.named.into_iter().map(|(order_id, status)| NotFinalView {
            order_id,
            status: status.to_string(),
        });
        let view = ErasableView {
            customer,
            orders: erasable.orders,
            not_final: erasable.not_final,
            not_final_orders: named.collect(),
            dry_run: true,
        };
        return Ok(json_response(StatusCode::OK, &view));
    }
    if erasable.not_final > 0 && !asked.cancel_first {
        let detail = format!(
            "{} of the customer's {} orders are not final; `cancelFirst` cancels them",
            erasable.not_final, erasable.orders
        );
        let errors = erasable.named.into_iter().map(|(id, status)| Fault {
            pointer: format!("/v1/orders/{id}"),
            code: "not-final".to_owned(),
            detail: format!("stands in `{status}`"),
        });
        return Err(Problem {
            errors: errors.collect(),
            ..Problem::new("order-not-final", detail)
        });
    }
    let task = Task::Erase {
        customer,
        cancel_first: asked.cancel_first,
    };
    app.start_job(task, &caller).await
}

/// Everything that is known of a customer, one JSON object a line: the customer's record, then each order with its events
/// and attempts.
pub(crate) async fn export(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(customer): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    // Nothing is changed, but someone has everything then.
    let subject = format!("customer:{customer}");
    app.audited(&caller, "customer.exported", subject, None, async { Ok(()) }, |()| None)
        .await?;
    let record = match app.service.store().capabilities().ledger {
        true => {
            app.service
                .store()
                .record(comanda_engine::CUSTOMER_RECORDS, &customer)
                .await?
        }
        false => None,
    };
    let record = record.map(|record| Ok(line("customer", &json!(record.value))));
    let query = ListQuery {
        customer: Some(customer),
        limit: PAGE,
        ..ListQuery::default()
    };
    let orders = pages(app.clone(), query).then(move |stored| {
        let app = app.clone();
        async move {
            match stored {
                Ok(stored) => lines_of(&app, stored).await,
                Err(error) => Err(error),
            }
        }
    });
    // A failure in the middle breaks the connection off: what came must not pass for everything.
    let lines = stream::iter(record).chain(orders).map(|line| line.map(Bytes::from));
    let mut response = Response::new(Body::from_stream(lines));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// A customer's orders, newest first.
fn pages(app: App, query: ListQuery) -> impl Stream<Item = Result<Stored, StoreError>> {
    stream::try_unfold(Some(query), move |query| {
        let app = app.clone();
        async move {
            let Some(mut query) = query else { return Ok(None) };
            let page = app.service.store().list(&query).await?;
            let next = page.next.map(|next| {
                query.cursor = Some(next);
                query
            });
            Ok(Some((stream::iter(page.orders.into_iter().map(Ok)), next)))
        }
    })
    .flat_map(|page| match page {
        Ok(orders) => orders.left_stream(),
        Err(error) => stream::iter([Err(error)]).right_stream(),
    })
}

async fn lines_of(app: &App, stored: Stored) -> Result<String, StoreError> {
    let store = app.service.store();
    let id = stored.order.id();
    let order_type = stored.order.accepted.order_type.clone();
    let found = app
        .service
        .found(stored)
        .await
        .map_err(|error| StoreError::failed("read an order's type", error))?;
    let mut lines = line("order", &json!(found.view(app.service.now())));
    let mut after = 0;
    loop {
        let events = store.history(id, after, PAGE).await?;
        let Some(last) = events.last() else { break };
        after = last.number;
        for event in events {
            lines.push_str(&line("event", &json!(CloudEvent::new(id, order_type.clone(), event))));
        }
    }
    let mut after = 0;
    loop {
        let attempts = store.attempts(id, after, PAGE).await?;
        let Some(last) = attempts.last() else { break };
        after = last.number;
        for attempt in attempts {
            let mut view = json!(AttemptView::from(attempt));
            view["orderId"] = json!(id);
            lines.push_str(&line("attempt", &view));
        }
    }
    Ok(lines)
}

/// One line: an object with what it is as its only member.
fn line(what: &str, value: &Value) -> String {
    format!("{{\"{what}\":{value}}}\n")
}
