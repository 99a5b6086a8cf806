use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blyan_formats::bodies::Payload as _;
use blyan_formats::tensorblock::{StreamError, verify_stream_bytes};
use blyan_formats::{ArchitectureBody, BlockHash, ChainId, PayloadHash, SignedBlock, TensorName};
use parking_lot::Mutex;

use super::{Fault, Progress, VerifyOptions};
use crate::ChainError;
use crate::core::ChainIndex;
use crate::reader::load_body;
use crate::store::{PayloadDir, Records, Store};

/// One payload file that a block names.
struct Job {
    block: BlockHash,
    name: TensorName,
    payload: PayloadHash,
    len: u64,
    /// Rows and columns.
    shape: Option<(u64, u64)>,
}

/// Files that stand in the payload folder without a block.
#[derive(Default)]
pub(super) struct Strays {
    pub(super) unreferenced: u64,
    pub(super) temporary: u64,
}

/// Verifies every byte of every payload file that a block names, once for all blocks that ask the same of it; returns
/// the bytes read. Of several faults the one of the first block is returned, however many threads work.
pub(super) fn verify_payloads<S: Store + ?Sized>(
    store: &S,
    blocks: &[(BlockHash, SignedBlock)],
    options: VerifyOptions<'_>,
) -> Result<u64, ChainError> {
    let architectures = architectures(store, blocks)?;
    let named = blocks
        .iter()
        .filter_map(|(hash, block)| Job::of(*hash, block, &architectures));
    let mut asked = HashSet::new();
    let jobs: Vec<_> = named
        .filter(|job| asked.insert((job.payload, job.len, job.shape)))
        .collect();
    let bytes_total = jobs.iter().map(|job| job.len).sum();
    let work = Work {
        jobs: &jobs,
        next: AtomicUsize::new(0),
        fault: Mutex::new(None),
    };
    let told = |bytes| (options.progress)(Progress { bytes, bytes_total });
    std::thread::scope(|scope| {
        for _ in 1..options.threads {
            scope.spawn(|| work.run(store.payloads(), &told));
        }
        work.run(store.payloads(), &told);
    });
    work.fault
        .into_inner()
        .map_or(Ok(bytes_total), |(_, error)| Err(error))
}

fn architectures<S: Store + ?Sized>(
    store: &S,
    blocks: &[(BlockHash, SignedBlock)],
) -> Result<HashMap<BlockHash, Arc<ArchitectureBody>>, ChainError> {
    let named: HashSet<BlockHash> = blocks
        .iter()
        .filter_map(|(_, block)| block.header.meta_ref)
        .collect();
    let of = blocks.iter().filter(|(hash, _)| named.contains(hash));
    of.map(|(hash, block)| {
        let bytes = load_body(&Records(store), *hash, block.header.payload_hash)?;
        let body = ArchitectureBody::from_payload(&bytes);
        let body = body.map_err(|error| crate::reader::refused(*hash, block, error.into()))?;
        Ok((*hash, Arc::new(body)))
    })
    .collect()
}

impl Job {
    /// `None` for a block without a payload file.
    fn of(
        hash: BlockHash,
        block: &SignedBlock,
        architectures: &HashMap<BlockHash, Arc<ArchitectureBody>>,
    ) -> Option<Self> {
        let header = &block.header;
        let name = header.expert_name.filter(|_| header.chain == ChainId::B)?;
        let architecture = header.meta_ref.and_then(|meta| architectures.get(&meta));
        Some(Self {
            block: hash,
            name,
            payload: header.payload_hash,
            len: header.payload_len,
            shape: architecture.and_then(|body| body.tensor_shape(&name)),
        })
    }

    fn verify(&self, files: &PayloadDir) -> Result<(), ChainError> {
        let &Self {
            block,
            name,
            payload,
            len,
            shape: expected,
        } = self;
        match files.len(payload)? {
            None => {
                return Err(ChainError::from(Fault::PayloadMissing {
                    block,
                    name,
                    payload,
                }));
            }
            Some(found) if found != len => {
                return Err(ChainError::from(Fault::PayloadLen {
                    block,
                    name,
                    payload,
                    expected: len,
                    found,
                }));
            }
            Some(_) => {}
        }
        let opened = File::open(files.path(payload));
        let mut file = opened.map_err(|error| ChainError::io("read a payload", error))?;
        let spec = verify_stream_bytes(&mut file, len, payload).map_err(|error| match error {
            StreamError::Fault(fault) => ChainError::from(Fault::Payload {
                block,
                name,
                payload,
                fault,
            }),
            StreamError::Io(error) => ChainError::io("read a payload", error),
            StreamError::NotFinite { .. } => unreachable!("numbers were not looked at"),
        })?;
        let found = (spec.rows, spec.cols);
        if expected == Some(found) {
            return Ok(());
        }
        Err(Fault::Shape {
            block,
            name,
            payload,
            expected,
            found,
        }
        .into())
    }
}

struct Work<'a> {
    jobs: &'a [Job],
    next: AtomicUsize,
    /// The fault of the first job in order, of those that were done so far.
    fault: Mutex<Option<(usize, ChainError)>>,
}

impl Work<'_> {
    /// Takes jobs in order until none is left or one before has a fault: jobs before a fault are all taken already.
    fn run(&self, files: &PayloadDir, told: &(dyn Fn(u64) + Sync)) {
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.jobs.get(at) else { return };
            if self
                .fault
                .lock()
                .as_ref()
                .is_some_and(|(first, _)| *first < at)
            {
                return;
            }
            match job.verify(files) {
                Ok(()) => told(job.len),
                Err(error) => self.note(at, error),
            }
        }
    }

    fn note(&self, at: usize, error: ChainError) {
        let mut fault = self.fault.lock();
        if fault.as_ref().is_none_or(|(first, _)| at < *first) {
            *fault = Some((at, error));
        }
    }
}

/// Counts files that no block names.
pub(super) fn count_strays(files: &PayloadDir, index: &ChainIndex) -> Result<Strays, ChainError> {
    let mut strays = Strays::default();
    files.each_file(|name, _, _| {
        let payload = name.parse::<PayloadHash>().ok();
        if PayloadDir::is_temp_name(name) {
            strays.temporary += 1;
        } else if payload.is_none_or(|payload| index.by_payload(&payload).is_none()) {
            strays.unreferenced += 1;
        }
        Ok(())
    })?;
    Ok(strays)
}
