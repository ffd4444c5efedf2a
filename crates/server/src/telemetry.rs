//! Logs, traces and metrics.
//!
//! Log lines go to stdout, `pretty` or `json`. Spans go to an OTLP collector when one is set: they are batched on a thread of
//! their own, dropped when it cannot be reached, and never hold anything up; a caller's `traceparent` is continued. The log
//! filter has no say in spans. Metrics are recorded in this process and rendered on request.

use crate::config::{LogFormat, TelemetryConfig};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;
use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Upper bounds in seconds: from the half millisecond of a cached read to the slowest thing that is allowed.
const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Upper bounds of batch sizes.
const SIZES: [f64; 11] = [
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 5_000.0,
];

/// Why logging or metrics could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The exporter's settings cannot work.
    #[error("the trace exporter cannot be built: {0}")]
    Exporter(String),
    /// Something else in this process logs already.
    #[error("logging is set up already")]
    Twice,
    /// Buckets or recorder.
    #[error("metrics cannot be set up: {0}")]
    Metrics(String),
}

/// Flushes what is left when the program ends.
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sets up logs and traces of this process. Must not run inside an async runtime.
    ///
    /// # Errors
    /// [`TelemetryError`].
    pub fn start(config: &TelemetryConfig) -> Result<Self, TelemetryError> {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let filter = EnvFilter::builder().parse_lossy(&config.log_filter);
        let logs: Box<dyn Layer<Registry> + Send + Sync> = match config.log_format {
            LogFormat::Pretty => tracing_subscriber::fmt::layer().with_filter(filter).boxed(),
            LogFormat::Json => tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .with_filter(filter)
                .boxed(),
        };
        let provider = provider(config)?;
        let spans = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("gravity"))
                .with_location(false)
                .with_target(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                // The access log says what its span says.
                .with_filter(filter_fn(|about| {
                    *about.level() <= Level::INFO && about.target() != "access"
                }))
        });
        Registry::default()
            .with(logs)
            .with(spans)
            .try_init()
            .map_err(|_| TelemetryError::Twice)?;
        Ok(Self { provider })
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            // What could not be sent by then is given up: the collector is not worth a slow stop.
            let _ = provider.shutdown_with_timeout(EXPORT_TIMEOUT);
        }
    }
}

fn provider(config: &TelemetryConfig) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    let Some(endpoint) = &config.otlp_endpoint else {
        return Ok(None);
    };
    let resource = Resource::builder()
        .with_service_name(config.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_sample_ratio)));
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| TelemetryError::Exporter(error.to_string()))?;
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(sampler)
        .with_batch_exporter(Watched::new(exporter))
        .build();
    Ok(Some(provider))
}

/// Counts failed exports, and logs when they begin and end.
#[derive(Debug)]
struct Watched {
    inner: opentelemetry_otlp::SpanExporter,
    failing: AtomicBool,
}

impl Watched {
    fn new(inner: opentelemetry_otlp::SpanExporter) -> Self {
        Self {
            inner,
            failing: AtomicBool::new(false),
        }
    }
}

impl SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.inner.export(batch).await;
        let failed = result.is_err();
        if failed {
            metrics::counter!("gravity_trace_export_failures_total").increment(1);
        }
        match (self.failing.swap(failed, Ordering::Relaxed), &result) {
            (false, Err(error)) => tracing::warn!(%error, "traces cannot be exported"),
            (true, Ok(())) => tracing::info!("traces are exported again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// The process's metrics; the first call sets the recorder up, all share it.
///
/// # Errors
/// [`TelemetryError::Metrics`].
pub fn metrics() -> Result<PrometheusHandle, TelemetryError> {
    static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    HANDLE
        .get_or_init(|| install().map_err(|error| error.to_string()))
        .clone()
        .map_err(TelemetryError::Metrics)
}

fn install() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)?
        .install_recorder()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn the_recorder_is_shared_and_renders_seconds_as_buckets() {
        let first = metrics().unwrap();
        metrics::histogram!("test_of_seconds").record(0.003);
        let text = metrics().unwrap().render();
        assert!(text.contains("test_of_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        assert_eq!(first.render(), text);
    }

    /// What looks like a metric of ours and stands after `before`.
    fn names(text: &str, before: char) -> BTreeSet<String> {
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        text.match_indices("gravity_")
            .filter(|(at, _)| before == '\0' || text[..*at].ends_with(before))
            .map(|(at, _)| text[at..].chars().take_while(|c| is_part(*c)).collect())
            .collect()
    }

    fn read_all(folder: &Path, extensions: &[&str], text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() {
                read_all(&path, extensions, text);
            } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn every_metric_is_in_the_operations_guide_and_only_metrics_that_exist_are_watched() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut code = String::new();
        for name in ["usecase", "infra", "api", "server"] {
            read_all(&root.join("crates").join(name).join("src"), &["rs"], &mut code);
        }
        // Crates and parameters of the test harness have such names too, but are never quoted whole.
        let exist: BTreeSet<String> = names(&code, '"')
            .into_iter()
            .filter(|name| name.len() > 12)
            .collect();
        let guide = std::fs::read_to_string(root.join("docs/OPERATIONS.md")).unwrap();
        let described = names(&guide, '`');
        for name in &exist {
            assert!(described.contains(name), "{name} is not in docs/OPERATIONS.md");
        }
        let mut watched = String::new();
        read_all(&root.join("deploy"), &["yml", "yaml", "json"], &mut watched);
        for name in names(&watched, '\0').union(&described) {
            let base = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(
                exist.contains(base),
                "{name} is watched or described, and does not exist"
            );
        }
    }
}
