//! The cache against a model: a list of tasks as Postgres would have it, and readers that are slow.

use super::*;
use gravity_domain::clock::{Hlc, NodeId};
use gravity_domain::id::TaskId;
use gravity_domain::sync::Lww;
use gravity_domain::task::{TaskStatus, Title};
use proptest::prelude::*;
use std::collections::HashMap;

const USER: UserId = UserId(Uuid::from_u128(1));

fn hlc(wall_ms: u64) -> Hlc {
    Hlc {
        wall_ms,
        counter: 0,
        node: NodeId(1),
    }
}

fn task(n: u64, version: u64) -> Task {
    Task {
        id: TaskId(Uuid::from_u128(u128::from(n) + 100)),
        user_id: USER,
        title: Lww::new(Title::parse(&format!("v{version}")).unwrap(), hlc(n)),
        description: Lww::new(None, hlc(n)),
        status: Lww::new(TaskStatus::ALL[(version % 4) as usize], hlc(n)),
        // Some are created in the same millisecond.
        created: hlc(n / 2),
        deleted: None,
        version,
        updated_at: hlc(n).timestamp(),
    }
}

fn cache(rows: usize) -> CachedTasks {
    CachedTasks::new(TaskCacheLimits {
        rows_per_user: rows,
        ..TaskCacheLimits::default()
    })
}

/// Postgres.
#[derive(Default)]
struct Truth(HashMap<Uuid, Task>);

impl Truth {
    fn list(&self, filter: TaskFilter, after: Option<PageKey>, limit: usize) -> Vec<Task> {
        let mut all: Vec<Task> = self
            .0
            .values()
            .filter(|task| filter.shows(task))
            .cloned()
            .collect();
        all.sort_by_key(|task| std::cmp::Reverse(task.page_key()));
        all.retain(|task| after.is_none_or(|after| task.page_key() < after));
        all.truncate(limit);
        all
    }

    fn page(&self, after: Option<PageKey>, limit: usize) -> KnownPage {
        let mut tasks = self.list(TaskFilter::default(), after, limit + 1);
        let is_last = tasks.len() <= limit;
        tasks.truncate(limit);
        KnownPage {
            after,
            tasks,
            is_last,
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Create(u64),
    Update(usize),
    Delete(usize),
    /// Reads a page now; it is learnt later.
    Read {
        after: Option<usize>,
        limit: usize,
    },
    Learn(usize),
    Evict,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0u64..60).prop_map(Step::Create),
        4 => (0usize..60).prop_map(Step::Update),
        3 => (0usize..60).prop_map(Step::Delete),
        5 => (proptest::option::weighted(0.4, 0usize..60), 1usize..12)
            .prop_map(|(after, limit)| Step::Read { after, limit }),
        5 => (0usize..6).prop_map(Step::Learn),
        1 => Just(Step::Evict),
    ]
}

/// A world in which every write passes by the cache; with `others`, some do not.
struct World {
    cache: CachedTasks,
    truth: Truth,
    reads: Vec<(u64, KnownPage)>,
    /// The newest version this node has learnt of each task.
    learnt: HashMap<Uuid, u64>,
}

impl World {
    fn any(&self, index: usize) -> Option<Task> {
        let mut all: Vec<&Task> = self
            .truth
            .0
            .values()
            .filter(|task| task.deleted.is_none())
            .collect();
        all.sort_by_key(|task| task.page_key());
        (!all.is_empty()).then(|| all[index % all.len()].clone())
    }

    fn write(&mut self, task: Task, own: bool) {
        self.truth.0.insert(task.id.0, task.clone());
        if own {
            self.learnt.insert(task.id.0, task.version);
            self.cache.learn(task);
        }
    }

    fn step(&mut self, step: &Step, own: bool) {
        match *step {
            Step::Create(n) => {
                let new = task(n, 1);
                if !self.truth.0.contains_key(&new.id.0) {
                    self.write(new, own);
                }
            }
            Step::Update(index) => {
                if let Some(old) = self.any(index) {
                    let mut new = task(0, old.version + 1);
                    (new.id, new.created) = (old.id, old.created);
                    self.write(new, own);
                }
            }
            Step::Delete(index) => {
                if let Some(mut old) = self.any(index) {
                    old.version += 1;
                    old.deleted = Some(hlc(99));
                    self.write(old, own);
                }
            }
            Step::Read { after, limit } => {
                let mark = self.cache.mark(USER);
                let after = after
                    .and_then(|index| self.any(index))
                    .map(|task| task.page_key());
                self.reads.push((mark, self.truth.page(after, limit)));
            }
            Step::Learn(index) => {
                if !self.reads.is_empty() {
                    let (mark, page) = self.reads.swap_remove(index % self.reads.len());
                    self.cache.learn_page(USER, mark, page);
                }
            }
            Step::Evict => self.cache.forget(USER),
        }
    }
}

