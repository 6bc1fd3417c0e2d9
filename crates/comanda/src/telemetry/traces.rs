//! Traces by OTLP over HTTP, in protobuf.
//!
//! The parts give those of their spans that belong to a trace a field `traceparent` (W3C trace context): the identity
//! that the receiver of a call is told as its parent. Such a span is exported under exactly that identity, so that our
//! part of a trace joins with everybody else's. A field `parent` names the span that it belongs under, in the same form.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Boxed;
use crate::failure::Failure;

/// The longest text of an attribute, in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// How long the last spans may take to be sent.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// The exporter, which sends in the background. A collector that is away costs nothing but its traces: the queue is
/// bounded, and what does not fit is dropped.
pub struct Traces(Arc<BatchSpanProcessor>);

pub(super) fn start(endpoint: &str, service_name: &str) -> Result<(Traces, Boxed), Failure> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .with_timeout(FINISH_WITHIN)
        .build()
        .map_err(|error| Failure::process("the exporter of traces could not be set up", error))?;
    let mut processor = BatchSpanProcessor::builder(exporter).build();
    processor.set_resource(&Resource::builder().with_service_name(service_name.to_owned()).build());
    let processor = Arc::new(processor);
    let layer = ExportLayer {
        processor: processor.clone(),
        scope: InstrumentationScope::builder("comanda")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    };
    // Events are for the log. Spans of libraries, the exporter's own among them, are not ours to tell.
    let ours = filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("comanda"));
    Ok((Traces(processor), layer.with_filter(ours).boxed()))
}

impl Traces {
    pub(super) fn finish(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FINISH_WITHIN) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

struct ExportLayer {
    processor: Arc<BatchSpanProcessor>,
    scope: InstrumentationScope,
}

/// What is known of a span while it is open.
struct Open {
    start: SystemTime,
    identity: Option<Identity>,
    parent: Option<Identity>,
    kind: SpanKind,
    error: Option<String>,
    attributes: Vec<KeyValue>,
}

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    trace: TraceId,
    span: SpanId,
    flags: TraceFlags,
}

impl Identity {
    /// Reads `00-<trace>-<span>-<flags>`.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (_, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let identity = Self {
            trace: TraceId::from_hex(trace).ok()?,
            span: SpanId::from_hex(span).ok()?,
            flags: TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        };
        (identity.trace != TraceId::INVALID && identity.span != SpanId::INVALID).then_some(identity)
    }
}

impl Open {
    fn set(&mut self, name: &'static str, text: String) {
        match name {
            "traceparent" => self.identity = Identity::parse(&text),
            "parent" => self.parent = Identity::parse(&text),
            "error" => self.error = Some(comanda_model::order::bounded(text, TEXT_BYTES_MAX)),
            "otel.kind" => {
                self.kind = match text.as_str() {
                    "server" => SpanKind::Server,
                    "client" => SpanKind::Client,
                    _ => SpanKind::Internal,
                }
            }
            _ => self
                .attributes
                .push(KeyValue::new(name, comanda_model::order::bounded(text, TEXT_BYTES_MAX))),
        }
    }
}

impl Visit for Open {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.set(field.name(), format!("{value:?}"));
    }
}

impl<S> Layer<S> for ExportLayer
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context
            .span(id)
            .filter(|span| span.metadata().fields().field("traceparent").is_some())
        else {
            return;
        };
        let mut open = Open {
            start: SystemTime::now(),
            identity: None,
            parent: None,
            kind: SpanKind::Internal,
            error: None,
            attributes: Vec::new(),
        };
        attributes.record(&mut open);
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(open) = span.extensions_mut().get_mut::<Open>()
        {
            values.record(open);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(open) = span.extensions_mut().remove::<Open>() else {
            return;
        };
        // A span that was never given an identity was never begun in earnest; one that is not sampled is nobody's
        // wish.
        let Some(identity) = open.identity.filter(|identity| identity.flags.is_sampled()) else {
            return;
        };
        let parent = open.parent.filter(|parent| parent.trace == identity.trace);
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                identity.trace,
                identity.span,
                identity.flags,
                false,
                TraceState::default(),
            ),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| parent.span),
            parent_span_is_remote: false,
            span_kind: open.kind,
            name: Cow::Borrowed(span.name()),
            start_time: open.start,
            end_time: SystemTime::now(),
            attributes: open.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: open.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_from_trace_context() {
        let identity = Identity::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        assert_eq!(identity.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(identity.span.to_string(), "b7ad6b7169203331");
        assert!(identity.flags.is_sampled());
        let zero = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        for wrong in ["", "00-1", "00-x-y-z", zero] {
            assert_eq!(Identity::parse(wrong), None, "{wrong}");
        }
    }
}
