//! Section `telemetry`: logs and traces. Metrics are always there.

use super::reader::Reader;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For machines: one JSON object per line.
    Json,
}

/// | key | effect; what a wrong value does |
/// |---|---|
/// | `log_format` | `pretty` or `json` |
/// | `log_filter` | as `RUST_LOG`; one that cannot be parsed stops the start |
/// | `otlp_endpoint` | OTLP over HTTP; a wrong one loses traces and nothing else |
/// | `service_name` | in traces |
/// | `trace_sample_ratio` | share of traces begun here that are exported; a caller's decision is kept |
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which lines are logged.
    pub log_filter: String,
    /// The whole URL, `/v1/traces` included.
    pub otlp_endpoint: Option<String>,
    /// In traces.
    pub service_name: String,
    /// 0 to 1.
    pub trace_sample_ratio: f64,
}

impl TelemetryConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let log_filter = reader.required("telemetry.log_filter");
        if let Err(error) = EnvFilter::builder().parse(&log_filter) {
            reader.refuse("telemetry.log_filter", format!("is no log filter: {error}"));
        }
        let otlp_endpoint = reader.optional("telemetry.otlp_endpoint");
        if let Some(endpoint) = &otlp_endpoint
            && !["http://", "https://"]
                .iter()
                .any(|scheme| endpoint.starts_with(scheme))
        {
            reader.refuse("telemetry.otlp_endpoint", "must start with http:// or https://");
        }
        Self {
            log_format: reader.choice(
                "telemetry.log_format",
                &[("pretty", LogFormat::Pretty), ("json", LogFormat::Json)],
            ),
            log_filter,
            otlp_endpoint: otlp_endpoint.map(|endpoint| traces_url(&endpoint)),
            service_name: reader.required("telemetry.service_name"),
            trace_sample_ratio: reader.ratio("telemetry.trace_sample_ratio"),
        }
    }
}

/// The variable names a collector's root; the exporter wants the whole address.
fn traces_url(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint.ends_with("/v1/traces") {
        endpoint.to_owned()
    } else {
        format!("{endpoint}/v1/traces")
    }
}
