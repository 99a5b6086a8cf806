//! Uploads: any order of calls, restarts and damaged records; what was acknowledged is there, and nothing becomes a
//! payload but the bytes that its block promises.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use blyan_chain::uploads::{
    UploadId, UploadTerms, Uploads, UploadsConfig, check_form, expected_tensor,
};
use blyan_chain::{Admission, DataDir, Disk};
use blyan_formats::tensorblock::TensorSpec;
use blyan_formats::{
    BlockHash, BlockHeader, BlockType, NetworkId, NodeKey, SignedBlock, TensorBuf, TensorName,
    write_tensorblock,
};
use tempfile::TempDir;

use super::input::Input;
use crate::{Target, heap};

pub(crate) const TARGET: Target = Target {
    name: "uploads",
    run,
    seeds,
};

/// The first byte says what the rest is.
fn run(input: &[u8]) {
    let mut input = Input::new(input);
    match input.below(3) {
        0 => calls(&mut World::new(), input),
        1 => records(input.rest()),
        _ => request(input),
    }
}

const HOUR_MS: u64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Payloads that may come, each with its block: two of one key, two of others.
static SAMPLES: LazyLock<[Sample; 4]> =
    LazyLock::new(|| [(1, 1), (1, 2), (2, 3), (3, 4)].map(|(key, value)| Sample::new(key, value)));

struct Sample {
    block: SignedBlock,
    tensor: TensorSpec,
    payload: Vec<u8>,
}

impl Sample {
    fn new(key: u8, value: i8) -> Self {
        let key = NodeKey::from_secret_bytes([key; 32]).expect("below the curve's order");
        let tensor = TensorBuf::int8_blocks(1, 32, vec![value; 32], vec![1.0]).expect("a shape");
        let mut payload = Vec::new();
        let written = write_tensorblock(&tensor.as_tensor(), &mut payload).expect("in memory");
        let header = BlockHeader {
            version: 1,
            network_id: NetworkId::of_genesis(BlockHash::from_bytes([1; 32])),
            chain: BlockType::Expert.chain(),
            index: 0,
            timestamp_ms: 0,
            block_type: BlockType::Expert,
            prev_hash: None,
            depends_on: Some(Vec::new()),
            supersedes: None,
            expert_name: Some(TensorName::expert_of(0, 0)),
            layer_id: Some(0),
            meta_ref: Some(BlockHash::from_bytes([2; 32])),
            payload_type: BlockType::Expert.payload_type(),
            payload_hash: written.payload_hash,
            payload_len: written.len,
            nonce: 0,
            miner_pub: key.public_key(),
        };
        Self {
            block: header.sign(&key),
            tensor: tensor.as_tensor().spec(),
            payload,
        }
    }
}

/// The system's calls without the syncs: no power is cut here.
struct Unsynced;

impl Disk for Unsynced {
    fn sync_file(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn write_batch(&self, write: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        write()
    }
}

/// What must be known of an upload.
struct Known {
    sample: &'static Sample,
    taken: Vec<u8>,
    created_ms: u64,
    /// No later than the real one: a restart takes it from the file's own time.
    touched_ms: u64,
    published: bool,
    stored: bool,
}

struct World {
    folder: TempDir,
    uploads: Uploads,
    known: HashMap<UploadId, Known>,
    begun: u8,
    start_ms: u64,
    now_ms: u64,
}

fn limits() -> UploadsConfig {
    UploadsConfig {
        open_max: 2,
        open_per_key_max: 1,
        per_key_per_day: 3,
        expire_ms: DAY_MS,
        bytes_max: 2 * SAMPLES[0].payload.len() as u64,
        ..UploadsConfig::default()
    }
}

fn open(folder: &TempDir, now_ms: u64) -> Uploads {
    let layout = DataDir::new(folder.path());
    Uploads::open(layout, Arc::new(Unsynced), limits(), now_ms).expect("a folder of ours")
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let layout = DataDir::new(folder.path());
        fs::create_dir_all(layout.payloads()).expect("a folder of ours");
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let start_ms = since.as_millis() as u64;
        Self {
            uploads: open(&folder, start_ms),
            folder,
            known: HashMap::new(),
            begun: 0,
            start_ms,
            now_ms: start_ms,
        }
    }

    /// One of the uploads that were begun, there or not.
    fn pick(&self, input: &mut Input<'_>) -> UploadId {
        UploadId::from_random([input.below(usize::from(self.begun) + 1) as u8; 16])
    }

