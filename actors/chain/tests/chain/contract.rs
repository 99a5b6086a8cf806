//! The actor through its handle, in a supervision tree.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blyan_chain::{
    ChainActor, ChainConfig, ChainError, ChainHandle, ChainReader, DataDir, Disk, Family, NewBlock,
    RocksStore, Store, compose,
};
use blyan_formats::{
    BlockHash, BlockType, ChainId, ContentHash, ManifestBody, bodies::Payload as _,
};
use blyan_protocol::{ErrorCode, ModelId, PayloadSource, ReceiptSink};
use blyan_supervisors::{
    Backoff, CallError, ChildState, ExitReason, NoProbe, Probe, SupervisorSpec, Tree, TreeEvent,
    TreeHandle, TreeOptions,
};
use parking_lot::{Condvar, Mutex};

use crate::support::{
    Call, NOW_MS, ScriptedDisk, When, acceptance, imported, key, receipt, tensors,
};

/// Long enough for anything that is going to happen on a loaded machine.
const LONG: Duration = Duration::from_secs(20);

async fn start(store: Arc<RocksStore>, probe: Arc<dyn Probe>) -> (TreeHandle, ChainHandle) {
    let config = ChainConfig {
        reply_timeout_ms: 20_000,
        ..ChainConfig::default()
    };
    let spec = ChainActor::spec("chain", store, &config)
        .backoff(Backoff::NONE)
        .stuck_limit(Duration::from_millis(300));
    let handle = ChainHandle::new(spec.child_ref(), &config);
    let root = SupervisorSpec::new("node").child(spec);
    let tree = Tree::start(
        root,
        TreeOptions {
            probe,
            ..TreeOptions::default()
        },
    )
    .unwrap();
    handle.child().wait_running(LONG).await.unwrap();
    (tree, handle)
}

/// Ends a tree and closes its store.
async fn stop(tree: TreeHandle, chain: ChainHandle, store: Arc<RocksStore>) {
    tree.stop(LONG).await;
    drop((tree, chain));
    assert!(RocksStore::close(store, LONG));
}

/// The newest model once more, in a manifest of its own.
fn next_manifest(store: &Arc<RocksStore>, timestamp_ms: u64) -> NewBlock {
    let reader = ChainReader::open(Arc::clone(store)).unwrap();
    let model = reader.model(None).unwrap();
    let entries = model
        .entries
        .iter()
        .map(|(name, entry)| (*name, entry.block))
        .collect();
    let architecture = reader.index().params().unwrap().architecture();
    let body = ManifestBody {
        architecture,
        entries,
    }
    .to_payload()
    .unwrap();
    compose::meta_block(
        reader.index(),
        BlockType::Manifest,
        body,
        timestamp_ms,
        &key(1),
    )
    .unwrap()
}

#[actix::test]
async fn every_question_is_answered() {
    let (_dir, store, manifest) = imported();
    let (tree, chain) = start(Arc::clone(&store), Arc::new(NoProbe)).await;
    let reader = ChainReader::open(Arc::clone(&store)).unwrap();
    chain.ping().await.unwrap();
    assert_eq!(chain.genesis().await.unwrap(), reader.index().genesis());
    for id in [ChainId::A, ChainId::B, ChainId::C] {
        assert_eq!(chain.head(id).await.unwrap(), reader.head(id));
    }
    assert_eq!(
        chain.block(manifest).await.unwrap(),
        reader.block(manifest).unwrap()
    );
    assert_eq!(
        chain.body(manifest).await.unwrap(),
        reader.body(manifest).unwrap()
    );
    assert_eq!(chain.models().await.unwrap(), [ModelId(manifest)]);
    assert_eq!(
        chain.model(None).await.unwrap().entries,
        reader.model(None).unwrap().entries
    );
    let unknown = BlockHash::from_bytes([1; 32]);
    assert_eq!(
        chain.block(unknown).await,
        Err(ChainError::NoBlock(unknown))
    );
    let none = chain
        .model(Some(ModelId(unknown)))
        .await
        .map(|model| model.id);
    assert_eq!(none, Err(ChainError::NoModel(Some(ModelId(unknown)))));
    let payload = tensors()[0].payload;
    let hash = ContentHash::of(b"derived");
    chain
        .remember_fp32(payload, *hash.as_bytes())
        .await
        .unwrap();
    assert_eq!(
        chain.locate(payload).await.unwrap().fp32_sha256,
        Some(*hash.as_bytes())
    );
    chain.record(receipt(1, NOW_MS)).await.unwrap();
    assert_eq!(
        chain.receipt(receipt(1, NOW_MS).request_id).await.unwrap(),
        Some(receipt(1, NOW_MS))
    );
    assert_eq!(chain.receipts(None, 5).await.unwrap(), [receipt(1, NOW_MS)]);
    drop(reader);
    stop(tree, chain, store).await;
}

