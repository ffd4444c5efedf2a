//! A private Redis Cluster: masters on loopback ports that share the slots.

use std::time::Duration;

use super::redis::{Redis, RedisOptions};
use super::{ServiceError, poll_until};

const SLOTS: usize = 16_384;
/// The bus of a node listens so far above its port.
const BUS: u16 = 10_000;
const PATIENCE: Duration = Duration::from_secs(30);
/// Bus ports must be ports, too, and free.
const TRIES: usize = 20;

/// The masters. Dropping it stops them.
#[derive(Debug)]
pub struct RedisCluster {
    /// Each holds as many slots, in this order.
    pub masters: Vec<Redis>,
}

impl RedisCluster {
    /// Starts `masters` of them and waits until each says that the cluster is well.
    ///
    /// # Errors
    /// Redis is missing, did not start, or the nodes did not find each other.
    pub fn launch(masters: usize) -> Result<Self, ServiceError> {
        let nodes = (0..masters).map(|_| node()).collect::<Result<Vec<_>, _>>()?;
        for (number, node) in nodes.iter().enumerate() {
            let (from, to) = (SLOTS * number / masters, SLOTS * (number + 1) / masters - 1);
            told(node, &format!("CLUSTER ADDSLOTSRANGE {from} {to}"))?;
            told(node, &format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1))?;
        }
        for node in &nodes[1..] {
            let (port, bus) = (nodes[0].port(), nodes[0].port() + BUS);
            told(node, &format!("CLUSTER MEET 127.0.0.1 {port} {bus}"))?;
        }
        let cluster = Self { masters: nodes };
        if poll_until(PATIENCE, || {
            cluster.masters.iter().all(|node| is_well(node, masters))
        }) {
            return Ok(cluster);
        }
        Err(ServiceError::State("the nodes did not become a cluster".into()))
    }

    /// URLs of all masters.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.masters.iter().map(Redis::url).collect()
    }
}

fn node() -> Result<Redis, ServiceError> {
    let mut last = ServiceError::State("no free port".into());
    for _ in 0..TRIES {
        let Some(port) = super::port::free().filter(|port| *port < u16::MAX - BUS) else {
            continue;
        };
        let options = RedisOptions {
            port: Some(port),
            cluster: true,
            ..RedisOptions::default()
        };
        match Redis::launch(options) {
            Ok(node) => return Ok(node),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn told(node: &Redis, command: &str) -> Result<(), ServiceError> {
    let answer = node.ask(command)?;
    if answer.starts_with("+OK") {
        return Ok(());
    }
    Err(ServiceError::State(format!("{command}: {answer}")))
}

fn is_well(node: &Redis, masters: usize) -> bool {
    let info = node.ask("CLUSTER INFO").unwrap_or_default();
    let says = |line: &str| info.lines().any(|found| found.trim() == line);
    says("cluster_state:ok")
        && says(&format!("cluster_known_nodes:{masters}"))
        && says("cluster_slots_ok:16384")
}
