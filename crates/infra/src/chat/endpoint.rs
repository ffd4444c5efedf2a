//! Where push messages may go: to public addresses only, since clients name them.
//!
//! An endpoint is judged when it is subscribed, and again when its name is resolved for a connection: the connection is made to
//! the addresses that were judged, so that a name which changes its mind in between gains nothing. No proxy and no redirect
//! takes part.

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use gravity_domain::chat::{EndpointRefused, PushEndpoints};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use url::{Host, Url};

const LONGEST: usize = 2_048;
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(2);
const NOT_PUBLIC: EndpointRefused = EndpointRefused("must be at a public address");

/// Resolves names.
pub trait LookUp: Send + Sync {
    /// The addresses of `host`.
    fn look_up(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// As the system does.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookUp;

impl LookUp for SystemLookUp {
    fn look_up(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// A name that leads to no address which may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the name leads to no public address")]
pub(super) struct NotPublic;

/// Judges endpoints and what their names resolve to.
#[derive(Clone)]
pub struct EndpointGuard {
    lets_loopback: bool,
    names: Arc<dyn LookUp>,
}

impl fmt::Debug for EndpointGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointGuard")
            .field("lets_loopback", &self.lets_loopback)
            .finish_non_exhaustive()
    }
}

impl EndpointGuard {
    /// For tests, `lets_loopback` lets this machine through, and plain http to it.
    pub fn new(lets_loopback: bool, names: Arc<dyn LookUp>) -> Self {
        Self { lets_loopback, names }
    }

    /// What can be said without resolving a name.
    ///
    /// # Errors
    /// [`EndpointRefused`].
    pub fn judge(&self, endpoint: &str) -> Result<Url, EndpointRefused> {
        if endpoint.len() > LONGEST {
            return Err(EndpointRefused("must not be longer than 2,048 bytes"));
        }
        let url = Url::parse(endpoint).map_err(|_| EndpointRefused("must be a URL"))?;
        let host = url.host().ok_or(EndpointRefused("must name a host"))?;
        // The parser has turned every way of writing an IPv4 address into one.
        let (is_local, is_allowed) = match host {
            Host::Ipv4(address) => (address.is_loopback(), self.allows(address.into())),
            Host::Ipv6(address) => (address.is_loopback(), self.allows(address.into())),
            Host::Domain(name) => {
                let name = name.trim_end_matches('.');
                let is_local = name == "localhost" || name.ends_with(".localhost");
                (is_local, !is_local || self.lets_loopback)
            }
        };
        let may_be_plain = is_local && self.lets_loopback;
        match url.scheme() {
            "https" => {}
            "http" if may_be_plain => {}
            _ => return Err(EndpointRefused("must be https")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointRefused("must hold no credentials"));
        }
        if is_allowed { Ok(url) } else { Err(NOT_PUBLIC) }
    }

    fn allows(&self, address: IpAddr) -> bool {
        is_public(address) || (self.lets_loopback && is_loopback(address))
    }

    /// The addresses of `host` that may be connected to: none when the name leads only to others.
    async fn resolve_public(&self, host: String) -> io::Result<Vec<IpAddr>> {
        let looking = self.names.look_up(host);
        let mut found = tokio::time::timeout(LOOK_UP_PATIENCE, looking)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        found.retain(|address| self.allows(*address));
        Ok(found)
    }
}

#[async_trait]
impl PushEndpoints for EndpointGuard {
    async fn check(&self, endpoint: &str) -> Result<(), EndpointRefused> {
        let url = self.judge(endpoint)?;
        let Some(Host::Domain(name)) = url.host() else {
            return Ok(());
        };
        match self.resolve_public(name.to_owned()).await {
            Ok(found) if found.is_empty() => Err(NOT_PUBLIC),
            _ => Ok(()),
        }
    }
}

impl Resolve for EndpointGuard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = guard.resolve_public(name.as_str().to_owned()).await?;
            if found.is_empty() {
                return Err(NotPublic.into());
            }
            // The client fills in the port.
            let found: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(found)
        })
    }
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|inner| inner.is_loopback())
        }
    }
}

/// Whether the address is one of the public internet (the IANA special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224..=255, _, _)
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let words = address.segments();
    if words[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        // NAT64: the way from IPv6-only networks to IPv4.
        let [.., a, b, c, d] = address.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    // Global unicast, without protocol assignments (Teredo and others), documentation, and 6to4, which carries any IPv4 address.
    words[0] & 0xe000 == 0x2000
        && !(words[0] == 0x2001 && (words[1] < 0x200 || words[1] == 0xdb8))
        && words[0] != 0x2002
        && !(words[0] == 0x3fff && words[1] < 0x1000)
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
