//! Section `http`: limits and trust at the door.

use super::reader::Reader;
use ipnet::IpNet;
use std::str::FromStr;
use std::time::Duration;

/// | key | effect; what a wrong value does |
/// |---|---|
/// | `cors_allowed_origins` | exact origins; one missing here keeps that site's browsers out |
/// | `trusted_proxies` | CIDRs whose `X-Forwarded-For` counts; too wide lets callers choose their address, too narrow blocks the proxy itself |
/// | `body_limit_bytes` | larger bodies are 413 |
/// | `header_timeout_seconds`, `body_timeout_seconds` | slower senders get 408 |
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Exact origins, `scheme://host[:port]`.
    pub cors_allowed_origins: Vec<String>,
    /// Proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Largest body.
    pub body_limit: usize,
    /// For the head of a request.
    pub header_timeout: Duration,
    /// For its body.
    pub body_timeout: Duration,
}

impl HttpConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let origins: Vec<Origin> = reader.list(
            "http.cors_allowed_origins",
            "an origin such as https://app.example.com, without a path",
        );
        let proxies: Vec<Network> = reader.list(
            "http.trusted_proxies",
            "an address or a network such as 10.0.0.0/8",
        );
        Self {
            cors_allowed_origins: origins.into_iter().map(|origin| origin.0).collect(),
            trusted_proxies: proxies.into_iter().map(|network| network.0).collect(),
            body_limit: reader.count("http.body_limit_bytes", 1_024..=16 << 20),
            header_timeout: reader.seconds("http.header_timeout_seconds", 1..=300),
            body_timeout: reader.seconds("http.body_timeout_seconds", 1..=3_600),
        }
    }
}

/// `scheme://host[:port]`.
pub(super) struct Origin(pub(super) String);

impl FromStr for Origin {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let host = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .ok_or(())?;
        let fine = !host.is_empty() && !host.contains(['/', '*', '?', '#', '@', ' ']);
        if fine { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

struct Network(IpNet);

impl FromStr for Network {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(network) = text.parse() {
            return Ok(Self(network));
        }
        text.parse::<std::net::IpAddr>()
            .map(|address| Self(IpNet::from(address)))
            .map_err(|_| ())
    }
}
