//! `/v1/sandbox`: the books of the sandboxes that take payments and carry parcels until services of one's own are named.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use comanda_builtin::payments::Sandbox;
use comanda_builtin::shipments::CarrierSandbox;
use comanda_builtin::{SandboxEntry, SandboxError};

use crate::App;
use crate::access::Caller;
use crate::keys::Scope;
use crate::listing::Page;
use crate::orders::order_id;
use crate::problem::Problem;
use crate::request::Query;

impl From<SandboxError> for Problem {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Busy => Self::new("busy", error.to_string()),
            SandboxError::Store(error) => error.into(),
        }
    }
}

pub(crate) async fn payments(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted = Wanted::by(&caller, &request)?;
    let book = Sandbox::new(Arc::clone(app.service.store()));
    let read = book.book(wanted.after(), wanted.limit).await?;
    Ok(wanted.page(read).respond(request.uri()))
}

pub(crate) async fn shipments(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted = Wanted::by(&caller, &request)?;
    let book = CarrierSandbox::new(Arc::clone(app.service.store()));
    let read = book.book(wanted.after(), wanted.limit).await?;
    Ok(wanted.page(read).respond(request.uri()))
}

/// Which entries of a book: all of it in pages, or those of one order.
struct Wanted {
    limit: usize,
    cursor: Option<String>,
    order: Option<String>,
}

impl Wanted {
    /// What a caller asks for, who must be allowed to read.
    fn by(caller: &Caller, request: &Request) -> Result<Self, Problem> {
        caller.needs(Scope::Read)?;
        let mut query = Query::parse(request.uri().query());
        let (limit, cursor) = (query.take_limit()?, query.take("cursor"));
        let order = query.take("order").map(|id| order_id(&id)).transpose()?;
        query.end()?;
        Ok(Self {
            limit,
            cursor,
            order: order.map(|id| id.to_string()),
        })
    }

    /// Where to read on. An entry's id begins with its order's.
    fn after(&self) -> Option<&str> {
        self.cursor.as_deref().or(self.order.as_deref())
    }

    fn page<T: SandboxEntry>(&self, mut read: Vec<T>) -> Page<T> {
        let full = read.len() == self.limit;
        let is_of = |entry: &T| self.order.as_ref().is_none_or(|order| entry.order_id() == order);
        let last = read.last().filter(|last| full && is_of(last));
        let next_cursor = last.map(|last| last.id().to_owned());
        read.retain(is_of);
        Page {
            items: read,
            next_cursor,
        }
    }
}
