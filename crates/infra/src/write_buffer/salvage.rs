//! Finds operations and dead letters in the raw bytes of a store that cannot be opened, or that has lost its end.
//!
//! Every frame carries its checksum and its place, so the files are searched for frames wherever they lie; the parts of
//! each record are brought together again and handed on in order of acceptance. Memory: about 56 bytes a frame while it
//! runs. Stores leave the bytes of removed records behind, so a [`Window`] names the sequence numbers that may still
//! have waited; without one everything found is handed on, which is safe because replay is idempotent.

use super::letter;
use super::record::{self, Envelope, Fault, Frame, Kind, MAGIC, MAX_FRAME};
use super::watermark::Watermark;
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::{DeadLetter, Operation};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const CHUNK: usize = 1 << 20;

/// The sequence numbers that are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The lowest.
    pub from: u64,
    /// The highest.
    pub to: u64,
}

impl Window {
    /// All.
    pub const ALL: Self = Self {
        from: 0,
        to: u64::MAX,
    };

    fn contains(self, sequence: u64) -> bool {
        (self.from..=self.to).contains(&sequence)
    }
}

/// What was found, in order of acceptance; letters come last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Salvaged {
    /// A waiting operation.
    Operation(Box<Operation>),
    /// A dead letter.
    Letter(Box<DeadLetter>),
    /// What is left of a dead letter, or of a record whose number lies in the window, and why it is not more.
    Fragment {
        /// The number of the record, as far as its broken header can be trusted; 0 of a letter.
        sequence: u64,
        /// The operation: by the envelope, where that is whole; by the header of its frame, where it is a letter's.
        id: Option<OperationId>,
        /// Whose it is, where the envelope is whole.
        user: Option<UserId>,
        /// The bytes of its first frame left; of all of it, where it is whole and only cannot be decoded.
        raw: Vec<u8>,
        /// `checksum_mismatch` or `undecodable: …`.
        fault: String,
    },
}

impl Salvaged {
    /// The letter that a fragment becomes; a letter as it is; none for an operation.
    pub fn into_letter(self, now: Timestamp) -> Option<DeadLetter> {
        match self {
            Self::Operation(_) => None,
            Self::Letter(letter) => Some(*letter),
            Self::Fragment {
                id, user, raw, fault, ..
            } => Some(DeadLetter {
                id: id.unwrap_or_else(|| letter::id_from(&raw)),
                operation: None,
                user_id: user,
                reason: fault,
                died_at: now,
                raw: Some(letter::kept(&raw).to_vec()),
            }),
        }
    }
}

/// What a salvage came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SalvageReport {
    /// Bytes searched.
    pub bytes: u64,
    /// Whole frames found, copies included.
    pub frames: u64,
    /// Operations handed on.
    pub operations: u64,
    /// Dead letters handed on.
    pub letters: u64,
    /// Remains of records and letters that could not be restored.
    pub fragments: u64,
}

/// What has been handed on.
#[derive(Default)]
struct Told {
    records: HashSet<u64>,
    letters: HashSet<[u8; 16]>,
}

impl Told {
    /// False when the record or letter of this frame was there before.
    fn insert(&mut self, hit: &Hit) -> bool {
        match hit.kind {
            Kind::Record => self.records.insert(hit.sequence),
            Kind::Letter => self.letters.insert(hit.id),
        }
    }

    /// Whether a whole letter, or the remains of one, was handed on under this id.
    fn has_letter(&self, id: OperationId) -> bool {
        self.letters.contains(id.0.as_bytes())
    }
}

/// One frame, and where it lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    kind: Kind,
    /// Sequence of a record, 0 of a letter: the first thing to sort by.
    sequence: u64,
    id: [u8; 16],
    whole: u32,
    part: u16,
    parts: u16,
    file: u16,
    size: u16,
    at: u64,
}

