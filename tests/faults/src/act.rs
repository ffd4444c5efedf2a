//! Carrying out the steps of a plan.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gravity_test_support::services::fault_proxy::{Direction, FaultProxy, POSTGRES_IDLE};

use crate::Failure;
use crate::admin;
use crate::disk::{self, SmallDisk};
use crate::node::Node;
use crate::plan::{Act, Moment, Store};
use crate::stores::{Stores, blocking};
use crate::user::MARK;

/// What acts work on.
pub(crate) struct Stage<'a> {
    pub(crate) stores: &'a Stores,
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) disk: Option<SmallDisk>,
    pub(crate) intruder: Mutex<Option<Node>>,
    /// What was damaged, and servers that did not stop when asked to.
    pub(crate) notes: Mutex<Vec<String>>,
    pub(crate) stuck: Mutex<Vec<String>>,
}

impl Stage<'_> {
    pub(crate) async fn act(&self, act: Act) -> Result<(), Failure> {
        let stores = self.stores;
        match act {
            Act::Kill(store) => self.store(store, Change::Kill).await?,
            Act::Start(store) => self.store(store, Change::Start).await?,
            Act::Pause(store) => self.store(store, Change::Pause).await?,
            Act::Resume(store) => self.store(store, Change::Resume).await?,
            Act::Cut(store) => self.proxy(store).cut(),
            Act::Refuse(store) => self.proxy(store).refuse(),
            Act::BlackHole(store) => self.proxy(store).black_hole(),
            Act::Pass(store) => self.proxy(store).pass(),
            Act::Slow(ms) => stores.postgres_proxy.delay(Duration::from_millis(ms)),
            Act::CutWrite(moment) => arm(&stores.postgres_proxy, moment, MARK),
            Act::CutCommit(moment) => arm(&stores.postgres_proxy, moment, "COMMIT"),
            Act::Connections(allowed) => {
                let admin = admin::connect(&stores.postgres.url("postgres")).await?;
                admin::connections(&admin, allowed).await?;
            }
            Act::Writable(writable) => {
                let admin = admin::connect(&stores.postgres.url("postgres")).await?;
                admin::writable(&admin, writable).await?;
            }
            Act::KillServer(node) => self.node(node, Node::kill).await?,
            Act::StartServer(node) => self.nodes[node].start()?,
            Act::TermServer(node) => {
                let served = Arc::clone(&self.nodes[node]);
                let orderly = blocking(move || Ok(served.terminate())).await?;
                if !orderly {
                    note(&self.stuck, "the server did not end after SIGTERM".into());
                }
                self.nodes[node].start()?;
            }
            Act::FillDisk => {
                if let Some(disk) = &self.disk {
                    disk.fill()?;
                }
            }
            Act::FreeDisk => {
                if let Some(disk) = &self.disk {
                    disk.free();
                }
            }
            Act::Damage(node, how) => note(&self.notes, disk::damage(&self.nodes[node].buffer, how)?),
            Act::Intrude(node) => {
                let other = self.nodes[node].intruder()?;
                other.start()?;
                *self.intruder.lock().unwrap_or_else(PoisonError::into_inner) = Some(other);
            }
            Act::Evict => self.evict().await?,
        }
        Ok(())
    }

    /// Ends the intruder, if there is one.
    pub(crate) async fn evict(&self) -> Result<(), Failure> {
        let other = self
            .intruder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        blocking(move || {
            drop(other);
            Ok(())
        })
        .await
    }

    fn proxy(&self, store: Store) -> &FaultProxy {
        match store {
            Store::Postgres => &self.stores.postgres_proxy,
            Store::Redis => &self.stores.redis_proxy,
        }
    }

    async fn node(&self, node: usize, work: fn(&Node)) -> Result<(), Failure> {
        let node = Arc::clone(&self.nodes[node]);
        blocking(move || {
            work(&node);
            Ok(())
        })
        .await
    }

    async fn store(&self, store: Store, change: Change) -> Result<(), Failure> {
        let (postgres, redis) = (Arc::clone(&self.stores.postgres), Arc::clone(&self.stores.redis));
        blocking(move || {
            match (store, change) {
                (Store::Postgres, Change::Kill) => postgres.kill(),
                (Store::Postgres, Change::Start) => postgres.start()?,
                (Store::Redis, Change::Kill) => redis.kill(),
                (Store::Redis, Change::Start) => redis.start()?,
                // Pausing one that is down, or continuing one that was killed since, changes nothing.
                (Store::Postgres, Change::Pause) => drop(postgres.pause()),
                (Store::Postgres, Change::Resume) => drop(postgres.resume()),
                (Store::Redis, Change::Pause) => drop(redis.pause()),
                (Store::Redis, Change::Resume) => drop(redis.resume()),
            }
            Ok(())
        })
        .await
    }
}

#[derive(Clone, Copy)]
enum Change {
    Kill,
    Start,
    Pause,
    Resume,
}

fn arm(proxy: &FaultProxy, moment: Moment, pattern: &str) {
    match moment {
        Moment::Before => proxy.cut_before_next_match(Direction::ToServer, pattern),
        Moment::During => proxy.cut_after_next_match(Direction::ToServer, pattern),
        Moment::After => proxy.lose_answer(pattern, POSTGRES_IDLE),
    }
}

fn note(notes: &Mutex<Vec<String>>, note: String) {
    notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
}
