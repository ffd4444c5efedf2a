//! How the writer opens its store, and what it does with one that is damaged, too large, or of the other engine.
//!
//! In order: take the lock; finish a swap that a crash interrupted; make the reserve; copy what sled might cut off; open,
//! setting a damaged store aside; take over what the other engine's store holds, should the setting have changed; restore
//! what damaged stores hold; and compare with the watermark, which tells a store that has lost its end without noticing.
//!
//! All of it is done before the first request is served, since restored operations are older than new ones.

use super::directory::Directory;
use super::engine::{BufferEngine, EngineError, OpenEngine, opening};
use super::queue::{Counters, Draft, Limits, Parcelled, Refusal};
use super::salvage::{SalvageReport, Salvaged, Window, salvage_window};
use super::upkeep::copy_all;
use super::watermark::{Held, Watermark, WatermarkFile};
use super::writer::{Store, Writer};
use super::{lanes, measure, query};
use std::ops::AddAssign;
use std::path::Path;

/// How far sequence numbers jump when the last one used is not known for certain.
const JUMP: u64 = 1 << 20;
const BATCH: usize = 256;
/// How often to try a store that an earlier handle of ours is still letting go of, 10 ms apart.
const LETTING_GO: u32 = 200;

/// What was restored whole.
#[derive(Debug, Clone, Copy, Default)]
struct Restored {
    operations: u64,
    letters: u64,
}

impl AddAssign for Restored {
    fn add_assign(&mut self, more: Self) {
        self.operations += more.operations;
        self.letters += more.letters;
    }
}

impl Writer {
    /// Opens the store and publishes it.
    pub(super) fn open_store(&mut self) -> Result<Store, EngineError> {
        if self.lock.is_none() {
            self.lock = Some(self.directory.lock()?);
        }
        self.directory.finish_swap()?;
        if self.watermark.is_none() {
            self.watermark = Some(WatermarkFile::open(&self.directory.watermark())?);
        }
        let mark = self
            .watermark
            .as_ref()
            .and_then(WatermarkFile::written)
            .unwrap_or_default();
        self.first_reserve();
        self.copy_before(mark);
        let (mut store, set_aside) = self.open_or_set_aside()?;
        let (last, letters) = (store.counters.next - 1, store.counters.dead);
        if mark.acknowledged > last {
            store.counters.next = mark.acknowledged + 1 + if mark.held.operations { JUMP } else { 0 };
            store.commit_counters()?;
        }
        self.take_over_other_engine(&mut store)?;
        let restored = self.restore_damaged(&mut store)?;
        if self.directory.unsalvaged()?.is_empty() {
            self.let_go_of_kept();
        }
        if set_aside {
            self.report_lost(
                mark.count.saturating_sub(restored.operations),
                mark.dead.saturating_sub(restored.letters),
            );
        } else if mark.missing_after(last) > 0 {
            self.restore_lost_end(&mut store, mark, last, letters)?;
        }
        self.find_oldest(&mut store)?;
        self.write_watermark(&store, true);
        self.directory.remove_before()?;
        self.held = None;
        self.generation += 1;
        store.generation = self.generation;
        self.shared.lanes.load(&*store.reader)?;
        self.shared.publish(&store.counters);
        measure::holds(&store.counters);
        self.shared.open(store.reader.clone(), store.generation);
        let waiting = store.counters.count;
        tracing::info!(
            engine = self.settings.engine.as_str(),
            waiting,
            "the write buffer is open"
        );
        Ok(store)
    }

    /// sled cuts its log off at the first broken entry and says nothing: what follows would be gone before anybody could
    /// miss it. While something waits, its files are therefore copied first, and the copy is dropped when nothing is
    /// missing.
    fn copy_before(&self, mark: Watermark) {
        let holds = mark.held != Held::default();
        if holds
            && self.settings.engine.cuts_off_silently()
            && self.condemned.is_none()
            && let Err(error) = self.directory.copy_before()
        {
            tracing::error!(%error, "the write buffer's store could not be copied before it is opened");
        }
    }

