//! Blocked addresses that nodes share, as far as Redis answers: one sorted set of networks by the end of their block.

use super::address_blocks::AddressBlocks;
use crate::redis::{PREFIX, Redis};
use gravity_domain::clock::{Timestamp, WallClock};
use gravity_domain::error::StoreError;
use redis::cmd;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often the blocks of other nodes are read.
const INTERVAL: Duration = Duration::from_secs(5);
/// The most blocks read at once.
const MOST: usize = 10_000;

/// Publishes the blocks that `announced` tells and adopts those of other nodes, until `stop`. Redis being down only
/// means that nothing is shared meanwhile.
pub async fn share_blocks(
    blocks: Arc<AddressBlocks>,
    mut announced: mpsc::Receiver<IpAddr>,
    redis: Redis,
    clock: Arc<dyn WallClock>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => read(&blocks, &redis, clock.now()).await,
            network = announced.recv() => match network {
                Some(network) => publish(&blocks, &redis, network, clock.now()).await,
                None => return,
            },
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "blocked addresses are not shared at the moment");
        }
    }
}

fn key() -> String {
    format!("{PREFIX}blocked")
}

fn block_millis(blocks: &AddressBlocks) -> i64 {
    i64::try_from(blocks.settings().block.as_millis()).unwrap_or(i64::MAX)
}

async fn publish(
    blocks: &AddressBlocks,
    redis: &Redis,
    network: IpAddr,
    now: Timestamp,
) -> Result<(), StoreError> {
    let until = now.plus_millis(block_millis(blocks)).millis();
    let mut pipeline = redis::pipe();
    pipeline
        .cmd("ZADD")
        .arg(key())
        .arg(until)
        .arg(network.to_string())
        .ignore()
        .cmd("PEXPIREAT")
        .arg(key())
        .arg(until)
        .ignore();
    redis.pipeline::<()>("block_publish", &pipeline).await
}

async fn read(blocks: &AddressBlocks, redis: &Redis, now: Timestamp) -> Result<(), StoreError> {
    if !redis.is_up() {
        return Ok(());
    }
    let mut drop_old = cmd("ZREMRANGEBYSCORE");
    drop_old.arg(key()).arg("-inf").arg(now.millis());
    redis.command::<()>("block_purge", &drop_old).await?;
    let mut list = cmd("ZRANGE");
    list.arg(key()).arg(0).arg(MOST).arg("WITHSCORES");
    let listed: Vec<(String, i64)> = redis.command("block_list", &list).await?;
    for (network, until) in listed {
        if let Ok(network) = network.parse() {
            let left = Timestamp::from_millis(until).millis_since(now);
            blocks.adopt(network, Duration::from_millis(left));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::BlockSettings;
    use crate::auth::session_contract::redis;
    use gravity_domain::auth::AddressBlocker as _;
    use gravity_domain::clock::SystemClock;
    use gravity_test_support::services;

    fn node(redis: Redis, stop: &CancellationToken) -> Arc<AddressBlocks> {
        let settings = BlockSettings {
            threshold: 2,
            ..BlockSettings::default()
        };
        let (blocks, announced) = AddressBlocks::announcing(settings);
        let blocks = Arc::new(blocks);
        tokio::spawn(share_blocks(
            Arc::clone(&blocks),
            announced,
            redis,
            Arc::new(SystemClock),
            stop.clone(),
        ));
        blocks
    }

    async fn wait_until(mut done: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !done().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
    }

    #[tokio::test]
    async fn a_block_on_one_node_reaches_another() {
        let server = services::Redis::start_private().unwrap();
        let redis = redis(&server.url());
        let stop = CancellationToken::new();
        let first = node(redis.clone(), &stop);
        let bad: IpAddr = "192.0.2.9".parse().unwrap();
        first.refused(bad);
        first.refused(bad);
        wait_until(async || {
            let mut count = cmd("ZCARD");
            count.arg(key());
            redis.command::<u32>("count", &count).await.unwrap() == 1
        })
        .await;
        let second = node(redis.clone(), &stop);
        wait_until(async || second.blocked(bad).is_some()).await;
        stop.cancel();
    }
}
