//! Re-reads payload files from the disk itself, and repairs what is damaged.
//!
//! A payload is verified when it is mapped; from then on nobody looks at its file, and its pages may come from memory
//! for weeks while the disk below rots. A pass reads every payload that a block names past the page cache, in the order
//! of hashes, at the pace of its caller, and goes on where the process before it stopped. What is damaged is replaced by
//! a verified copy under the same name; the damaged file itself is never written to, as maps of it may be alive.

mod cursor;
mod direct;
mod repair;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};

use blyan_formats::tensorblock::{StreamError, verify_stream_bytes};
use blyan_formats::{BlockHash, ChainId, PayloadHash, TensorName};

pub use cursor::{Cursor, next_pass};

use crate::ChainError;
use crate::metrics;
use crate::store::{Records, RocksStore, Store as _};
use direct::DirectFile;

/// The cursor is written after so many bytes: what a stop costs at most is reading them again.
const CURSOR_EVERY: u64 = 64 << 20;

/// How a pass reads, and who hears of it.
pub struct ScrubOptions<'a> {
    /// A folder with copies of payload files, each named by its payload hash.
    pub repair_dir: Option<&'a Path>,
    /// The time, ms since 1970.
    pub now_ms: u64,
    /// Told of the bytes of each piece once they are read; waits as long as it wants, and may end the pass.
    pub pace: &'a dyn Fn(u64) -> ControlFlow<()>,
    /// Told of a damaged payload before it is repaired, and of what became of it.
    pub told: &'a dyn Fn(&Finding),
}

/// A damaged payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The first block that names it.
    pub block: BlockHash,
    /// Its tensor.
    pub name: TensorName,
    /// The payload.
    pub payload: PayloadHash,
    /// What is wrong with its file.
    pub fault: String,
    /// How far its repair is.
    pub state: Repair,
}

/// How far the repair of a payload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Not begun.
    Found,
    /// Its file is whole again.
    Repaired {
        /// The copy that it was made from.
        from: PathBuf,
    },
    /// No copy is whole.
    Failed {
        /// Why.
        why: String,
    },
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Payloads that were read.
    pub payloads: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that were damaged and are whole now.
    pub repaired: u64,
    /// Those that stay damaged.
    pub damaged: u64,
    /// Whether it came to its end.
    pub finished: bool,
}

/// A payload and who names it.
struct Job {
    block: BlockHash,
    name: TensorName,
    len: u64,
}

/// Goes on with the pass that was begun, or begins one.
///
/// # Errors
/// As [`crate::Store::get`]; [`ChainError::Io`] if the system lacks what a read takes, or the end of the pass cannot be
/// remembered.
pub fn scrub(store: &RocksStore, options: &ScrubOptions<'_>) -> Result<ScrubReport, ChainError> {
    let mut cursor = Cursor::of_pass(store.layout(), options.now_ms)?;
    let after = cursor.after.map_or(Bound::Unbounded, Bound::Excluded);
    let (mut report, mut since) = (ScrubReport::default(), 0);
    for (payload, job) in jobs(store)?.range((after, Bound::Unbounded)) {
        match look(store, *payload, job.len, options)? {
            Look::Whole => {}
            Look::Damaged(fault) => {
                let repaired = mend(store, *payload, job, fault, options);
                report.repaired += u64::from(repaired);
                report.damaged += u64::from(!repaired);
            }
            Look::Stopped => {
                cursor.note(store.layout());
                return Ok(report);
            }
        }
        report.payloads += 1;
        report.bytes += job.len;
        metrics::scrubbed(job.len);
        cursor.after = Some(*payload);
        since += job.len;
        if since >= CURSOR_EVERY {
            cursor.note(store.layout());
            since = 0;
        }
    }
    cursor.end(store.layout())?;
    report.finished = true;
    Ok(report)
}

fn jobs(store: &RocksStore) -> Result<BTreeMap<PayloadHash, Job>, ChainError> {
    let mut jobs = BTreeMap::new();
    Records(store).each_block(|block, stored| {
        let header = stored.header;
        if let Some(name) = header.expert_name.filter(|_| header.chain == ChainId::B) {
            jobs.entry(header.payload_hash).or_insert(Job {
                block,
                name,
                len: header.payload_len,
            });
        }
    })?;
    Ok(jobs)
}

/// How a look at a payload's file ended.
enum Look {
    Whole,
    /// What is wrong with it.
    Damaged(String),
    /// The pass is to end.
    Stopped,
}

fn look(
    store: &RocksStore,
    payload: PayloadHash,
    len: u64,
    options: &ScrubOptions<'_>,
) -> Result<Look, ChainError> {
    let files = store.payloads();
    match files.len(payload)? {
        Some(found) if found == len => {}
        Some(found) => {
            let fault = format!("its file has {found} bytes, its block says {len}");
            return Ok(Look::Damaged(fault));
        }
        None => return Ok(Look::Damaged("its file is missing".to_owned())),
    }
    let mut stopped = false;
    let opened = DirectFile::open(&files.path(payload)).map_err(StreamError::Io);
    let verified = opened.and_then(|file| {
        let mut paced = Paced {
            file,
            pace: options.pace,
            stopped: &mut stopped,
        };
        verify_stream_bytes(&mut paced, len, payload)
    });
    match verified {
        Ok(_) => Ok(Look::Whole),
        Err(_) if stopped => Ok(Look::Stopped),
        Err(StreamError::Io(error)) if is_shortage(&error) => {
            Err(ChainError::io("read a payload again", error))
        }
        // A sector that cannot be read is damage, too.
        Err(error) => Ok(Look::Damaged(error.to_string())),
    }
}

/// Whether the system lacked something that has nothing to do with the file.
fn is_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| [libc::EMFILE, libc::ENFILE, libc::ENOMEM].contains(&code))
}

/// Says how much was read, after each piece.
struct Paced<'a> {
    file: DirectFile,
    pace: &'a dyn Fn(u64) -> ControlFlow<()>,
    stopped: &'a mut bool,
}

impl Read for Paced<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if (self.pace)(read as u64).is_break() {
            *self.stopped = true;
            // Not `Interrupted`, which would be tried again.
            return Err(io::Error::other("the pass is to end"));
        }
        Ok(read)
    }
}

fn mend(
    store: &RocksStore,
    payload: PayloadHash,
    job: &Job,
    fault: String,
    options: &ScrubOptions<'_>,
) -> bool {
    let mut finding = Finding {
        block: job.block,
        name: job.name,
        payload,
        fault,
        state: Repair::Found,
    };
    tracing::error!(name = %job.name, %payload, fault = finding.fault, "a payload is damaged on the disk");
    (options.told)(&finding);
    finding.state = match repair::repair(store, payload, job.len, options.repair_dir) {
        Ok(from) => {
            tracing::warn!(name = %job.name, %payload, from = %from.display(), "a payload is repaired");
            Repair::Repaired { from }
        }
        Err(why) => {
            tracing::error!(name = %job.name, %payload, why, "a payload could not be repaired");
            Repair::Failed { why }
        }
    };
    let repaired = matches!(finding.state, Repair::Repaired { .. });
    metrics::scrub_found(repaired);
    (options.told)(&finding);
    repaired
}