fn world(rows: usize) -> World {
    World {
        cache: cache(rows),
        truth: Truth::default(),
        reads: Vec::new(),
        learnt: HashMap::new(),
    }
}

fn filters() -> impl Iterator<Item = TaskFilter> {
    let statuses = TaskStatus::ALL.into_iter().map(Some);
    statuses.chain([None]).map(|status| TaskFilter { status })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn when_every_write_passes_by_whatever_it_says_is_what_postgres_has(
        steps in proptest::collection::vec(step(), 1..120), rows in prop_oneof![Just(4usize), Just(12), Just(500)]
    ) {
        let mut world = world(rows);
        for step in &steps {
            world.step(step, true);
            for filter in filters() {
                for (after, limit) in [(None, 1), (None, 3), (None, 50), (world.any(3).map(|task| task.page_key()), 4)] {
                    if let Some(list) = world.cache.list(USER, filter, after, limit) {
                        prop_assert_eq!(list, world.truth.list(filter, after, limit), "after {:?}", step);
                    }
                }
            }
            for n in 0..60 {
                let id = task(n, 1).id.0;
                let row = world.truth.0.get(&id);
                match world.cache.find(USER, id) {
                    Found::Known(known) => prop_assert_eq!(Some(&known), row),
                    Found::Absent => prop_assert!(row.is_none_or(|row| row.deleted.is_some())),
                    Found::Unknown => {}
                }
            }
        }
    }

    #[test]
    fn when_others_write_too_no_own_write_is_ever_undone(
        steps in proptest::collection::vec((any::<bool>(), step()), 1..120)
    ) {
        let mut world = world(500);
        for (own, step) in &steps {
            if matches!(step, Step::Evict) { continue; }
            world.step(step, *own);
            for (id, version) in &world.learnt {
                match world.cache.find(USER, *id) {
                    Found::Known(known) => prop_assert!(known.version >= *version),
                    // Only another's delete takes it away.
                    _ => prop_assert!(world.truth.0[id].deleted.is_some()),
                }
            }
        }
        world.reads.clear();
        let mark = world.cache.mark(USER);
        let page = world.truth.page(None, 500);
        world.cache.learn_page(USER, mark, page);
        let all = world.cache.list(USER, TaskFilter::default(), None, 500);
        prop_assert_eq!(all, Some(world.truth.list(TaskFilter::default(), None, 500)));
    }
}

#[test]
fn an_unknown_list_is_not_an_empty_one() {
    let cache = cache(500);
    assert_eq!(cache.list(USER, TaskFilter::default(), None, 20), None);
    cache.learn(task(1, 1));
    assert_eq!(cache.list(USER, TaskFilter::default(), None, 20), None);
    assert!(!cache.knows_list(USER, 1));
    assert_eq!(cache.find(USER, task(2, 1).id.0), Found::Unknown);

    let mark = cache.mark(USER);
    let nothing = KnownPage {
        after: None,
        tasks: Vec::new(),
        is_last: true,
    };
    cache.learn_page(USER, mark, nothing);
    assert!(cache.knows_list(USER, 200));
    assert_eq!(
        cache.list(USER, TaskFilter::default(), None, 20),
        Some(Vec::new())
    );
    assert_eq!(cache.find(USER, task(1, 1).id.0), Found::Absent);
}

