//! Traces by OTLP over HTTP, in protobuf.

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::{Layer, Registry};

use super::Boxed;
use crate::failure::Failure;

/// The exporter, which sends in the background. A collector that is away costs nothing but its traces: the queue is
/// bounded, and what does not fit is dropped.
pub struct Traces(SdkTracerProvider);

pub(super) fn start(endpoint: &str, service_name: &str) -> Result<(Traces, Boxed), Failure> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .with_timeout(Duration::from_secs(5))
        .build()
        .map_err(|error| Failure::process("the exporter of traces could not be set up", error))?;
    let resource = Resource::builder().with_service_name(service_name.to_owned()).build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build();
    let layer = tracing_opentelemetry::layer::<Registry>()
        .with_tracer(provider.tracer("comanda"))
        // The exporter's own requests must not become traces that are exported.
        .with_filter(tracing_subscriber::filter::Targets::new().with_target("comanda", LevelFilter::DEBUG))
        .boxed();
    Ok((Traces(provider), layer))
}

impl Traces {
    pub(super) fn finish(self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}
