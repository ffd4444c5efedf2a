//! A small value in a file that is overwritten in place: two slots, each with a generation and a checksum, written in
//! turn. Whatever a crash does to the slot being written, the other one stands.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Far enough apart not to share a sector or a page.
const STRIDE: u64 = 4_096;

/// The file, open for writing `N` bytes at a time.
#[derive(Debug)]
pub(super) struct SlotFile<const N: usize> {
    file: File,
    generation: u64,
}

impl<const N: usize> SlotFile<N> {
    /// Opens or creates it, and tells the last value written.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<[u8; N]>)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        if file.metadata()?.len() < 2 * STRIDE {
            let missing = vec![0u8; usize::try_from(2 * STRIDE - file.metadata()?.len()).unwrap_or(0)];
            file.write_all_at(&missing, file.metadata()?.len())?;
            file.sync_all()?;
            path.parent().map_or(Ok(()), super::engine::sync_directory)?;
        }
        let (generation, value) =
            newest(&file).map_or((0, None), |(generation, value)| (generation, Some(value)));
        Ok((Self { file, generation }, value))
    }

    /// Writes a value; on disk when it returns, if `durable`.
    pub(super) fn write(&mut self, value: &[u8; N], durable: bool) -> io::Result<()> {
        let generation = self.generation + 1;
        let mut slot = generation.to_be_bytes().to_vec();
        slot.extend_from_slice(value);
        slot.extend_from_slice(&crc32c::crc32c(&slot).to_be_bytes());
        self.file.write_all_at(&slot, generation % 2 * STRIDE)?;
        self.generation = generation;
        if durable { self.file.sync_data() } else { Ok(()) }
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// The last value written to the file at `path`.
pub(super) fn read<const N: usize>(path: &Path) -> Option<[u8; N]> {
    newest(&File::open(path).ok()?).map(|(_, value)| value)
}

fn newest<const N: usize>(file: &File) -> Option<(u64, [u8; N])> {
    let slot = |at: u64| {
        let mut slot = vec![0u8; 8 + N + 4];
        file.read_exact_at(&mut slot, at * STRIDE).ok()?;
        let (body, sum) = slot.split_last_chunk::<4>()?;
        let (generation, value) = body.split_first_chunk::<8>()?;
        let generation = u64::from_be_bytes(*generation);
        let good = generation > 0 && crc32c::crc32c(body) == u32::from_be_bytes(*sum);
        good.then(|| value.try_into().ok().map(|value| (generation, value)))?
    };
    let (a, b) = (slot(0), slot(1));
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.0 > b.0 { a } else { b }),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_former_value_stands_when_the_last_write_was_torn(
            values in proptest::collection::vec(any::<[u8; 16]>(), 1..6), bit in 0usize..(28 * 8)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("clock");
            let (mut file, before) = SlotFile::open(&path).unwrap();
            prop_assert_eq!(before, None::<[u8; 16]>);
            for value in &values {
                file.write(value, true).unwrap();
                prop_assert_eq!(read(&path), Some(*value));
            }
            let at = values.len() as u64 % 2 * STRIDE + bit as u64 / 8;
            let mut byte = [0u8];
            file.file().read_exact_at(&mut byte, at).unwrap();
            file.file().write_all_at(&[byte[0] ^ (1 << (bit % 8))], at).unwrap();
            let former = values.len().checked_sub(2).map(|at| values[at]);
            prop_assert_eq!(read(&path), former);
        }
    }
}
