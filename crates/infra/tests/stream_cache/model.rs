//! Two nodes against the store: no read on the node that raised is older than what it raised, even if it was killed since, none
//! anywhere older than what it asks for, and the other node follows within a message's time of being told, unless its tracking
//! connection is gone.

use crate::fixture::{FakeStore, Node, node, query, user};
use gravity_domain::stream::StreamCache as _;
use gravity_domain::sync::Freshness;
use gravity_test_support::services::Redis as Server;
use gravity_test_support::services::RedisOptions;
use proptest::prelude::*;
use redis::cmd;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const USERS: u128 = 3;
/// What a message may take, and then some for a busy machine.
const FOLLOWS: Duration = Duration::from_millis(100 + 400);

#[derive(Debug, Clone)]
enum Step {
    Read {
        node: usize,
        user: u128,
    },
    ReadAtLeast {
        node: usize,
        user: u128,
    },
    Change {
        node: usize,
        user: u128,
        item: usize,
    },
    /// Node 0 commits a change and is killed before it can tell anyone.
    Die {
        user: u128,
        item: usize,
    },
    /// Every tracking connection is cut; invalidations are lost.
    Cut,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let (node, user) = (0usize..2, 1..=USERS);
    prop_oneof![
        20 => (node.clone(), user.clone()).prop_map(|(node, user)| Step::Read { node, user }),
        5 => (node.clone(), user.clone()).prop_map(|(node, user)| Step::ReadAtLeast { node, user }),
        10 => (node, user.clone(), 0usize..5).prop_map(|(node, user, item)| Step::Change { node, user, item }),
        2 => (user, 0usize..5).prop_map(|(user, item)| Step::Die { user, item }),
        2 => Just(Step::Cut),
        1 => Just(Step::Restart),
    ]
}

struct World {
    server: Server,
    store: Arc<FakeStore>,
    nodes: [Node; 2],
    raised: [HashMap<u128, u64>; 2],
    changed: HashMap<u128, Instant>,
    /// Whose change nobody was told of: a node that has not read it yet cannot tell the other.
    untold: HashSet<u128>,
    /// When both nodes were last seen without tracking.
    blind: Instant,
}

impl World {
    async fn new(durable: bool) -> Self {
        let options = RedisOptions {
            durable,
            ..RedisOptions::default()
        };
        let server = Server::launch(options).unwrap();
        let store = Arc::new(FakeStore::default());
        let nodes = [node(&store, &server).await, node(&store, &server).await];
        Self {
            server,
            store,
            nodes,
            raised: Default::default(),
            changed: HashMap::new(),
            untold: HashSet::new(),
            blind: Instant::now(),
        }
    }

    async fn read(&mut self, at: usize, who: u128, at_least: u64) {
        if !self.nodes.iter().all(|node| node.cache.is_tracking()) {
            self.blind = Instant::now();
        }
        let wanted = self.store.at(user(who));
        let began = Instant::now();
        let page = self.nodes[at]
            .cache
            .page(user(who), &query(), at_least)
            .await
            .unwrap();
        assert_eq!(page.freshness, Freshness::Current);
        let version = page.value.version;
        assert!(version >= at_least);
        assert!(version >= self.raised[at].get(&who).copied().unwrap_or(0));
        let newest = page
            .value
            .items
            .iter()
            .map(|item| item.version)
            .max()
            .unwrap_or(0);
        assert_eq!(newest, version, "the page of another version");
        if at == 0 && self.untold.remove(&who) {
            self.changed.insert(who, Instant::now());
        }
        if version < wanted && !self.untold.contains(&who) {
            let since = self.changed[&who].max(self.blind);
            assert!(
                began - since < FOLLOWS,
                "{version} of {wanted} after {:?}",
                began - since
            );
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Read { node, user } => self.read(node, user, 0).await,
            Step::ReadAtLeast { node, user: who } => {
                let at_least = self.store.at(user(who));
                self.read(node, who, at_least).await;
            }
            Step::Change {
                node,
                user: who,
                item,
            } => {
                let version = self.store.change(user(who), item);
                self.nodes[node].cache.raised(&[(user(who), version)]);
                self.untold.remove(&who);
                self.raised[node].insert(who, version);
                self.changed.insert(who, Instant::now());
            }
            Step::Die { user: who, item } => {
                let version = self.store.change(user(who), item);
                self.raised[0].insert(who, version);
                self.untold.insert(who);
                self.nodes[0] = node(&self.store, &self.server).await;
                self.blind = Instant::now();
            }
            Step::Cut => self.cut().await,
            Step::Restart => {
                self.server.kill();
                self.read(0, 1, 0).await;
                self.server.start().unwrap();
                self.blind = Instant::now();
            }
        }
    }

    async fn cut(&mut self) {
        let redis = self.nodes[0].redis.clone().unwrap();
        let Ok(list) = redis.command::<String>("list", cmd("CLIENT").arg("LIST")).await else {
            return;
        };
        for line in list.lines() {
            let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
            let tracks = field("flags=").is_some_and(|flags| flags.contains('t'));
            if let Some(id) = field("id=").filter(|_| tracks) {
                let _ = redis
                    .command::<i64>("kill", cmd("CLIENT").arg("KILL").arg("ID").arg(id))
                    .await;
            }
        }
        self.blind = Instant::now();
    }

    /// Once all is well again, both nodes see everything, and need not ask for it.
    async fn end(&mut self) {
        let began = Instant::now();
        for who in 1..=USERS {
            for at in 0..2 {
                loop {
                    self.read(at, who, 0).await;
                    let known = self.nodes[at].cache.version(user(who), 0).await;
                    if known == Some(self.store.at(user(who))) {
                        break;
                    }
                    assert!(began.elapsed() < Duration::from_secs(10), "{known:?}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }
}

fn run(durable: bool, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(durable).await;
        for step in steps {
            world.take(step).await;
        }
        world.end().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_read_is_older_than_it_may_be(durable: bool, steps in proptest::collection::vec(step(), 20..150)) {
        run(durable, steps);
    }
}