#[actix::test]
async fn an_appended_manifest_is_the_newest_model_and_stays_so() {
    let (dir, store, manifest) = imported();
    let (tree, chain) = start(Arc::clone(&store), Arc::new(NoProbe)).await;
    let new = next_manifest(&store, NOW_MS + 1);
    let hash = new.block.hash();
    for _ in 0..2 {
        let appended = chain
            .append(vec![new.clone()], acceptance(&key(1)))
            .await
            .unwrap();
        assert_eq!(appended[0].hash, hash);
    }
    assert_eq!(chain.model(None).await.unwrap().id, ModelId(hash));
    assert_eq!(
        chain.models().await.unwrap(),
        [ModelId(manifest), ModelId(hash)]
    );
    let stranger = NewBlock {
        block: new.block.header.clone().sign(&key(2)),
        ..new
    };
    let refused = chain
        .append(vec![stranger], acceptance(&key(1)))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, ChainError::Refused { refusal, .. } if refusal.rule() == "signer"),
        "{refused}"
    );
    stop(tree, chain, store).await;
    let reader = ChainReader::open_read_only(DataDir::new(dir.path())).unwrap();
    assert_eq!(reader.model(None).unwrap().id, ModelId(hash));
}

/// Waits until the generation after `last` takes messages.
async fn restarted(chain: &ChainHandle, last: u64) {
    until(|| chain.child().generation().0 > last).await;
    chain.child().wait_running(LONG).await.unwrap();
}