/// Searches `bytes` and tells each frame: its offset, and the frame or, where its header looks like ours but its
/// checksum is wrong, the fault. Frames that begin in the last [`MAX_FRAME`] bytes may be cut off.
pub fn scan(bytes: &[u8], visit: &mut dyn FnMut(usize, Result<Frame<'_>, Fault>)) {
    let mut at = 0;
    while let Some(found) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|byte| *byte == MAGIC[0]))
    {
        at += found;
        let here = &bytes[at..];
        if here.starts_with(&MAGIC) {
            let frame = Frame::parse(&here[..here.len().min(MAX_FRAME)]);
            let size = frame.as_ref().map_or(1, Frame::size);
            visit(at, frame);
            at += size;
        } else {
            at += 1;
        }
    }
}

/// Hands every operation and dead letter found in the files under `dir` to `visit`. The window is that of the watermark
/// that was set aside with the store; all, when there is none.
///
/// # Errors
/// The first error from reading the files.
pub fn salvage(dir: &Path, visit: &mut dyn FnMut(Salvaged)) -> io::Result<SalvageReport> {
    let window = Watermark::read(&dir.join("watermark")).map_or(Window::ALL, |watermark| Window {
        from: watermark.lowest,
        to: u64::MAX,
    });
    salvage_window(dir, window, visit)
}

/// As [`salvage`], for the records in `window`.
///
/// # Errors
/// As [`salvage`].
pub fn salvage_window(
    dir: &Path,
    window: Window,
    visit: &mut dyn FnMut(Salvaged),
) -> io::Result<SalvageReport> {
    let mut search = Search {
        window,
        files: Vec::new(),
        hits: Vec::new(),
        broken: Vec::new(),
        report: SalvageReport::default(),
    };
    for path in files_under(dir)? {
        search.file(&path)?;
    }
    search.hits.sort_unstable();
    search
        .hits
        .dedup_by_key(|hit| (hit.kind, hit.id, hit.whole, hit.part));
    search.hand_on(visit)?;
    Ok(search.report)
}

fn files_under(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_under(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

struct Search {
    window: Window,
    files: Vec<File>,
    hits: Vec<Hit>,
    broken: Vec<Hit>,
    report: SalvageReport,
}

impl Search {
    /// Searches one file, in pieces that overlap by a frame.
    fn file(&mut self, path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let number = u16::try_from(self.files.len()).unwrap_or(u16::MAX);
        let (mut buffer, mut start) = (vec![0u8; CHUNK + MAX_FRAME], 0u64);
        while start < length {
            let size = usize::try_from(length - start)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            file.read_exact_at(&mut buffer[..size], start)?;
            let bytes = &buffer[..size];
            scan(bytes, &mut |at, frame| {
                if at < CHUNK {
                    self.note(number, start + at as u64, &bytes[at..], frame);
                }
            });
            start += CHUNK as u64;
        }
        self.report.bytes += length;
        self.files.push(file);
        Ok(())
    }

    fn note(&mut self, file: u16, at: u64, bytes: &[u8], frame: Result<Frame<'_>, Fault>) {
        let good = frame.is_ok();
        let Some((kind, id, whole, part, parts, size)) = frame.ok().map_or_else(
            || {
                let (kind, id) = record::claim(bytes)?;
                Some((kind, id, 0, 0, 1, bytes.len().min(MAX_FRAME)))
            },
            |it| Some((it.kind, it.id, it.whole, it.part, it.parts, it.size())),
        ) else {
            return;
        };
        self.report.frames += u64::from(good);
        let parcel = record::parcel_of(id);
        let sequence = match (kind, parcel) {
            (Kind::Letter, _) => 0,
            (Kind::Record, Some(parcel)) if self.window.contains(parcel.sequence) => parcel.sequence,
            _ => return,
        };
        let hit = Hit {
            kind,
            sequence,
            id,
            whole,
            part,
            parts,
            file,
            size: u16::try_from(size).unwrap_or(u16::MAX),
            at,
        };
        if good {
            self.hits.push(hit);
        } else {
            self.broken.push(hit);
        }
    }

    /// Hands on what is whole, then what is left of the rest.
    fn hand_on(&mut self, visit: &mut dyn FnMut(Salvaged)) -> io::Result<()> {
        let hits = std::mem::take(&mut self.hits);
        let mut told = Told::default();
        let mut rest = Vec::new();
        for group in hits.chunk_by(|a, b| (a.kind, a.id, a.whole) == (b.kind, b.id, b.whole)) {
            let frames = group
                .iter()
                .map(|hit| self.read(*hit))
                .collect::<io::Result<Vec<_>>>()?;
            match restore(group[0], &frames) {
                Ok(found) => {
                    told.insert(&group[0]);
                    match found {
                        Salvaged::Letter(_) => self.report.letters += 1,
                        _ => self.report.operations += 1,
                    }
                    visit(found);
                }
                Err((fault, payload)) => rest.push((group[0], fault, payload)),
            }
        }
        // Pages of the store may end within the remains of an old frame: without a window a broken one proves nothing.
        if self.window.from > 0 {
            rest.extend(
                std::mem::take(&mut self.broken)
                    .into_iter()
                    .map(|hit| (hit, Fault::Checksum, None)),
            );
        }
        for (hit, fault, payload) in rest {
            if !told.insert(&hit) {
                continue;
            }
            let fragment = match payload {
                Some(payload) => undecoded(hit, payload, &fault),
                None => fragment(hit, self.read(hit)?, &fault),
            };
            // A letter tells more of its operation than the remains of its record.
            let is_known = matches!(&fragment, Salvaged::Fragment { id: Some(id), .. }
                if hit.kind == Kind::Record && told.has_letter(*id));
            if !is_known {
                visit(fragment);
                self.report.fragments += 1;
            }
        }
        Ok(())
    }

    fn read(&self, hit: Hit) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0u8; usize::from(hit.size)];
        self.files[usize::from(hit.file)].read_exact_at(&mut bytes, hit.at)?;
        Ok(bytes)
    }
}