    fn begin(&mut self, sample: &'static Sample) {
        let id = UploadId::from_random([self.begun; 16]);
        let begun = self
            .uploads
            .begin(id, &sample.block, &sample.tensor, self.now_ms);
        let there = self
            .known
            .iter()
            .find(|(_, known)| std::ptr::eq(known.sample, sample));
        match begun {
            Ok((status, true)) => {
                assert!(there.is_none() && status.id == id && status.received == 0);
                self.begun = self.begun.saturating_add(1);
                self.known.insert(id, Known::new(sample, self.now_ms));
            }
            Ok((status, false)) => assert_eq!(there.map(|(id, _)| *id), Some(status.id)),
            Err(_) => assert!(there.is_none(), "what is there goes on"),
        }
    }

    fn write(&mut self, id: UploadId, offset: u64, piece: &[u8]) {
        let written = self.uploads.write(id, offset, piece, self.now_ms);
        let Some(known) = self.known.get_mut(&id) else {
            assert!(written.is_err());
            return;
        };
        let received = known.received();
        let fits = offset == received && received + piece.len() as u64 <= known.len();
        assert_eq!(written.is_ok(), fits, "{written:?}");
        if fits {
            known.taken.extend(piece);
            known.touched_ms = self.now_ms;
        }
    }

    /// The next bytes of the payload, or of another one.
    fn write_next(&mut self, input: &mut Input<'_>) {
        let (id, len, wrong) = (self.pick(input), usize::from(input.u16()), input.byte());
        let Some(known) = self.known.get(&id) else {
            return self.write(id, 0, &[wrong]);
        };
        let (received, payload) = (known.taken.len(), &known.sample.payload);
        let mut piece = payload[received..payload.len().min(received + len)].to_vec();
        if let (Some(first), 240..) = (piece.first_mut(), wrong) {
            *first ^= wrong;
        }
        self.write(id, received as u64, &piece);
    }

    fn write_anything(&mut self, input: &mut Input<'_>) {
        let (id, offset, len) = (self.pick(input), input.u16(), input.below(16));
        self.write(id, u64::from(offset), input.take(len));
    }

    fn publish(&mut self, id: UploadId) {
        let published = self.uploads.publish(id);
        let Some(known) = self.known.get_mut(&id) else {
            assert!(published.is_err());
            return;
        };
        let sound = known.taken == known.sample.payload;
        assert_eq!(published.is_ok(), sound, "{published:?}");
        if let Ok(block) = published {
            assert_eq!(block, known.sample.block);
            let path = DataDir::new(self.folder.path()).payload(block.header.payload_hash);
            assert_eq!(fs::read(path).ok().as_ref(), Some(&known.sample.payload));
            known.published = true;
        } else if known.received() == known.len() {
            self.known.remove(&id);
        }
    }

    /// Only what was published is ever said to be on the chain.
    fn store(&mut self, id: UploadId) {
        if let Some(known) = self.known.get_mut(&id).filter(|known| known.published) {
            self.uploads.stored(id).expect("it is there");
            known.stored = true;
        }
    }

    fn remove(&mut self, id: UploadId) {
        let there = self.known.remove(&id).is_some();
        assert_eq!(self.uploads.remove(id).is_ok(), there);
    }

    fn wait(&mut self, hours: u64) {
        self.now_ms += hours * HOUR_MS;
        self.uploads.expire(self.now_ms);
        self.forget_expired();
    }

    fn restart(&mut self) {
        self.uploads = open(&self.folder, self.now_ms);
        for known in self.known.values_mut() {
            known.touched_ms = self.start_ms;
        }
        self.forget_expired();
    }

    fn forget_expired(&mut self) {
        let (uploads, now_ms) = (&self.uploads, self.now_ms);
        self.known.retain(|id, known| {
            let there = uploads.status(*id).is_ok();
            let day_is_over = now_ms - known.created_ms >= DAY_MS;
            match known.stored {
                true => assert_eq!(there, !day_is_over),
                false => assert!(there || now_ms - known.touched_ms >= DAY_MS),
            }
            there
        });
    }

    fn check(&self) {
        for (id, known) in &self.known {
            let status = self.uploads.status(*id).expect("it was acknowledged");
            let found = (status.block, status.received, status.len, status.stored);
            let expected = (
                known.sample.block.hash(),
                known.received(),
                known.len(),
                known.stored,
            );
            assert_eq!(found, expected);
        }
        let open = self.known.values().filter(|known| !known.stored);
        assert!(open.count() <= limits().open_max);
    }
}

impl Known {
    const fn new(sample: &'static Sample, now_ms: u64) -> Self {
        Self {
            sample,
            taken: Vec::new(),
            created_ms: now_ms,
            touched_ms: now_ms,
            published: false,
            stored: false,
        }
    }

    const fn received(&self) -> u64 {
        self.taken.len() as u64
    }

    const fn len(&self) -> u64 {
        self.sample.payload.len() as u64
    }
}

/// More calls than this find nothing that fewer do not.
const CALLS_MAX: usize = 64;

