//! Metrics: what `/metrics` shows. The parts count as they go; what can only be looked at (how many orders stand
//! where, how much room the disk has) is sampled here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use comanda_model::Phase;
use comanda_store::{Counters, QueueCount, Store};
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// How often what can only be looked at is looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// The bounds of every duration's histogram, in seconds: from what a commit takes to what a slow service takes.
const BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// All metrics of the process.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

/// Starts to record. Called once, before anything is counted.
pub fn install() -> Result<Metrics, Failure> {
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| Failure::process("metrics could not be set up", error);
    let recorder = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .map_err(|error| failed(error.into()))?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| failed(error.to_string().into()))?;
    let process = metrics_process::Collector::default();
    process.describe();
    describe();
    gauge!("comanda_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(Metrics { handle, process })
}

impl Metrics {
    /// Renders everything in Prometheus's text form.
    pub fn render(&self) -> String {
        self.process.collect();
        self.handle.render()
    }

    /// Samples until the end.
    pub async fn sample(self, store: Arc<dyn Store>, directory: Option<PathBuf>, end: CancellationToken) {
        let mut shown = BTreeMap::new();
        loop {
            match store.counters().await {
                Ok(counters) => show(&counters, &mut shown, store.now()),
                Err(error) => tracing::warn!(%error, "the counters could not be read"),
            }
            if store.capabilities().queues {
                match store.queues().await {
                    Ok(queues) => show_queues(&queues, store.now()),
                    Err(error) => tracing::warn!(%error, "the queues could not be read"),
                }
            }
            gauge!("comanda_store_healthy").set(if store.health().await.is_ok() { 1.0 } else { 0.0 });
            if let Some(directory) = &directory
                && let Ok(bytes) = fs4::available_space(directory)
            {
                gauge!("comanda_store_disk_free_bytes").set(float(bytes));
            }
            // Histograms keep what they were told until somebody folds it, whether or not anyone ever asks.
            self.handle.run_upkeep();
            tokio::select! {
                () = tokio::time::sleep(SAMPLE_EVERY) => {}
                () = end.cancelled() => return,
            }
        }
    }
}

/// The type, the status and the phase of a count.
type Standing = (String, String, &'static str);

fn show(counters: &Counters, shown: &mut BTreeMap<Standing, f64>, now: jiff::Timestamp) {
    // What stood there before and does so no more must go to zero, not stay at its last value.
    shown.values_mut().for_each(|count| *count = 0.0);
    let mut dead: BTreeMap<&str, f64> = BTreeMap::new();
    for count in &counters.counts {
        let standing = (count.order_type.clone(), count.status.clone(), count.phase.name());
        shown.insert(standing, float(count.count));
    }
    for ((order_type, status, phase), count) in shown.iter() {
        gauge!("comanda_orders", "type" => order_type.clone(), "status" => status.clone(), "phase" => *phase)
            .set(*count);
        let dead_of_type = dead.entry(order_type).or_default();
        if *phase == Phase::Dead.name() {
            *dead_of_type += *count;
        }
    }
    for (order_type, count) in dead {
        gauge!("comanda_dead_letters", "type" => order_type.to_owned()).set(count);
    }
    let overdue = counters
        .oldest_due_at
        .map_or(0.0, |due_at| now.duration_since(due_at).as_secs_f64().max(0.0));
    gauge!("comanda_oldest_due_age_seconds").set(overdue);
}

fn show_queues(queues: &[QueueCount], now: jiff::Timestamp) {
    for count in queues {
        let name = &count.queue;
        gauge!("comanda_queue_depth", "queue" => name.clone()).set(float(count.depth));
        gauge!("comanda_queue_leased", "queue" => name.clone()).set(float(count.leased));
        gauge!("comanda_queue_dead_letters", "queue" => name.clone()).set(float(count.dead));
        let age = count
            .oldest_at
            .map_or(0.0, |oldest_at| now.duration_since(oldest_at).as_secs_f64().max(0.0));
        gauge!("comanda_queue_oldest_age_seconds", "queue" => name.clone()).set(age);
    }
}

/// Gauges are floats by their format; counts below 2^53 are exact in them.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float by its format")]
fn float(count: u64) -> f64 {
    count as f64
}

fn describe() {
    describe_counter!(
        "comanda_intake_messages_total",
        "Messages that sources handed in, by source and what became of them"
    );
    describe_gauge!("comanda_intake_rejected", "Rejected messages that are kept, by source");
    describe_counter!("comanda_orders_accepted_total", "Orders accepted, by type");
    describe_counter!(
        "comanda_step_attempts_total",
        "Attempts of steps, by type, step and outcome"
    );
    describe_histogram!(
        "comanda_step_duration_seconds",
        Unit::Seconds,
        "How long attempts take, by type and step"
    );
    describe_counter!(
        "comanda_stale_results_total",
        "Results of steps that came too late to count, by type"
    );
    describe_counter!(
        "comanda_http_requests_total",
        "Requests answered, by route, method and status"
    );
    describe_histogram!(
        "comanda_http_request_duration_seconds",
        Unit::Seconds,
        "How long requests take, by route and method"
    );
    describe_gauge!("comanda_orders", "Orders, by type, status and phase");
    describe_gauge!("comanda_dead_letters", "Orders whose step is exhausted, by type");
    describe_gauge!(
        "comanda_oldest_due_age_seconds",
        Unit::Seconds,
        "How long the work is overdue that has waited longest"
    );
    describe_counter!(
        "comanda_stale_items_total",
        "Answers about items of queues that came too late to count"
    );
    describe_gauge!("comanda_queue_depth", "What waits in a queue or is leased, by queue");
    describe_gauge!("comanda_queue_leased", "What is leased from a queue, by queue");
    describe_gauge!(
        "comanda_queue_dead_letters",
        "What is in a queue's dead letters, by queue"
    );
    describe_gauge!(
        "comanda_queue_oldest_age_seconds",
        Unit::Seconds,
        "How long that which has waited longest could have been claimed, by queue"
    );
    describe_gauge!(
        "comanda_unknown_type_orders",
        "Orders that are due and whose version of their type cannot be run here"
    );
    describe_counter!(
        "comanda_deliveries_total",
        "Tries to send an event to a subscription, by outcome"
    );
    describe_histogram!(
        "comanda_delivery_lag_seconds",
        Unit::Seconds,
        "From an event to its delivery"
    );
    describe_counter!(
        "comanda_deliveries_given_up_total",
        "E-mails that the server put off until the schedule ended"
    );
    describe_counter!(
        "comanda_notices_without_address_total",
        "Notices to customers whose order names no address"
    );
    describe_gauge!(
        "comanda_order_types_without_notices",
        "Order types whose customers are not told, because there is no mail server"
    );
    describe_gauge!("comanda_subscriptions_paused", "Subscriptions to which nothing is sent");
    describe_gauge!("comanda_store_healthy", "1 while the store takes commits");
    describe_gauge!(
        "comanda_store_disk_free_bytes",
        Unit::Bytes,
        "Room left on the disk that the store is on"
    );
    describe_gauge!("comanda_build_info", "1, with the version");
}
