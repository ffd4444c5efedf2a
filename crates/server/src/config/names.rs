//! The short names: environment variables that stand for a key.

/// `(variable, key)`. Any other key is reached as `GRAVITY__SECTION__KEY`.
pub const SHORT_NAMES: &[(&str, &str)] = &[
    ("SERVER_HOST", "server.host"),
    ("SERVER_PORT", "server.port"),
    ("SERVER_WORKERS", "server.workers"),
    ("SHUTDOWN_GRACE_SECONDS", "server.shutdown_grace_seconds"),
    ("TLS_CERT_FILE", "server.tls_cert_file"),
    ("TLS_KEY_FILE", "server.tls_key_file"),
    ("DATABASE_URL", "database.url"),
    ("DB_HOST", "database.host"),
    ("DB_PORT", "database.port"),
    ("DB_NAME", "database.name"),
    ("DB_USER", "database.user"),
    ("DB_PASSWORD", "database.password"),
    ("DB_SSL_MODE", "database.ssl_mode"),
    ("DB_SSL_ROOT_CERT", "database.ssl_root_cert"),
    ("DB_POOL_SIZE", "database.pool_size"),
    ("WRITE_DEADLINE_MS", "database.write_deadline_ms"),
    ("REDIS_URL", "redis.url"),
    ("JWT_SECRET", "auth.jwt_secret"),
    ("JWT_JWKS_URL", "auth.jwks_url"),
    ("JWT_PUBLIC_KEY_FILE", "auth.public_key_file"),
    ("JWT_ISSUER", "auth.issuer"),
    ("JWT_AUDIENCE", "auth.audience"),
    ("AUTH_AUTO_PROVISION", "auth.auto_provision"),
    ("AUTH_ALLOW_HS256", "auth.allow_hs256"),
    ("AUTH_ROLE_CLAIM", "auth.role_claim"),
    ("AUTH_ADMIN_VALUES", "auth.admin_values"),
    ("LOGIN_ATTEMPTS_PER_MINUTE", "auth.login_attempts_per_minute"),
    ("REGISTRATIONS_PER_HOUR", "auth.registrations_per_hour"),
    ("IP_BLOCK_THRESHOLD", "auth.ip_block_threshold"),
    ("IP_BLOCK_WINDOW_SECONDS", "auth.ip_block_window_seconds"),
    ("IP_BLOCK_SECONDS", "auth.ip_block_seconds"),
    ("BUFFER_PATH", "buffer.path"),
    ("BUFFER_ENGINE", "buffer.engine"),
    ("BUFFER_MAX_SIZE", "buffer.max_size"),
    ("BUFFER_MAX_PER_USER", "buffer.max_per_user"),
    ("BUFFER_MAX_BYTES", "buffer.max_bytes"),
    ("BUFFER_RETENTION_HOURS", "buffer.retention_hours"),
    ("SYNC_INTERVAL_SECONDS", "buffer.sync_interval_seconds"),
    ("MAX_RETRY_ATTEMPTS", "buffer.max_retry_attempts"),
    ("CORS_ALLOWED_ORIGINS", "http.cors_allowed_origins"),
    ("TRUSTED_PROXIES", "http.trusted_proxies"),
    ("STREAM_CACHE_BYTES", "stream.cache_bytes"),
    ("INGEST_CALLS_PER_MINUTE", "stream.ingest_calls_per_minute"),
    ("LOG_FORMAT", "telemetry.log_format"),
    ("RUST_LOG", "telemetry.log_filter"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
    ("OTEL_SERVICE_NAME", "telemetry.service_name"),
];

/// The key a short name stands for.
pub(super) fn key_of(variable: &str) -> Option<&'static str> {
    SHORT_NAMES
        .iter()
        .find(|(name, _)| *name == variable)
        .map(|(_, key)| *key)
}