#[test]
fn a_list_is_served_as_far_as_it_is_known() {
    let cache = cache(500);
    let mut truth = Truth::default();
    for n in 0..40 {
        truth.0.insert(task(n, 1).id.0, task(n, 1));
    }
    let mark = cache.mark(USER);
    cache.learn_page(USER, mark, truth.page(None, 20));
    let first = cache.list(USER, TaskFilter::default(), None, 20).unwrap();
    assert_eq!(first.len(), 20);
    assert_eq!(cache.list(USER, TaskFilter::default(), None, 21), None);
    let next = first.last().map(Task::page_key);
    assert_eq!(cache.list(USER, TaskFilter::default(), next, 1), None);
    cache.learn_page(USER, mark, truth.page(next, 20));
    assert_eq!(
        cache.list(USER, TaskFilter::default(), None, 100).unwrap().len(),
        40
    );
}

#[test]
fn memory_is_bounded_and_the_user_seen_longest_ago_is_forgotten_first() {
    let cache = CachedTasks::new(TaskCacheLimits {
        bytes: 20_000,
        ..TaskCacheLimits::default()
    });
    for user in 0..100u128 {
        let mut task = task(1, 1);
        task.user_id = UserId(Uuid::from_u128(user));
        cache.learn(task);
        cache.users.run_pending_tasks();
    }
    assert!(cache.users.weighted_size() <= 20_000);
    let known = |user| cache.find(UserId(Uuid::from_u128(user)), task(1, 1).id.0);
    assert!(matches!(known(99), Found::Known(_)));
    assert_eq!(known(0), Found::Unknown);
}

#[test]
fn a_list_is_known_to_the_depth_that_was_read() {
    let cache = cache(500);
    let mark = cache.mark(USER);
    let tasks = vec![task(3, 1), task(2, 1), task(1, 1)];
    let page = KnownPage {
        after: None,
        tasks,
        is_last: false,
    };
    cache.learn_page(USER, mark, page);
    assert!(cache.knows_list(USER, 3));
    assert!(!cache.knows_list(USER, 4));
}

#[test]
fn a_row_read_before_its_list_was_forgotten_does_not_come_back() {
    let cache = cache(500);
    let mark = cache.mark(USER);
    cache.learn(task(1, 2));
    cache.forget(USER);
    cache.learn_read(task(1, 1), mark);
    assert_eq!(cache.find(USER, task(1, 1).id.0), Found::Unknown);
    cache.learn_read(task(1, 2), cache.mark(USER));
    assert_eq!(cache.find(USER, task(1, 1).id.0), Found::Known(task(1, 2)));
}

#[test]
fn a_row_that_is_being_learnt_while_its_list_is_forgotten_does_not_come_back() {
    use std::sync::mpsc::channel;
    let known = cache(500);
    known.learn(task(1, 1));
    let ((begun, has_begun), (let_go, go_on), (forgot, forgotten)) = (channel(), channel(), channel());
    std::thread::scope(|threads| {
        let cache = &known;
        threads.spawn(move || {
            cache.change(USER, |known, tick| {
                known.learn(task(2, 1), tick);
                begun.send(()).unwrap();
                go_on.recv().unwrap();
            });
        });
        has_begun.recv().unwrap();
        threads.spawn(move || {
            cache.forget(USER);
            forgot.send(()).unwrap();
        });
        // It has to wait; were it to end, that would be before the row is put.
        let waits = forgotten.recv_timeout(std::time::Duration::from_millis(50));
        let_go.send(()).unwrap();
        assert!(waits.is_err());
    });
    for n in [1, 2] {
        assert_eq!(known.find(USER, task(n, 1).id.0), Found::Unknown);
    }
}

#[test]
fn a_mark_waits_for_what_is_being_learnt_and_keeps_it() {
    use std::sync::mpsc::channel;
    let known = cache(500);
    let ((begun, has_begun), (let_go, go_on), (marked, has_marked)) = (channel(), channel(), channel());
    std::thread::scope(|threads| {
        let cache = &known;
        threads.spawn(move || {
            cache.change(USER, |known, tick| {
                known.learn(task(1, 2), tick);
                begun.send(()).unwrap();
                go_on.recv().unwrap();
            });
        });
        has_begun.recv().unwrap();
        threads.spawn(move || marked.send(cache.mark(USER)).unwrap());
        let waits = has_marked.recv_timeout(std::time::Duration::from_millis(50));
        let_go.send(()).unwrap();
        assert!(waits.is_err());
        let mark = has_marked.recv().unwrap();
        cache.learn_read(task(1, 1), mark);
    });
    assert_eq!(known.find(USER, task(1, 1).id.0), Found::Known(task(1, 2)));
}
