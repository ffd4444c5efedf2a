//! Section `auth`: tokens, passwords, and what protects them.

use super::reader::Reader;
use super::secret::weakness;
use gravity_domain::auth::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// | key | effect; what a wrong value does |
/// |---|---|
/// | `jwt_secret` | signs own tokens (HS256); missing or weak stops the start, and in development a random one is made. Not needed with keys of a provider, and ignored with `jwks_url` unless `allow_hs256` |
/// | `jwks_url`, or `public_key_file` | keys of an outside provider; not https (except loopback), unreadable, or both: stops the start |
/// | `issuer`, `audience` | must be in every token when set; a wrong one refuses all tokens, and none with a provider's keys is warned of |
/// | `allow_hs256` | own tokens beside those of `jwks_url` |
/// | `auto_provision` | unknown users of a provider are created; not set: on with `jwks_url`, else off |
/// | `role_claim`, `admin_values` | who is admin according to the provider; no values: nobody |
/// | `leeway_seconds` | for `exp` and `nbf` |
/// | `access_ttl_seconds`, `refresh_ttl_hours`, `refresh_reuse_seconds` | how long tokens live, and how long a spent refresh token still finds its successor |
/// | `password_hash_parallelism` | hashes at once; each takes a core and 19 MiB |
/// | `login_attempts_per_minute`, `registrations_per_hour` | per address (logins also per username); too low behind an untrusted proxy locks everybody out |
/// | `ip_block_threshold`, `ip_block_window_seconds`, `ip_block_seconds` | refused requests in the window after which an address is blocked, and for how long |
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// Signs own tokens; `None` when they are off: only a provider's are taken.
    pub jwt_secret: Option<Secret>,
    /// Where a provider's keys are.
    pub jwks_url: Option<String>,
    /// PEM of a provider's key.
    pub public_key_file: Option<PathBuf>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `aud`.
    pub audience: Option<String>,
    /// Whether a provider's unknown users are created.
    pub auto_provision: bool,
    /// The provider's claim that tells the role.
    pub role_claim: String,
    /// Its values that mean admin.
    pub admin_values: Vec<String>,
    /// For `exp` and `nbf`.
    pub leeway: Duration,
    /// Life of an access token.
    pub access_ttl: Duration,
    /// Life of a session without a refresh.
    pub refresh_ttl: Duration,
    /// How long a spent refresh token still finds its successor.
    pub refresh_reuse: Duration,
    /// Password hashes at once.
    pub password_hash_parallelism: usize,
    /// Logins per minute, per address and per username.
    pub login_attempts_per_minute: u32,
    /// Registrations per hour and address.
    pub registrations_per_hour: u32,
    /// Refused requests after which an address is blocked.
    pub ip_block_threshold: u32,
    /// In which time they must fall.
    pub ip_block_window: Duration,
    /// How long it stays blocked.
    pub ip_block: Duration,
}

impl AuthConfig {
    pub(super) fn read(reader: &mut Reader, is_development: bool) -> Self {
        let jwks_url = reader.optional("auth.jwks_url");
        let public_key_file = reader.readable_file("auth.public_key_file");
        check_jwks(jwks_url.as_deref(), reader);
        if jwks_url.is_some() && public_key_file.is_some() {
            reader.refuse("auth.public_key_file", "cannot be used with jwks_url");
        }
        let allow_hs256 = reader.flag("auth.allow_hs256");
        let own = match (&jwks_url, &public_key_file) {
            _ if allow_hs256 => OwnTokens::Wanted,
            (Some(_), _) => OwnTokens::Off,
            (None, Some(_)) => OwnTokens::WithSecret,
            (None, None) => OwnTokens::Wanted,
        };
        let issuer = reader.optional("auth.issuer");
        let audience = reader.optional("auth.audience");
        if jwks_url.is_some() || public_key_file.is_some() {
            warn_of_unbound(issuer.is_some(), audience.is_some(), reader);
        }
        let auto_provision = reader.optional_flag("auth.auto_provision");
        Self {
            jwt_secret: read_secret(reader, is_development, own),
            auto_provision: auto_provision.unwrap_or(jwks_url.is_some()),
            jwks_url,
            public_key_file,
            issuer,
            audience,
            role_claim: reader.required("auth.role_claim"),
            admin_values: reader.list("auth.admin_values", "a value"),
            leeway: reader.seconds("auth.leeway_seconds", 0..=300),
            access_ttl: reader.seconds("auth.access_ttl_seconds", 10..=86_400),
            refresh_ttl: reader.hours("auth.refresh_ttl_hours", 1..=87_600),
            refresh_reuse: reader.seconds("auth.refresh_reuse_seconds", 0..=300),
            password_hash_parallelism: reader.count("auth.password_hash_parallelism", 1..=256),
            login_attempts_per_minute: reader.small("auth.login_attempts_per_minute", 1..=1_000_000),
            registrations_per_hour: reader.small("auth.registrations_per_hour", 1..=1_000_000),
            ip_block_threshold: reader.small("auth.ip_block_threshold", 1..=1_000_000_000),
            ip_block_window: reader.seconds("auth.ip_block_window_seconds", 1..=86_400),
            ip_block: reader.seconds("auth.ip_block_seconds", 1..=604_800),
        }
    }
}

fn check_jwks(url: Option<&str>, reader: &mut Reader) {
    let Some(url) = url else { return };
    let Ok(parsed) = url::Url::parse(url) else {
        reader.refuse("auth.jwks_url", "is not a URL");
        return;
    };
    let loopback = match parsed.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if parsed.scheme() != "https" && !(parsed.scheme() == "http" && loopback) {
        reader.refuse("auth.jwks_url", "must be https");
    }
}

/// A provider signs for other services too: their tokens would be taken here.
fn warn_of_unbound(issuer: bool, audience: bool, reader: &mut Reader) {
    for (name, claim, is_set) in [("JWT_ISSUER", "iss", issuer), ("JWT_AUDIENCE", "aud", audience)] {
        if !is_set {
            reader.warn(format!(
                "{name}: it is not set; a token signed with the provider's keys is taken whatever its `{claim}` says"
            ));
        }
    }
}

/// Whether this server signs tokens itself.
#[derive(Clone, Copy)]
enum OwnTokens {
    Wanted,
    /// Only when there is a secret for them.
    WithSecret,
    Off,
}

fn read_secret(reader: &mut Reader, is_development: bool, own: OwnTokens) -> Option<Secret> {
    let given = reader.secret("auth.jwt_secret");
    let wrong = match (&given, own) {
        (_, OwnTokens::Off) | (None, OwnTokens::WithSecret) => return None,
        (None, OwnTokens::Wanted) => Some("it is not set"),
        (Some(secret), _) => weakness(secret.expose()),
    };
    let Some(wrong) = wrong else { return given };
    if is_development {
        reader.warn(format!(
            "JWT_SECRET: {wrong}; a random one is used, and tokens end with this process"
        ));
        return Some(random_secret());
    }
    reader.refuse(
        "auth.jwt_secret",
        format!("{wrong}; make one with: openssl rand -base64 48"),
    );
    None
}

fn random_secret() -> Secret {
    let bytes: [u8; 32] = rand::random();
    Secret::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}
