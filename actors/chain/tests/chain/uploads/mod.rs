//! Uploads over restarts, failing disks and wrong bytes.

mod faults;
mod power;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use blyan_chain::uploads::{
    UploadError, UploadId, UploadTerms, Uploads, UploadsConfig, check_form, expected_tensor,
};
use blyan_chain::{Admission, ChainReader, DataDir, Disk, RealDisk};
use blyan_formats::block::BLOCK_VERSION;
use blyan_formats::tensorblock::TensorSpec;
use blyan_formats::{
    BlockHash, BlockHeader, BlockType, ChainId, NetworkId, PayloadHash, SignedBlock, TensorBuf,
    TensorName, write_tensorblock,
};

use crate::support::{NOW_MS, architecture, imported, key, open_chain};

const NAME: TensorName = TensorName::expert_of(1, 2);

/// A payload of the served kind and a block over it.
struct Draft {
    block: SignedBlock,
    bytes: Vec<u8>,
    tensor: TensorSpec,
}

fn payload(salt: u8) -> (Vec<u8>, PayloadHash, TensorSpec) {
    let (rows, cols) = architecture().tensor_shape(&NAME).unwrap();
    let (rows, cols) = (rows as usize, cols as usize);
    let values: Vec<f32> = (0..rows * cols)
        .map(|at| ((at + usize::from(salt)) % 97) as f32)
        .collect();
    let tensor = TensorBuf::quantise_int8_blocks(rows, cols, &values).unwrap();
    let mut bytes = Vec::new();
    let written = write_tensorblock(&tensor.as_tensor(), &mut bytes).unwrap();
    (bytes, written.payload_hash, tensor.as_tensor().spec())
}

/// Without a payload yet.
fn header() -> BlockHeader {
    BlockHeader {
        version: BLOCK_VERSION,
        network_id: NetworkId::of_genesis(BlockHash::from_bytes([3; 32])),
        chain: ChainId::B,
        index: 0,
        timestamp_ms: NOW_MS,
        block_type: BlockType::Expert,
        prev_hash: None,
        depends_on: Some(Vec::new()),
        supersedes: None,
        expert_name: Some(NAME),
        layer_id: NAME.layer(),
        meta_ref: Some(BlockHash::from_bytes([4; 32])),
        payload_type: BlockType::Expert.payload_type(),
        payload_hash: PayloadHash::of_bytes(b""),
        payload_len: 0,
        nonce: 0,
        miner_pub: key(2).public_key(),
    }
}

/// On a chain of its own: what the block builds on is not the desk's concern.
fn draft(salt: u8) -> Draft {
    let (bytes, payload_hash, tensor) = payload(salt);
    let mut header = header();
    header.payload_hash = payload_hash;
    header.payload_len = bytes.len() as u64;
    Draft {
        block: header.sign(&key(2)),
        bytes,
        tensor,
    }
}

fn id(number: u8) -> UploadId {
    UploadId::from_random([number; 16])
}

fn open_with(
    dir: &Path,
    disk: Arc<dyn Disk>,
    config: UploadsConfig,
    now_ms: u64,
) -> io::Result<Uploads> {
    fs::create_dir_all(dir.join("payloads"))?;
    Uploads::open(DataDir::new(dir), disk, config, now_ms)
}

fn open(dir: &Path) -> Uploads {
    open_with(dir, Arc::new(RealDisk), UploadsConfig::default(), NOW_MS).unwrap()
}

fn begin(uploads: &Uploads, number: u8, draft: &Draft) -> Result<bool, UploadError> {
    let begun = uploads.begin(id(number), &draft.block, &draft.tensor, NOW_MS);
    begun.map(|(_, new)| new)
}

fn stored_payload(dir: &Path, draft: &Draft) -> Option<Vec<u8>> {
    let name = draft.block.header.payload_hash.to_string();
    fs::read(dir.join("payloads").join(name)).ok()
}

fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir.join("uploads")).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn pieces_are_appended_in_order_and_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let draft = draft(1);
    let uploads = open(dir.path());
    assert!(begin(&uploads, 1, &draft).unwrap());
    assert!(
        !begin(&uploads, 2, &draft).unwrap(),
        "the same block goes on"
    );
    let write = |uploads: &Uploads, from: usize, to: usize| {
        uploads.write(id(1), from as u64, &draft.bytes[from..to], NOW_MS)
    };
    assert_eq!(write(&uploads, 0, 1000).unwrap().received, 1000);
    for (offset, end) in [(0, 10), (999, 1500), (1001, 1500)] {
        let refused = write(&uploads, offset, end);
        assert!(
            matches!(refused, Err(UploadError::Offset { received: 1000, .. })),
            "{refused:?}"
        );
    }
    let longer = vec![0; draft.bytes.len()];
    let refused = uploads.write(id(1), 1000, &longer, NOW_MS);
    assert!(
        matches!(refused, Err(UploadError::Overrun { .. })),
        "{refused:?}"
    );
    assert!(matches!(
        uploads.publish(id(1)),
        Err(UploadError::Unfinished { received: 1000, .. })
    ));

    let uploads = open(dir.path());
    assert_eq!(uploads.of_block(draft.block.hash()).unwrap().received, 1000);
    assert!(uploads.whole().is_empty());
    write(&uploads, 1000, draft.bytes.len()).unwrap();
    assert_eq!(uploads.whole(), [id(1)]);
    assert_eq!(uploads.publish(id(1)).unwrap(), draft.block);
    assert_eq!(
        stored_payload(dir.path(), &draft),
        Some(draft.bytes.clone())
    );

    // The process ends before the block is on the chain, and again before that is noted.
    let uploads = open(dir.path());
    assert_eq!(uploads.whole(), [id(1)]);
    assert_eq!(uploads.publish(id(1)).unwrap(), draft.block);
    assert!(uploads.stored(id(1)).unwrap().stored);
    assert_eq!(files(dir.path()), [format!("{}.json", id(1))]);
    let uploads = open(dir.path());
    let there = uploads.status(id(1)).unwrap();
    assert!(there.stored && there.received == there.len);
}

#[test]
fn wrong_bytes_are_named_and_gone() {
    let dir = tempfile::tempdir().unwrap();
    let draft = draft(1);
    let uploads = open(dir.path());
    begin(&uploads, 1, &draft).unwrap();
    let mut wrong = draft.bytes.clone();
    wrong[4200] ^= 1;
    uploads.write(id(1), 0, &wrong, NOW_MS).unwrap();
    let refused = uploads.publish(id(1)).unwrap_err();
    assert!(
        matches!(&refused, UploadError::Payload(why) if why.contains("tile 0")),
        "{refused}"
    );
    assert!(matches!(
        uploads.status(id(1)),
        Err(UploadError::NotFound(_))
    ));
    assert!(files(dir.path()).is_empty() && stored_payload(dir.path(), &draft).is_none());
}

#[test]
fn a_tensor_of_another_kind_is_refused_though_its_hash_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut draft = draft(1);
    draft.tensor.rows += 1;
    let uploads = open(dir.path());
    begin(&uploads, 1, &draft).unwrap();
    uploads.write(id(1), 0, &draft.bytes, NOW_MS).unwrap();
    let refused = uploads.publish(id(1)).unwrap_err();
    assert!(matches!(refused, UploadError::Tensor { .. }), "{refused}");
    assert!(stored_payload(dir.path(), &draft).is_none());
}

#[test]
fn a_key_s_day_and_what_is_abandoned_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let config = UploadsConfig {
        per_key_per_day: 1,
        expire_ms: u64::MAX,
        ..UploadsConfig::default()
    };
    let day = 24 * 60 * 60 * 1000;
    let reopened =
        |now_ms| open_with(dir.path(), Arc::new(RealDisk), config.clone(), now_ms).unwrap();
    let (first, second) = (draft(1), draft(2));
    let uploads = reopened(NOW_MS);
    begin(&uploads, 1, &first).unwrap();
    uploads.write(id(1), 0, &first.bytes, NOW_MS).unwrap();
    uploads.publish(id(1)).unwrap();
    uploads.stored(id(1)).unwrap();
    let uploads = reopened(NOW_MS + day - 1);
    let refused = uploads.begin(id(2), &second.block, &second.tensor, NOW_MS + day - 1);
    assert!(
        matches!(
            refused,
            Err(UploadError::KeyDay {
                retry_after_ms: 1,
                ..
            })
        ),
        "{refused:?}"
    );
    let uploads = reopened(NOW_MS + day);
    assert!(files(dir.path()).is_empty(), "it counts no more");
    uploads
        .begin(id(2), &second.block, &second.tensor, NOW_MS + day)
        .unwrap();
    drop(uploads);

    let soon = UploadsConfig {
        expire_ms: 1000,
        ..config
    };
    let written = fs::metadata(dir.path().join("uploads").join(format!("{}.part", id(2)))).unwrap();
    let written = written
        .modified()
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let written = u64::try_from(written.as_millis()).unwrap();
    let later = |ms| open_with(dir.path(), Arc::new(RealDisk), soon.clone(), written + ms).unwrap();
    assert!(later(999).status(id(2)).is_ok());
    assert!(later(1000).status(id(2)).is_err() && files(dir.path()).is_empty());
}

