//! The disk under a buffer: a small file system that can be filled, and files that can be spoilt.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::random::Random;

const CHUNK: usize = 64 * 1024;

/// A file system in memory. Dropping it unmounts it.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `path`; `None` where we may not mount.
    pub(crate) fn mount(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).ok()?;
        mount(path)?;
        Some(Self {
            path: path.to_owned(),
        })
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let mut file = File::create(self.filler())?;
        let mut chunk = vec![1u8; CHUNK];
        while !chunk.is_empty() {
            match file.write(&chunk) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    let half = chunk.len() / 2;
                    chunk.truncate(half);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Undoes [`Self::fill`].
    pub(crate) fn free(&self) {
        // It is not there when the disk was never filled.
        let _ = fs::remove_file(self.filler());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

#[cfg(target_os = "linux")]
fn mount(path: &Path) -> Option<()> {
    const SIZE: &std::ffi::CStr = c"size=176m";
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, SIZE).ok()
}

#[cfg(target_os = "linux")]
fn unmount(path: &Path) {
    // What is still open goes on until it is closed.
    let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
}

#[cfg(not(target_os = "linux"))]
fn mount(_: &Path) -> Option<()> {
    None
}

#[cfg(not(target_os = "linux"))]
fn unmount(_: &Path) {}

/// Truncates the newest file of the buffer's store, or flips bytes in it: what `how` says. Returns what was done.
pub(crate) fn damage(buffer: &Path, how: u64) -> io::Result<String> {
    let mut random = Random::of(&[how]);
    let mut files = Vec::new();
    collect(buffer, &mut files)?;
    files.retain(|(_, path, length)| *length > 0 && is_of_the_store(path));
    files.sort();
    let Some((_, path, _)) = files.pop() else {
        return Ok("nothing to damage".into());
    };
    let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
    let end = last_byte(&mut file)?;
    let name = path.strip_prefix(buffer).unwrap_or(&path).display().to_string();
    if random.chance(40) {
        let cut = random.between(1, 6_000).min(end);
        file.set_len(end - cut)?;
        return Ok(format!("{name} truncated by {cut} of {end} bytes"));
    }
    let reach = if random.chance(60) { 16_384 } else { end };
    let mut flipped = Vec::new();
    for _ in 0..random.between(1, 12) {
        let at = end.saturating_sub(random.between(1, reach.max(2)));
        let mut byte = [0];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut byte)?;
        byte[0] ^= 1 << random.between(0, 8);
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&byte)?;
        flipped.push(at);
    }
    Ok(format!(
        "{name} of {end} bytes: flipped a bit at each of {flipped:?}"
    ))
}

fn is_of_the_store(path: &Path) -> bool {
    path.ancestors().any(|folder| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("store-") && !name.contains(".damaged")
    })
}

fn collect(folder: &Path, files: &mut Vec<(SystemTime, PathBuf, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        if data.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push((data.modified()?, entry.path(), data.len()));
        }
    }
    Ok(())
}

/// The length of a file without the zeros at its end: stores allocate ahead.
fn last_byte(file: &mut File) -> io::Result<u64> {
    let mut content = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut content)?;
    let zeros = content.iter().rev().take_while(|byte| **byte == 0).count();
    Ok((content.len() - zeros) as u64)
}