fn fragment(hit: Hit, raw: Vec<u8>, fault: &Fault) -> Salvaged {
    let envelope = Frame::parse(&raw).and_then(|frame| match frame.part {
        0 => Envelope::parse(frame.bytes),
        _ => Err(Fault::Checksum),
    });
    remains(hit, envelope, raw, fault)
}

/// A record or letter that is whole, but means nothing here.
fn undecoded(hit: Hit, raw: Vec<u8>, fault: &Fault) -> Salvaged {
    remains(hit, Envelope::parse(&raw), raw, fault)
}

fn remains(hit: Hit, envelope: Result<Envelope, Fault>, raw: Vec<u8>, fault: &Fault) -> Salvaged {
    let (id, user) = match (hit.kind, envelope) {
        (Kind::Letter, _) => (Some(OperationId(Uuid::from_bytes(hit.id))), None),
        (Kind::Record, Ok(envelope)) => (Some(envelope.id), Some(envelope.user)),
        (Kind::Record, Err(_)) => (None, None),
    };
    Salvaged::Fragment {
        sequence: hit.sequence,
        id,
        user,
        raw,
        fault: fault.to_string(),
    }
}

/// Why not, and its bytes where those are whole.
type Unrestored = (Fault, Option<Vec<u8>>);

fn restore(first: Hit, frames: &[Vec<u8>]) -> Result<Salvaged, Unrestored> {
    let bare = |fault| (fault, None);
    let payload = record::assemble(first.kind, first.id, frames).map_err(bare)?;
    match first.kind {
        Kind::Record => match record::decode(&payload) {
            Ok(operation) => Ok(Salvaged::Operation(Box::new(operation))),
            Err(fault) => Err((fault, Some(payload))),
        },
        Kind::Letter => match letter::decode(&payload) {
            Ok(letter) if letter.id == OperationId(Uuid::from_bytes(first.id)) => {
                Ok(Salvaged::Letter(Box::new(letter)))
            }
            Ok(_) => Err((Fault::Checksum, Some(payload))),
            Err(fault) => Err((fault, Some(payload))),
        },
    }
}
