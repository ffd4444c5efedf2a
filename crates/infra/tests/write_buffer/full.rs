//! A file system of 48 MiB, half of it ballast, that is really full. Mounting one needs root; elsewhere the same is done
//! to an engine that only says so, in the unit tests. Both stores drain from their reserve, which must not be taken back
//! from them before there is room for it twice.

use crate::home::{Home, ids, large, task, until, update, user};
use crate::on_both_engines;
use gravity_domain::sync::ports::{DrainBuffer, WriteBuffer};
use gravity_domain::sync::{BufferError, BufferState};
use gravity_infra::write_buffer::{BufferEngine, DurableBuffer};
use std::path::{Path, PathBuf};
use std::process::Command;

on_both_engines!(a_full_disk_loses_nothing_and_takes_writes_again_when_there_is_room);

struct Mounted(PathBuf);

impl Mounted {
    fn new(path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"])
            .arg(path)
            .output();
        mount
            .is_ok_and(|it| it.status.success())
            .then(|| Self(path.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Removes everything, going on after refusals as the drain does.
async fn drain_slowly(buffer: &DurableBuffer) {
    let mut failures = 0;
    while buffer.status().size > 0 {
        let batch = buffer.peek(None, 50).await.unwrap_or_default();
        let parcels = batch.into_iter().map(|entry| entry.parcel).collect();
        if let Err(error) = buffer.remove(parcels).await {
            failures += 1;
            assert!(failures < 10, "{error}, {} left", buffer.status().size);
            until(buffer, |status| status.state != BufferState::Unavailable).await;
        }
    }
}

async fn a_full_disk_loses_nothing_and_takes_writes_again_when_there_is_room(engine: BufferEngine) {
    let mut home = Home::new(engine);
    home.settings.reserve_bytes = 4 << 20;
    let Some(_mounted) = Mounted::new(&home.settings.path) else {
        return;
    };
    let ballast = home.settings.path.join("ballast");
    std::fs::write(&ballast, vec![0x11u8; 24 << 20]).unwrap();
    let buffer = home.open().await;
    let mut acknowledged = Vec::new();
    let (mut refused, mut full) = (0, 0);
    for n in 0..4_000u64 {
        let operation = large(user(u128::from(n) % 7), task(1), n, 9_000);
        match buffer.append(operation.clone()).await {
            Ok(()) => acknowledged.push(operation.id),
            Err(error) => {
                refused += 1;
                full += u32::from(error == BufferError::Full);
            }
        }
        if refused > 20 {
            break;
        }
    }
    assert!(
        refused > 20 && acknowledged.len() > 100,
        "{} kept",
        acknowledged.len()
    );
    assert!(full > 0);
    until(&buffer, |status| status.state != BufferState::Unavailable).await;
    let found = ids(&buffer).await;
    assert!(acknowledged.iter().all(|id| found.contains(id)));
    buffer.close().await;
    let buffer = home.open().await;
    let found = ids(&buffer).await;
    assert!(acknowledged.iter().all(|id| found.contains(id)));
    drain_slowly(&buffer).await;
    until(&buffer, |status| status.state == BufferState::Empty).await;
    buffer.append(update(user(1), task(1), 9_999)).await.unwrap();
}
