//! What happened to a tile since its base: a file of records, each synced before anybody is told of it. Numbers are
//! little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the body |
//! | 1 | kind: 1 a delta as it was sent, 2 a step |
//! | | body; of a step the optimiser's five settings (4 each) and the hash of the state that it led to (32) |
//! | 32 | SHA-256 of the hash before (the base's for the first record), the length, the kind and the body |
//!
//! As each hash covers the one before, a record that is lost, changed or out of its place is seen at the next one.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use sha2::{Digest as _, Sha256};

use crate::core::AdamWConfig;

const HEAD_LEN: usize = 5;
const HASH_LEN: usize = 32;
const STEP_LEN: usize = 20 + HASH_LEN;
const DELTA: u8 = 1;
const STEP: u8 = 2;

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    Delta(Vec<u8>),
    Step {
        config: AdamWConfig,
        state: [u8; HASH_LEN],
    },
}

/// The file, open at its end.
#[derive(Debug)]
pub(super) struct Chain {
    file: File,
    /// Of the last record.
    hash: [u8; HASH_LEN],
    bytes: u64,
}

/// What an existing file holds.
pub(super) struct Found {
    pub(super) records: Vec<Record>,
    /// Where the last whole record ends.
    pub(super) whole: u64,
    hash: [u8; HASH_LEN],
}

impl Chain {
    /// A chain without records behind the base with this hash, in an empty file.
    pub(super) const fn begin(file: File, base: [u8; HASH_LEN]) -> Self {
        Self {
            file,
            hash: base,
            bytes: 0,
        }
    }

    /// Goes on behind what was found in `file`; what a write that was cut off left there is taken away.
    pub(super) fn resume(mut file: File, found: &Found) -> io::Result<Self> {
        if file.metadata()?.len() > found.whole {
            file.set_len(found.whole)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(found.whole))?;
        Ok(Self {
            file,
            hash: found.hash,
            bytes: found.whole,
        })
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns once the record is on the disk. After an error it may be there or not.
    pub(super) fn append(&mut self, record: &Record) -> io::Result<()> {
        let (bytes, hash) = encode(self.hash, record);
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.hash = hash;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Reads every record behind the base with this hash. A last one that was cut off is left out: nobody was told of it.
///
/// # Errors
/// The file's own, or in words what is damaged.
pub(super) fn read(
    file: &mut File,
    base: [u8; HASH_LEN],
) -> io::Result<Result<Found, &'static str>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(parse(&bytes, base))
}

fn parse(bytes: &[u8], base: [u8; HASH_LEN]) -> Result<Found, &'static str> {
    let (mut rest, mut hash, mut records) = (bytes, base, Vec::new());
    while let Some((record, len)) = next(rest, &mut hash)? {
        records.push(record);
        rest = &rest[len..];
    }
    Ok(Found {
        records,
        whole: (bytes.len() - rest.len()) as u64,
        hash,
    })
}

/// The first record and its length; `None` at the end, and before one that was cut off.
fn next(bytes: &[u8], hash: &mut [u8; HASH_LEN]) -> Result<Option<(Record, usize)>, &'static str> {
    let Some((head, _)) = bytes.split_first_chunk::<HEAD_LEN>() else {
        return Ok(None);
    };
    let body = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let len = HEAD_LEN + body + HASH_LEN;
    let Some(record) = bytes.get(..len) else {
        return Ok(None);
    };
    let (covered, said) = record.split_at(HEAD_LEN + body);
    let found = hash_after(*hash, covered);
    if found[..] != *said {
        // A file system may have made room for it and not have written all of it.
        let is_unwritten = bytes.len() == len && said.iter().all(|byte| *byte == 0);
        let is_room = bytes.iter().all(|byte| *byte == 0);
        return if is_unwritten || is_room {
            Ok(None)
        } else {
            Err("a record does not fit its hash")
        };
    }
    *hash = found;
    let body = &covered[HEAD_LEN..];
    let record = match head[4] {
        DELTA => Record::Delta(body.to_vec()),
        STEP => step(body).ok_or("a step has another length")?,
        _ => return Err("a record is of a kind that is not known"),
    };
    Ok(Some((record, len)))
}

fn step(body: &[u8]) -> Option<Record> {
    let body: &[u8; STEP_LEN] = body.try_into().ok()?;
    let (settings, _) = body.as_chunks::<4>();
    let setting = |at: usize| f32::from_le_bytes(settings[at]);
    Some(Record::Step {
        config: AdamWConfig {
            learning_rate: setting(0),
            beta1: setting(1),
            beta2: setting(2),
            epsilon: setting(3),
            weight_decay: setting(4),
        },
        state: *body.last_chunk()?,
    })
}

fn encode(before: [u8; HASH_LEN], record: &Record) -> (Vec<u8>, [u8; HASH_LEN]) {
    let (kind, body) = match record {
        Record::Delta(bytes) => (DELTA, bytes.clone()),
        Record::Step { config, state } => {
            let settings = [
                config.learning_rate,
                config.beta1,
                config.beta2,
                config.epsilon,
                config.weight_decay,
            ];
            let mut body: Vec<u8> = settings.into_iter().flat_map(f32::to_le_bytes).collect();
            body.extend(state);
            (STEP, body)
        }
    };
    let mut bytes = Vec::with_capacity(HEAD_LEN + body.len() + HASH_LEN);
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.push(kind);
    bytes.extend(body);
    let hash = hash_after(before, &bytes);
    bytes.extend(hash);
    (bytes, hash)
}

fn hash_after(before: [u8; HASH_LEN], covered: &[u8]) -> [u8; HASH_LEN] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(covered);
    hash.finalize().into()
}
