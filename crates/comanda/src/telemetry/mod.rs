//! What the server tells about itself: logs to stderr, metrics for Prometheus, traces for a collector.

pub mod metrics;
#[cfg(feature = "otlp")]
mod traces;

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::Config;
use crate::failure::Failure;

/// Keeps what has to be sent off at the end.
pub struct Telemetry {
    #[cfg(feature = "otlp")]
    traces: Option<traces::Traces>,
}

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logs and traces. Called once, before the threads of the runtime are started: the exporter of traces brings
/// a thread of its own.
pub fn start(config: &Config) -> Result<Telemetry, Failure> {
    let filter = EnvFilter::try_new(&config.log.level)
        .map_err(|error| Failure::process("the log filter is not valid", error))?;
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs: Boxed = if config.log.json {
        // Flattened fields could not be told from those of the log itself; spans carry the ids to search by.
        logs.json().with_span_list(false).with_filter(filter).boxed()
    } else {
        logs.with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .with_filter(filter)
            .boxed()
    };
    let mut layers = vec![logs];
    #[cfg(feature = "otlp")]
    let traces = match &config.otlp_endpoint {
        Some(endpoint) => {
            let (traces, layer) = traces::start(endpoint, &config.service_name)?;
            layers.push(layer);
            Some(traces)
        }
        None => None,
    };
    #[cfg(not(feature = "otlp"))]
    if config.otlp_endpoint.is_some() {
        return Err(Failure::Usage(
            "telemetry.otlp_endpoint is set, but this program was built without the feature `otlp`".to_owned(),
        ));
    }
    tracing_subscriber::registry()
        .with(std::mem::take(&mut layers))
        .try_init()
        .map_err(|error| Failure::process("logging could not be started", error))?;
    Ok(Telemetry {
        #[cfg(feature = "otlp")]
        traces,
    })
}

impl Telemetry {
    /// Sends off what has not been sent yet. Must not be called from a thread of the runtime.
    pub fn finish(self) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = self.traces {
            traces.finish();
        }
    }
}
