//! `/v1/customers`: the customers that Comanda keeps itself.

use std::sync::Arc;

use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use comanda_builtin::customers::{Customer, CustomerError, Customers};
use serde::Deserialize;
use serde_json::json;

use crate::access::Caller;
use crate::keys::Scope;
use crate::listing::Page;
use crate::problem::Problem;
use crate::request::Query;
use crate::respond::json_response;
use crate::{App, body};

/// A customer to register, or to replace.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CustomerBody {
    /// Who it is, as orders name it.
    id: String,
    /// The name.
    #[serde(default)]
    name: String,
    /// Whether orders are paid for in advance.
    #[serde(default)]
    prepaid: bool,
}

/// A customer.
#[derive(utoipa::ToSchema)]
#[schema(as = Customer)]
#[expect(
    dead_code,
    reason = "only its description is used; the answer is `comanda_builtin`'s"
)]
pub(crate) struct CustomerView {
    id: String,
    name: String,
    /// Whether its orders are refused.
    blocked: bool,
    /// Whether its orders are paid for in advance.
    prepaid: bool,
}

impl From<CustomerError> for Problem {
    fn from(error: CustomerError) -> Self {
        let detail = error.to_string();
        match error {
            CustomerError::Unknown(_) => Self::new("unknown-customer", detail),
            CustomerError::Invalid(_) => Self::new("invalid-request", detail),
            CustomerError::Busy => Self::new("busy", detail),
            CustomerError::Store(error) => error.into(),
        }
    }
}

fn customers(app: &App) -> Customers {
    Customers::new(Arc::clone(app.service.store()))
}

impl App {
    /// Changes a customer, with its entry in the audit log.
    async fn change_customer(
        &self,
        caller: &Caller,
        action: &'static str,
        id: &str,
        change: impl Future<Output = Result<Customer, Problem>>,
    ) -> Result<Response, Problem> {
        let before = match customers(self).find(id).await {
            Ok(customer) => Some(json!(customer)),
            Err(CustomerError::Unknown(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let after = |customer: &Customer| Some(json!(customer));
        let subject = format!("customer:{id}");
        let customer = self.audited(caller, action, subject, before, change, after).await?;
        Ok(answer(&customer))
    }
}

fn answer(customer: &Customer) -> Response {
    json_response(StatusCode::OK, customer)
}

pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let mut query = Query::parse(request.uri().query());
    let (limit, cursor) = (query.take_limit()?, query.take("cursor"));
    query.end()?;
    let items = customers(&app).list(cursor.as_deref(), limit).await?;
    let next_cursor = items.last().filter(|_| items.len() == limit).map(|one| one.id.clone());
    Ok(Page { items, next_cursor }.respond(request.uri()))
}

pub(crate) async fn register(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let (parts, body) = request.into_parts();
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let body: CustomerBody = body::parse(&bytes)?;
    let customer = Customer {
        id: body.id,
        name: body.name,
        blocked: false,
        prepaid: body.prepaid,
    };
    let (customers, id) = (customers(&app), customer.id.clone());
    let change = async { Ok(customers.register(customer).await?) };
    app.change_customer(&caller, "customer.registered", &id, change).await
}

pub(crate) async fn one(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    Ok(answer(&customers(&app).find(&id).await?))
}

pub(crate) async fn block(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let customers = customers(&app);
    let change = async { Ok(customers.set_blocked(&id, true).await?) };
    app.change_customer(&caller, "customer.blocked", &id, change).await
}

pub(crate) async fn unblock(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let customers = customers(&app);
    let change = async { Ok(customers.set_blocked(&id, false).await?) };
    app.change_customer(&caller, "customer.unblocked", &id, change).await
}
