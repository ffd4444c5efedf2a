//! Logs, metrics and traces of a request.

use crate::ports::ALICE;
use crate::world::{Call, World};
use metrics_exporter_prometheus::PrometheusBuilder;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing_subscriber::layer::SubscriberExt as _;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[actix_web::test]
async fn each_request_is_one_line_in_the_access_log_without_its_query() {
    let lines = Lines::default();
    let sink = lines.clone();
    let log = tracing_subscriber::fmt()
        .json()
        .with_writer(move || sink.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(log);
    let client = World::new().client().await;
    let call = Call::by("alice").header("x-request-id", "r-1");
    client.send("GET", "/api/v1/tasks?cursor=tell-nobody", call).await;
    client.get("", "/nowhere/tell-nobody").await;
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(!text.contains("tell-nobody"), "{text}");
    let all: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let access: Vec<_> = all
        .iter()
        .filter(|line| line["target"] == "access")
        .map(|line| &line["fields"])
        .collect();
    assert_eq!(access.len(), 2);
    let first = access[0];
    assert_eq!(first["request_id"], "r-1");
    assert_eq!(first["user"], json!(ALICE.to_string()));
    assert_eq!(
        (&first["method"], &first["route"], &first["status"]),
        (&json!("GET"), &json!("/api/v1/tasks"), &json!(400))
    );
    assert!(first["latency_ms"].is_number());
    assert_eq!(access[1]["route"], "unmatched");
}

#[actix_web::test]
async fn requests_are_counted_and_timed_by_route() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let client = World::new().client().await;
    let path = client.task("a").await;
    client.get("alice", &path).await;
    client.send("BREW", "/api/v1/tasks", Call::by("")).await;
    let text = handle.render();
    for line in [
        "gravity_http_requests_total{method=\"POST\",route=\"/api/v1/tasks\",status=\"201\"} 1",
        "gravity_http_requests_total{method=\"GET\",route=\"/api/v1/tasks/{id}\",status=\"200\"} 1",
        "gravity_http_requests_total{method=\"OTHER\",route=\"/api/v1/tasks\",status=\"405\"} 1",
        "gravity_http_request_seconds_count{method=\"GET\",route=\"/api/v1/tasks/{id}\"} 1",
        "gravity_http_requests_in_flight 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

#[actix_web::test]
async fn a_request_continues_the_trace_of_its_caller() {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let spans = Spans::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(spans.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let client = World::new().client().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    client
        .send(
            "GET",
            "/api/v1/tasks",
            Call::by("alice").header("traceparent", parent),
        )
        .await;
    client.get("", "/live").await;
    let spans = spans.0.lock().unwrap();
    let span = spans
        .iter()
        .find(|span| span.name == "GET /api/v1/tasks")
        .expect("a span");
    assert_eq!(
        span.span_context.trace_id().to_string(),
        "0af7651916cd43dd8448eb211c80319c"
    );
    assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
    let own = spans
        .iter()
        .find(|span| span.name == "GET /live")
        .expect("a span");
    assert_ne!(own.span_context.trace_id(), span.span_context.trace_id());
}