#[test]
fn half_a_record_and_bytes_without_one_are_removed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let draft = draft(1);
    begin(&open(dir.path()), 1, &draft).unwrap();
    let folder = dir.path().join("uploads");
    let record = fs::read(folder.join(format!("{}.json", id(1)))).unwrap();
    fs::write(folder.join(format!("{}.json", id(2))), &record).unwrap();
    fs::write(
        folder.join(format!("{}.json", id(3))),
        &record[..record.len() / 2],
    )
    .unwrap();
    fs::write(folder.join(format!("{}.new", id(4))), &record).unwrap();
    fs::write(folder.join(format!("{}.part", id(5))), b"bytes").unwrap();
    let uploads = open(dir.path());
    assert_eq!(
        files(dir.path()),
        [format!("{}.json", id(1)), format!("{}.part", id(1))]
    );
    assert_eq!(uploads.status(id(1)).unwrap().received, 0);
}

/// As rot or an editor leaves them: they are JSON still, and would be counted with.
#[test]
fn records_of_a_block_that_was_changed_are_removed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for number in [1, 2] {
        begin(&open(dir.path()), number, &draft(number)).unwrap();
        let path = dir.path().join(format!("uploads/{}.json", id(number)));
        let record = fs::read_to_string(&path).unwrap();
        let len = format!("\"payload_len\":{}", draft(number).bytes.len());
        let longest = format!("\"payload_len\":{}", u64::MAX);
        assert!(record.contains(&len));
        fs::write(&path, record.replace(&len, &longest)).unwrap();
    }
    assert!(open(dir.path()).whole().is_empty());
    assert!(files(dir.path()).is_empty());
}

#[test]
fn the_chain_names_the_terms_of_an_upload() {
    let (_dir, store, _) = imported();
    let chain = open_chain(store, &key(1)).unwrap();
    let reader: &ChainReader<_> = &chain;
    let served = reader.index().params().unwrap().architecture();
    let (bytes, payload_hash, tensor) = payload(1);
    let mut header = header();
    header.network_id = NetworkId::of_genesis(reader.index().genesis().unwrap());
    header.meta_ref = Some(served);
    header.payload_hash = payload_hash;
    header.payload_len = bytes.len() as u64;
    let block = header.clone().sign(&key(1));
    assert!(check_form(&block).is_ok());
    let terms = reader.upload_terms(&block).unwrap();
    let shape = Some((tensor.rows, tensor.cols));
    let expected = UploadTerms {
        admission: Admission::New,
        architecture: served,
        shape,
    };
    assert_eq!(terms, expected);
    assert_eq!(expected_tensor(&block.header, &terms).unwrap(), tensor);

    header.payload_len += 1;
    assert!(matches!(
        expected_tensor(&header, &terms),
        Err(UploadError::Len { .. })
    ));
    header.payload_len -= 1;
    header.meta_ref = Some(BlockHash::from_bytes([9; 32]));
    assert!(matches!(
        expected_tensor(&header, &terms),
        Err(UploadError::Architecture { .. })
    ));
    assert!(reader.upload_terms(&header.sign(&key(1))).is_err());
    let unnamed = UploadTerms {
        shape: None,
        ..terms
    };
    assert!(matches!(
        expected_tensor(&block.header, &unnamed),
        Err(UploadError::Name(_))
    ));
    let mut forged = block.clone();
    forged.header.nonce += 1;
    assert!(matches!(check_form(&forged), Err(UploadError::Refused(_))));
}