fn calls(world: &mut World, mut input: Input<'_>) {
    for _ in 0..CALLS_MAX {
        if input.is_empty() {
            break;
        }
        call(world, &mut input);
        world.check();
    }
}

fn call(world: &mut World, input: &mut Input<'_>) {
    match input.below(8) {
        0 => world.begin(&SAMPLES[input.below(SAMPLES.len())]),
        1 => world.write_next(input),
        2 => world.write_anything(input),
        3 => world.publish(world.pick(input)),
        4 => world.store(world.pick(input)),
        5 => world.remove(world.pick(input)),
        6 => world.wait(1 + input.below(30) as u64),
        _ => world.restart(),
    }
}

/// Two records as a crash, rot or somebody's editor left them, a line each: the folder opens, what it keeps is the same
/// when it is opened again, and other uploads go on.
fn records(bytes: &[u8]) {
    let world = World::new();
    let folder = DataDir::new(world.folder.path()).uploads();
    for (number, record) in (1..=2).zip(bytes.splitn(2, |byte| *byte == b'\n')) {
        let name = format!("{}.json", UploadId::from_random([number; 16]));
        fs::write(folder.join(name), record).expect("a folder of ours");
    }
    let statuses = |uploads: &Uploads| {
        [1, 2].map(|number| uploads.status(UploadId::from_random([number; 16])).ok())
    };
    let first = open(&world.folder, world.now_ms);
    let kept = statuses(&first);
    first.whole();
    for sample in SAMPLES.iter() {
        let id = UploadId::from_random([9; 16]);
        if let Ok((_, true)) = first.begin(id, &sample.block, &sample.tensor, world.now_ms) {
            first.remove(id).expect("it was begun");
        }
    }
    let second = open(&world.folder, world.now_ms);
    assert_eq!(statuses(&second), kept);
}

/// What a stranger sends to begin an upload, and to name one.
fn request(mut input: Input<'_>) {
    let shape = (u64::from(input.u16()), u64::from(input.u16()));
    let bytes = input.rest();
    if let Ok(id) = std::str::from_utf8(bytes)
        .unwrap_or_default()
        .parse::<UploadId>()
    {
        assert_eq!(id.to_string().as_bytes(), bytes);
    }
    let Ok(block) = heap::bounded(bytes, 1, SignedBlock::from_canonical) else {
        return;
    };
    let is_expert = block.header.block_type == BlockType::Expert;
    assert_eq!(
        check_form(&block).is_ok(),
        is_expert && block.verify().is_ok()
    );
    let terms = UploadTerms {
        admission: Admission::New,
        architecture: BlockHash::from_bytes([2; 32]),
        shape: Some(shape),
    };
    if let Ok(spec) = expected_tensor(&block.header, &terms) {
        assert_eq!((spec.rows, spec.cols), shape);
        assert_eq!(
            spec.sections().expect("it was computed").file_len(),
            block.header.payload_len
        );
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let whole = SAMPLES[0].payload.len().to_le_bytes();
    let next = |id: u8, wrong: u8| [1, id, whole[0], whole[1], wrong];
    let story = [&[0, 0, 0][..], &next(0, 0), &[7, 3, 0, 7, 4, 0, 6, 30]].concat();
    let refused = [&[0, 0, 0, 0, 1, 0, 2][..], &next(0, 250), &[3, 0, 5, 1]].concat();
    let request = [&[2, 1, 0, 32, 0][..], &SAMPLES[0].block.to_canonical()].concat();
    let named = [&[2, 0, 0, 0, 0][..], "ab".repeat(16).as_bytes()].concat();
    let [first, second] = two_records();
    let longest = [&first, &second].map(|record| with(record, "payload_len", u64::MAX));
    let last = with(&first.replace("false", "true"), "created_ms", u64::MAX);
    let records = [[first, second], longest, [last, String::new()]];
    let records = records.map(|records| [&[1], records.join("\n").as_bytes()].concat());
    [story, refused, request, named]
        .into_iter()
        .chain(records)
        .collect()
}

/// The record with another number in a field.
fn with(record: &str, field: &str, number: u64) -> String {
    let field = format!("\"{field}\":");
    let (before, rest) = record.split_once(&field).expect("a field of records");
    let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{before}{field}{number}{after}")
}

fn two_records() -> [String; 2] {
    let mut world = World::new();
    world.begun = 1;
    world.begin(&SAMPLES[0]);
    world.begin(&SAMPLES[2]);
    let folder = DataDir::new(world.folder.path()).uploads();
    [1, 2].map(|number| {
        let name = format!("{}.json", UploadId::from_random([number; 16]));
        fs::read_to_string(folder.join(name)).expect("it was begun")
    })
}
