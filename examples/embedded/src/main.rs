//! A bakery with a server of its own, and Comanda's engine inside: `bakery ADDRESS ORDERS`, where
//! `ORDERS` is a directory, or the address of a PostgreSQL database.
//!
//! `POST /cakes` and `GET /cakes/{id}` are the bakery's own; all else is Comanda's API.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use comanda_embed::{
    Access, Comanda, FeedStart, Idempotency, OrderId, OrderView, Outcome, StepContext, Submission, WaitFor,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// What a customer asks for.
#[derive(Deserialize, Serialize)]
struct Cake {
    flavour: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let orders = arguments.next().unwrap_or_else(|| "./bakery-data".to_owned());
    let mut terminate = signal(SignalKind::terminate())?;
    let builder = comanda_embed::builder();
    let builder = if orders.starts_with("postgres://") {
        builder.postgres(orders)
    } else {
        builder.sqlite(orders)
    };
    let comanda = builder
        .order_type(include_str!("../order-types/cake.toml"))
        .step("bakery.bake", |context| async move { bake(&context) })
        // Nothing to fetch back: what was baked is eaten by the bakers.
        .step("bakery.throw-away", |_| async { Outcome::done() })
        .start()
        .await?;
    tokio::spawn(ring(comanda.clone()));
    let app = Router::new()
        .route("/cakes", post(order))
        .route("/cakes/{id}", get(show))
        .with_state(comanda.clone())
        .fallback_service(comanda.router(Access::Local)?);
    let listener = TcpListener::bind(address).await?;
    eprintln!("the bakery is open at http://{}", listener.local_addr()?);
    let stopping = comanda.clone();
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            terminate.recv().await;
            // At the same time as the server: streams and long polls end with the engine.
            tokio::spawn(async move { stopping.stop().await });
        })
        .await?;
    comanda.stop().await?;
    Ok(())
}

fn bake(context: &StepContext) -> Outcome {
    match context.with_as::<Cake>() {
        Ok(cake) if cake.flavour == "garlic" => Outcome::Refused("nobody bakes that here".to_owned()),
        // The key is the same on every attempt: a bakery of many ovens would put it on the tin.
        Ok(cake) => Outcome::Done(Some(json!({"flavour": cake.flavour, "tin": context.key()}))),
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

/// Takes an order, and waits a little for it to be baked. A customer who asks again under the same key gets the same cake.
async fn order(State(comanda): State<Comanda>, headers: HeaderMap, Json(cake): Json<Cake>) -> Response {
    let data = (&json!(cake)).into();
    let idempotency = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    let submission = Submission {
        by: Arc::from("counter"),
        idempotency: idempotency.map(|key| Idempotency {
            scope: "counter".to_owned(),
            key: key.to_owned(),
            kept: None,
        }),
        ..Submission::new("cake", data)
    };
    let accepted = match comanda.submit(submission).await {
        Ok(accepted) => accepted,
        Err(error) => return (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response(),
    };
    let waited = comanda.wait(accepted.id(), WaitFor::VersionAfter(1), Duration::from_secs(5));
    shown(waited.await)
}

async fn show(State(comanda): State<Comanda>, Path(id): Path<String>) -> Response {
    match id.parse::<OrderId>() {
        Ok(id) => shown(comanda.order(id).await),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

fn shown(found: Result<Option<OrderView>, comanda_embed::CommandError>) -> Response {
    match found {
        Ok(Some(order)) => Json(json!({"id": order.id, "status": order.status, "cake": order.data})).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

/// Rings the bell for each event, as it becomes durable.
async fn ring(comanda: Comanda) {
    let mut from = FeedStart::Oldest;
    loop {
        match comanda.next_events(from, 100).await {
            // Nothing more comes: the engine has stopped.
            Ok(page) if page.events.is_empty() => return,
            Ok(page) => {
                for event in &page.events {
                    println!(
                        "{} {} {}",
                        event.order,
                        event.event.number,
                        event.event.kind.wire_name()
                    );
                }
                from = FeedStart::After(page.next);
            }
            Err(error) => {
                eprintln!("the bell is broken: {error}");
                return;
            }
        }
    }
}