/// Panics at the hits with these numbers, from 0.
struct PanicAt(AtomicU64, &'static [u64]);

impl Probe for PanicAt {
    fn hit(&self, point: &str) {
        assert_eq!(point, "chain");
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        assert!(!self.1.contains(&number), "fault number {number}");
    }
}

#[actix::test]
async fn a_panic_loses_one_answer_and_nothing_else() {
    let (_dir, store, _) = imported();
    let (tree, chain) = start(
        Arc::clone(&store),
        Arc::new(PanicAt(AtomicU64::new(0), &[1, 3])),
    )
    .await;
    chain.record(receipt(1, NOW_MS)).await.unwrap();
    let lost = chain.head(ChainId::A).await;
    assert_eq!(lost, Err(ChainError::Call(CallError::Lost)));
    restarted(&chain, 1).await;
    let new = next_manifest(&store, NOW_MS + 1);
    chain
        .append(vec![new.clone()], acceptance(&key(1)))
        .await
        .unwrap();
    assert_eq!(
        chain.record(receipt(2, NOW_MS)).await.unwrap_err().code,
        ErrorCode::Unavailable
    );
    restarted(&chain, 2).await;
    assert_eq!(
        chain.model(None).await.unwrap().id,
        ModelId(new.block.hash())
    );
    assert_eq!(chain.receipts(None, 5).await.unwrap(), [receipt(1, NOW_MS)]);
    assert_eq!(chain.child().generation().0, 3);
    stop(tree, chain, store).await;
}

/// Blocks the first hit until it is released.
#[derive(Default)]
struct BlockFirst {
    hits: AtomicU64,
    released: Mutex<bool>,
    changed: Condvar,
}

impl BlockFirst {
    fn release(&self) {
        *self.released.lock() = true;
        self.changed.notify_all();
    }
}

impl Probe for BlockFirst {
    fn hit(&self, _point: &str) {
        if self.hits.fetch_add(1, Ordering::SeqCst) == 0 {
            let mut released = self.released.lock();
            self.changed
                .wait_while(&mut released, |released| !*released);
        }
    }
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[actix::test]
async fn receipts_that_wait_together_share_one_sync() {
    const COUNT: u8 = 50;
    let (dir, store, _) = imported();
    drop(store);
    let batches = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&batches);
    let disk: Arc<dyn Disk> = Arc::new(ScriptedDisk::new(move |_, call, when| {
        counted.fetch_add(
            u64::from((call, when) == (Call::WriteBatch, When::After)),
            Ordering::SeqCst,
        );
        Ok(())
    }));
    let store = Arc::new(RocksStore::open_with(DataDir::new(dir.path()), disk).unwrap());
    let probe = Arc::new(BlockFirst::default());
    let config = ChainConfig {
        reply_timeout_ms: 20_000,
        ..ChainConfig::default()
    };
    let spec = ChainActor::spec("chain", Arc::clone(&store), &config).stuck_limit(LONG);
    let chain = ChainHandle::new(spec.child_ref(), &config);
    let options = TreeOptions {
        probe: Arc::clone(&probe) as _,
        ..TreeOptions::default()
    };
    let tree = Tree::start(SupervisorSpec::new("node").child(spec), options).unwrap();
    chain.child().wait_running(LONG).await.unwrap();
    let asked =
        |chain: ChainHandle, number| async move { chain.record(receipt(number, NOW_MS)).await };
    let blocked = actix::spawn({
        let chain = chain.clone();
        async move { chain.ping().await }
    });
    until(|| probe.hits.load(Ordering::SeqCst) == 1).await;
    let waiting: Vec<_> = (0..COUNT)
        .map(|number| actix::spawn(asked(chain.clone(), number)))
        .collect();
    until(|| chain.child().mailbox_depth() == usize::from(COUNT) + 1).await;
    probe.release();
    blocked.await.unwrap().unwrap();
    for answer in waiting {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(batches.load(Ordering::SeqCst), 1);
    assert_eq!(
        chain.receipts(None, 100).await.unwrap().len(),
        usize::from(COUNT)
    );
    stop(tree, chain, store).await;
}

#[actix::test]
async fn a_stuck_generation_is_replaced_and_its_late_write_refused() {
    let (_dir, store, manifest) = imported();
    let probe = Arc::new(BlockFirst::default());
    let (tree, chain) = start(Arc::clone(&store), Arc::clone(&probe) as _).await;
    let late = next_manifest(&store, NOW_MS + 1);
    let lost = chain
        .append(vec![late.clone()], acceptance(&key(1)))
        .await
        .unwrap_err();
    assert_eq!(lost, ChainError::Call(CallError::Lost));
    chain.child().wait_running(LONG).await.unwrap();
    assert_eq!(tree.zombies(), 1);
    let other = next_manifest(&store, NOW_MS + 2);
    chain
        .append(vec![other.clone()], acceptance(&key(1)))
        .await
        .unwrap();
    probe.release();
    until(|| tree.zombies() == 0).await;
    assert_eq!(
        chain.models().await.unwrap(),
        [ModelId(manifest), ModelId(other.block.hash())]
    );
    let on_disk = ChainReader::open(Arc::clone(&store)).unwrap().models();
    assert_eq!(on_disk, chain.models().await.unwrap());
    stop(tree, chain, store).await;
}

#[actix::test]
async fn a_failed_sync_publishes_nothing_and_ends_in_quarantine() {
    let (dir, store, manifest) = imported();
    drop(store);
    let broken = ScriptedDisk::new(|_, call, when| match (call, when) {
        (Call::WriteBatch, When::After) => Err(std::io::Error::from_raw_os_error(libc::EIO)),
        _ => Ok(()),
    });
    let store =
        Arc::new(RocksStore::open_with(DataDir::new(dir.path()), Arc::new(broken)).unwrap());
    let new = next_manifest(&store, NOW_MS + 1);
    let (tree, chain) = start(Arc::clone(&store), Arc::new(NoProbe)).await;
    let mut events = tree.subscribe();
    let error = chain
        .append(vec![new], acceptance(&key(1)))
        .await
        .unwrap_err();
    assert!(matches!(error, ChainError::NotDurable { .. }), "{error}");
    let reason = loop {
        if let TreeEvent::ChildExited { reason, .. } = events.recv().await.unwrap() {
            break reason;
        }
    };
    assert!(matches!(reason, ExitReason::Fatal(_)), "{reason}");
    until(|| chain.child().state() == ChildState::Quarantined).await;
    assert!(matches!(
        chain.head(ChainId::A).await,
        Err(ChainError::Call(CallError::Quarantined { .. }))
    ));
    stop(tree, chain, store).await;
    let store = RocksStore::open(DataDir::new(dir.path())).unwrap();
    assert_eq!(
        ChainReader::open(Arc::new(store)).unwrap().models(),
        [ModelId(manifest)]
    );
}

#[actix::test]
async fn a_damaged_header_ends_the_actor_for_good() {
    let (_dir, store, manifest) = imported();
    let (tree, chain) = start(Arc::clone(&store), Arc::new(NoProbe)).await;
    let mut batch = blyan_chain::Batch::default();
    batch.put(Family::Headers, *manifest.as_bytes(), b"{}".to_vec());
    store
        .write(store.begin_generation().unwrap(), &batch)
        .unwrap();
    assert_eq!(
        chain.block(manifest).await.unwrap_err().class(),
        blyan_formats::ErrorClass::Corrupt
    );
    chain.ping().await.unwrap();
    let _ = tree.restart("chain").await;
    until(|| chain.child().state() == ChildState::Quarantined).await;
    let exit = tree
        .describe()
        .find("chain")
        .unwrap()
        .last_exit
        .clone()
        .unwrap();
    assert_eq!(exit.class, "corrupt");
    stop(tree, chain, store).await;
}

#[actix::test]
async fn a_missing_payload_is_named_and_the_actor_lives() {
    let (_dir, store, _) = imported();
    let (tree, chain) = start(Arc::clone(&store), Arc::new(NoProbe)).await;
    let tensor = &tensors()[7];
    std::fs::remove_file(store.payloads().path(tensor.payload)).unwrap();
    let error = chain.locate(tensor.payload).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ExpertCorrupt);
    let expert = error.expert.unwrap();
    assert_eq!(
        (expert.name, expert.hash),
        (tensor.name.to_string(), tensor.payload.to_string())
    );
    assert!(chain.locate(tensors()[8].payload).await.is_ok());
    assert_eq!(chain.child().generation().0, 1);
    stop(tree, chain, store).await;
}

#[actix::test]
async fn a_chain_of_another_network_is_not_opened() {
    let (_dir, store, _) = imported();
    let config = ChainConfig {
        genesis: Some(BlockHash::from_bytes([1; 32])),
        ..ChainConfig::default()
    };
    let spec = ChainActor::spec("chain", Arc::clone(&store), &config).backoff(Backoff::NONE);
    let chain = ChainHandle::new(spec.child_ref(), &config);
    let tree = Tree::start(
        SupervisorSpec::new("node").child(spec),
        TreeOptions::default(),
    )
    .unwrap();
    until(|| chain.child().state() == ChildState::Quarantined).await;
    let exit = tree
        .describe()
        .find("chain")
        .unwrap()
        .last_exit
        .clone()
        .unwrap();
    assert!(exit.text.is_some_and(|text| text.contains("pins")));
    stop(tree, chain, store).await;
}