    fn open_or_set_aside(&mut self) -> Result<(Store, bool), EngineError> {
        let path = self.directory.store();
        let opened = match self.condemned.clone() {
            Some(why) if path.exists() => Err(EngineError::Damaged(why)),
            _ => open_at(&*self.opener, &path),
        };
        match opened {
            Ok(store) => Ok((store, false)),
            Err(EngineError::Damaged(why)) if path.exists() => {
                let aside = self.directory.set_aside(self.wall.now())?;
                self.condemned = None;
                measure::damaged();
                tracing::error!(%why, aside = %aside.display(), "the write buffer's store is damaged and was set aside");
                Ok((open_at(&*self.opener, &path)?, true))
            }
            Err(EngineError::NoSpace(_)) => {
                self.run_out_of_space();
                Ok((open_at(&*self.opener, &path)?, false))
            }
            Err(error) => Err(error),
        }
    }

    /// Operations do not stay behind in the store of an engine that is no longer the one in use.
    fn take_over_other_engine(&self, store: &mut Store) -> Result<(), EngineError> {
        for other in BufferEngine::ALL
            .into_iter()
            .filter(|it| *it != self.settings.engine)
        {
            let path = self.directory.store_of(other);
            if !path.exists() {
                continue;
            }
            match open_at(&other, &path) {
                Ok(mut old) => {
                    copy_all(&mut old, store, self.wall.now())?;
                    close(old)?;
                    std::fs::remove_dir_all(&path)?;
                    tracing::warn!(
                        engine = other.as_str(),
                        "took over the write buffer of another engine"
                    );
                }
                Err(EngineError::Damaged(why)) => {
                    let aside = Directory::new(&self.settings.path, other).set_aside(self.wall.now())?;
                    measure::damaged();
                    tracing::error!(%why, aside = %aside.display(), "another engine's store is damaged and was set aside");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Restores what the stores that were set aside hold.
    fn restore_damaged(&self, store: &mut Store) -> Result<Restored, EngineError> {
        let mut restored = Restored::default();
        for dir in self.directory.unsalvaged()? {
            let window = Watermark::read(&dir.join("watermark")).map_or(Window::ALL, |mark| Window {
                from: mark.lowest.max(1),
                to: u64::MAX,
            });
            let (more, report) = self.restore(store, &dir, window)?;
            restored += more;
            if let Some(report) = report {
                Directory::mark_salvaged(&dir, &format!("{report:?}"))?;
            }
        }
        Ok(restored)
    }

    /// The store has lost its end and does not know: what its files still hold of it is appended again. `last` and
    /// `letters` are what it had when it was opened.
    fn restore_lost_end(
        &self,
        store: &mut Store,
        mark: Watermark,
        last: u64,
        letters: u64,
    ) -> Result<(), EngineError> {
        let missing = mark.missing_after(last);
        measure::damaged();
        tracing::error!(missing, "the write buffer's store has lost its end");
        let window = Window {
            from: mark.lowest.max(last + 1),
            to: u64::MAX,
        };
        let before = self.directory.before();
        let source = if before.exists() {
            before
        } else {
            self.directory.store()
        };
        let (restored, report) = self.restore(store, &source, window)?;
        if let Some(aside) = self.directory.keep_before(self.wall.now())? {
            Directory::mark_salvaged(&aside, &format!("{report:?}"))?;
        }
        self.report_lost(
            missing.saturating_sub(restored.operations),
            mark.dead.saturating_sub(letters + restored.letters),
        );
        Ok(())
    }

    /// Letters of which only remains are left are lost too.
    fn report_lost(&self, records: u64, letters: u64) {
        if records + letters > 0 {
            measure::lost(records + letters);
            tracing::error!(
                records,
                letters,
                "acknowledged operations could not be restored from the write buffer"
            );
        }
    }

    /// Appends what is found under `dir`. No report when the files could not be read to the end.
    fn restore(
        &self,
        store: &mut Store,
        dir: &Path,
        window: Window,
    ) -> Result<(Restored, Option<SalvageReport>), EngineError> {
        let (mut waiting, mut restored, mut result) = (Vec::new(), Restored::default(), Ok(()));
        let mut flush = |waiting: &mut Vec<Salvaged>| self.append_found(store, std::mem::take(waiting));
        let report = salvage_window(dir, window, &mut |found| {
            waiting.push(found);
            if waiting.len() == BATCH && result.is_ok() {
                result = flush(&mut waiting).map(|more| restored += more);
            }
        });
        result?;
        restored += flush(&mut waiting)?;
        match report {
            Ok(report) => {
                tracing::warn!(?report, ?restored, "searched the files of a damaged store");
                Ok((restored, Some(report)))
            }
            Err(error) => {
                tracing::error!(%error, ?restored, "the files of a damaged store could not be searched");
                Ok((restored, None))
            }
        }
    }

    /// Remains never take the place of a letter.
    fn append_found(&self, store: &mut Store, found: Vec<Salvaged>) -> Result<Restored, EngineError> {
        let reader = store.reader.clone();
        let mut draft = Draft::new(&*reader, store.counters, Limits::NONE);
        let mut letters = 0;
        for item in found {
            match item {
                Salvaged::Operation(operation) => match Parcelled::of(&operation) {
                    Ok(item) => draft.put_back(&item).map_err(failed)?,
                    Err(fault) => {
                        tracing::error!(id = %operation.id, %fault, "a restored operation has no form");
                    }
                },
                other => {
                    let is_whole = matches!(other, Salvaged::Letter(_));
                    let Some(letter) = other.into_letter(self.wall.now()) else {
                        continue;
                    };
                    if is_whole || query::find_letter(&*reader, letter.id)?.is_none() {
                        let before = draft.counters.dead;
                        draft.put_letter(&letter)?;
                        letters += u64::from(is_whole) * (draft.counters.dead - before);
                    }
                }
            }
        }
        let operations = draft.appended;
        store.commit(draft)?;
        Ok(Restored { operations, letters })
    }

    /// Says that the buffer is unavailable, and whether operations may be in it.
    pub(super) fn report_unavailable(&mut self, error: &EngineError) {
        if self.failures == 0 {
            tracing::error!(%error, "the write buffer is unavailable");
        }
        if matches!(error, EngineError::NoSpace(_)) {
            self.run_out_of_space();
        }
        let held = self.held.unwrap_or_else(|| self.held_by_watermark());
        self.shared.close(held, &error.to_string());
    }

    /// A store that was never open here holds what its watermark says; without one, anything, if there is a store.
    fn held_by_watermark(&self) -> Held {
        let stores = BufferEngine::ALL.map(|engine| self.directory.store_of(engine));
        match Watermark::read(&self.directory.watermark()) {
            Some(mark) => mark.held,
            None if stores.iter().any(|path| path.exists()) => Held::UNKNOWN,
            None => Held::default(),
        }
    }
}

/// Opens a store and learns what it holds.
pub(super) fn open_at(opener: &dyn OpenEngine, path: &Path) -> Result<Store, EngineError> {
    let mut opened = opening(opener, path);
    for _ in 0..LETTING_GO {
        if !matches!(opened, Err(EngineError::Locked(_))) {
            break;
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "the writer's own thread, while nothing can be served"
        )]
        std::thread::sleep(std::time::Duration::from_millis(10));
        opened = opening(opener, path);
    }
    let engine = opened?;
    let reader = engine.reader();
    let counted = query::count(&*reader)?;
    let counters = Counters::load(&*reader)?.unwrap_or(counted);
    if counters
        != (Counters {
            next: counters.next,
            ..counted
        })
        || counters.next < counted.next
    {
        return Err(EngineError::Damaged(format!(
            "{counters:?} expected, but {counted:?} found"
        )));
    }
    let waiting = lanes::total(&*reader)?;
    if waiting != counters.count {
        return Err(EngineError::Damaged(format!(
            "{} operations expected, but {waiting} in the lanes",
            counters.count
        )));
    }
    Ok(Store {
        engine,
        reader,
        counters,
        lowest: counters.next,
        generation: 0,
    })
}

pub(super) fn close(store: Store) -> Result<(), EngineError> {
    let Store { engine, reader, .. } = store;
    drop(reader);
    engine.close()
}

pub(super) fn failed(refusal: Refusal) -> EngineError {
    match refusal {
        Refusal::Store(error) => error,
        Refusal::Refused(error) => EngineError::Failed(error.to_string()),
    }
}
