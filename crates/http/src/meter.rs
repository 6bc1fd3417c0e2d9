//! What is counted of requests. Looking a metric up by its labels costs more than answering some requests does, so each
//! handle is kept once it is known.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use metrics::{Counter, Histogram};
use parking_lot::RwLock;

/// The handles by route, then by method and status. Routes are patterns, so there are only so many.
#[derive(Default)]
pub(crate) struct Meters(RwLock<HashMap<String, ByAnswer>>);

type ByAnswer = HashMap<(&'static str, u16), Handles>;

#[derive(Clone)]
struct Handles {
    requests: Counter,
    duration: Histogram,
}

impl Meters {
    /// Counts an answered request.
    pub(crate) fn answered(&self, route: &str, method: &Method, status: StatusCode, took: Duration) {
        let key = (method_name(method), status.as_u16());
        let known = self.0.read().get(route).and_then(|handles| handles.get(&key).cloned());
        let handles = known.unwrap_or_else(|| {
            let (method, status) = (key.0, key.1.to_string());
            let route_name = route.to_owned();
            let handles = Handles {
                requests: metrics::counter!("comanda_http_requests_total",
                    "route" => route_name.clone(), "method" => method, "status" => status),
                duration: metrics::histogram!("comanda_http_request_duration_seconds",
                    "route" => route_name, "method" => method),
            };
            let mut all = self.0.write();
            all.entry(route.to_owned()).or_default().insert(key, handles.clone());
            handles
        });
        handles.requests.increment(1);
        handles.duration.record(took.as_secs_f64());
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::HEAD => "HEAD",
        // A label for whatever a client makes up would grow without bound.
        _ => "other",
    }
}
