//! What is known of one user's tasks.
//!
//! Rows lie in list order, tombstones among them. From the top down to the `extent` the list is known without a gap;
//! rows below it are islands: good for finding them by id, not for listing.
//!
//! Each row carries the tick since which it is known: that of its own learning, or the mark of its page. A page knows better
//! than what was learnt up to its mark, and not as well as what was learnt later. What was forgotten cannot be compared any
//! more: a page whose mark is earlier than the tick of a forgotten row, or than that of another page learnt meanwhile, is
//! not taken. So nothing that was known comes back in an older version.

use gravity_domain::page::PageKey;
use gravity_domain::sync::Found;
use gravity_domain::task::{KnownPage, Task, TaskFilter};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use uuid::Uuid;

/// Down to where a list is known from its top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Not even the top.
    Nothing,
    /// This position and everything above it.
    Down(PageKey),
    /// All of it.
    All,
}

impl Extent {
    fn covers(self, key: PageKey) -> bool {
        match self {
            Self::Nothing => false,
            Self::Down(end) => key >= end,
            Self::All => true,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::Nothing, extent) | (extent, Self::Nothing) => extent,
            (Self::Down(one), Self::Down(two)) => Self::Down(one.min(two)),
        }
    }
}

#[derive(Debug)]
struct Row {
    task: Task,
    learnt: u64,
}

/// How much is kept of one user's tasks; beyond, the oldest are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowLimits {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct KnownTasks {
    rows: BTreeMap<PageKey, Row>,
    places: HashMap<Uuid, PageKey>,
    extent: Extent,
    bytes: usize,
    /// Pages marked before this tick are not taken.
    horizon: u64,
    limits: RowLimits,
}

impl KnownTasks {
    /// Knows nothing; made at the tick `born`.
    pub(super) fn new(born: u64, limits: RowLimits) -> Self {
        Self {
            rows: BTreeMap::new(),
            places: HashMap::new(),
            extent: Extent::Nothing,
            bytes: 0,
            horizon: born,
            limits,
        }
    }

    /// Roughly the bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the first `rows` live tasks are known, or all.
    pub(super) fn knows_list(&self, rows: usize) -> bool {
        let Extent::Down(end) = self.extent else {
            return self.extent == Extent::All;
        };
        let live = self
            .rows
            .range(end..)
            .filter(|(_, row)| row.task.deleted.is_none());
        live.take(rows).count() == rows
    }

    pub(super) fn find(&self, id: Uuid) -> Found<Task> {
        match self.places.get(&id).and_then(|key| self.rows.get(key)) {
            Some(row) => Found::Known(row.task.clone()),
            None if self.extent == Extent::All => Found::Absent,
            None => Found::Unknown,
        }
    }

    pub(super) fn list(&self, filter: TaskFilter, after: Option<PageKey>, limit: usize) -> Option<Vec<Task>> {
        let below = after.map_or(Bound::Unbounded, Bound::Excluded);
        let known = match self.extent {
            Extent::Nothing => return None,
            Extent::Down(end) if after.is_some_and(|after| after <= end) => {
                return (limit == 0).then(Vec::new);
            }
            Extent::Down(end) => self.rows.range((Bound::Included(end), below)),
            Extent::All => self.rows.range((Bound::Unbounded, below)),
        };
        let shown = known
            .rev()
            .map(|(_, row)| &row.task)
            .filter(|task| filter.shows(task));
        let page: Vec<Task> = shown.take(limit).cloned().collect();
        (page.len() == limit || self.extent == Extent::All).then_some(page)
    }

    /// Takes a row, unless a newer version is known.
    pub(super) fn learn(&mut self, task: Task, tick: u64) {
        self.put(task, tick);
        self.shrink();
    }

    /// Takes a row that was read after the tick `mark`, unless what has been forgotten since may have been newer.
    pub(super) fn learn_read(&mut self, task: Task, mark: u64) {
        if mark >= self.horizon {
            self.learn(task, mark);
        }
    }

    /// Takes a stretch of the list that was read after the tick `mark`.
    pub(super) fn learn_page(&mut self, page: KnownPage, mark: u64) {
        let end = match page.tasks.last() {
            _ if page.is_last => Extent::All,
            Some(last) => Extent::Down(last.page_key()),
            None => return,
        };
        if mark < self.horizon {
            return;
        }
        self.forget_missing(&page, end, mark);
        for task in page.tasks {
            self.put(task, mark);
        }
        if page.after.is_none_or(|after| self.extent.covers(after)) {
            self.extent = self.extent.and(end);
        }
        self.horizon = self.horizon.max(mark);
        self.shrink();
    }

    /// Forgets what is in the page's range but not on it, unless it was learnt after the mark.
    fn forget_missing(&mut self, page: &KnownPage, end: Extent, mark: u64) {
        let lowest = match end {
            Extent::Down(end) => Bound::Included(end),
            Extent::All | Extent::Nothing => Bound::Unbounded,
        };
        let highest = page.after.map_or(Bound::Unbounded, Bound::Excluded);
        if page
            .after
            .is_some_and(|after| matches!(end, Extent::Down(end) if end >= after))
        {
            return;
        }
        let on_page: HashSet<PageKey> = page.tasks.iter().map(Task::page_key).collect();
        let range = self.rows.range((lowest, highest));
        let missing = range.filter(|(key, row)| row.learnt <= mark && !on_page.contains(*key));
        let missing: Vec<PageKey> = missing.map(|(key, _)| *key).collect();
        for key in missing {
            self.remove(key);
        }
    }

    fn put(&mut self, task: Task, tick: u64) {
        let key = task.page_key();
        let mut learnt = tick;
        if let Some(row) = self.rows.get(&key) {
            if task.version < row.task.version {
                return;
            }
            learnt = learnt.max(row.learnt);
            self.bytes = self.bytes.saturating_sub(weight(&row.task));
        }
        self.bytes += weight(&task);
        self.places.insert(task.id.0, key);
        self.rows.insert(key, Row { task, learnt });
    }

    /// Lets go of the oldest while there is too much; what is known without a gap then ends above them.
    fn shrink(&mut self) {
        while self.rows.len() > self.limits.rows || self.bytes > self.limits.bytes {
            let Some(oldest) = self.rows.keys().next().copied() else {
                return;
            };
            self.remove(oldest);
            if self.extent.covers(oldest) {
                self.extent = self
                    .rows
                    .keys()
                    .next()
                    .map_or(Extent::Nothing, |key| Extent::Down(*key));
            }
        }
    }

    fn remove(&mut self, key: PageKey) {
        if let Some(row) = self.rows.remove(&key) {
            self.places.remove(&row.task.id.0);
            self.bytes = self.bytes.saturating_sub(weight(&row.task));
            self.horizon = self.horizon.max(row.learnt);
        }
    }
}

/// Roughly the bytes of a row in memory, indexes included.
fn weight(task: &Task) -> usize {
    const FIXED: usize = 512;
    let description = task.description.value.as_ref();
    FIXED + task.title.value.as_str().len() + description.map_or(0, |text| text.as_str().len())
}
