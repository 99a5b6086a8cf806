//! Every metric of this crate.

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::time::Duration;

use blyan_formats::ChainId;

use crate::core::{ChainIndex, Refusal};

const BLOCKS: &str = "blyan_chain_blocks_count";
const APPENDED: &str = "blyan_chain_appended_blocks_total";
const REFUSED: &str = "blyan_chain_refused_blocks_total";
const RECEIPTS: &str = "blyan_chain_receipts_total";
const RECEIPT_BATCHES: &str = "blyan_chain_receipt_batches_total";
const WRITE: &str = "blyan_chain_write_seconds";
const UPLOADS_OPEN: &str = "blyan_chain_uploads_open_count";
const UPLOADS_OPEN_BYTES: &str = "blyan_chain_uploads_open_bytes";
const UPLOADS_STORED: &str = "blyan_chain_uploads_stored_total";
const UPLOADS_REFUSED: &str = "blyan_chain_uploads_refused_total";
const UPLOAD_BYTES: &str = "blyan_chain_upload_bytes_total";
const SCRUBBED: &str = "blyan_chain_scrubbed_bytes_total";
const SCRUB_DAMAGED: &str = "blyan_chain_scrub_damaged_total";
const SCRUB_REPAIRED: &str = "blyan_chain_scrub_repaired_total";
const FREE: &str = "blyan_chain_disk_free_bytes";
const REBUILD: &str = "blyan_chain_index_rebuild_seconds";

/// Describes the metrics; called once by the wiring.
pub fn describe_metrics() {
    describe_gauge!(BLOCKS, Unit::Count, "Blocks on a chain");
    describe_counter!(
        APPENDED,
        Unit::Count,
        "Blocks appended since the process started"
    );
    describe_counter!(
        REFUSED,
        Unit::Count,
        "Blocks refused, by the rule that they break"
    );
    describe_counter!(
        RECEIPTS,
        Unit::Count,
        "Receipts recorded since the process started"
    );
    describe_counter!(
        RECEIPT_BATCHES,
        Unit::Count,
        "Synced batches in which receipts were recorded"
    );
    describe_histogram!(
        WRITE,
        Unit::Seconds,
        "Time that a synced batch of the chain's database took"
    );
    describe_uploads();
    describe_disk();
    describe_gauge!(
        REBUILD,
        Unit::Seconds,
        "Time that the last rebuild of the chain's index took"
    );
}

fn describe_uploads() {
    describe_gauge!(UPLOADS_OPEN, Unit::Count, "Open uploads");
    describe_gauge!(
        UPLOADS_OPEN_BYTES,
        Unit::Bytes,
        "Bytes that the open uploads will have"
    );
    describe_counter!(
        UPLOADS_STORED,
        Unit::Count,
        "Uploads that became blocks since the process started"
    );
    describe_counter!(
        UPLOADS_REFUSED,
        Unit::Count,
        "Requests of uploads refused, by reason"
    );
    describe_counter!(
        UPLOAD_BYTES,
        Unit::Bytes,
        "Bytes of uploads taken since the process started"
    );
}

pub(crate) fn uploads_open((count, bytes): (usize, u64)) {
    gauge!(UPLOADS_OPEN).set(count as f64);
    gauge!(UPLOADS_OPEN_BYTES).set(bytes as f64);
}

pub(crate) fn upload_bytes(len: usize) {
    counter!(UPLOAD_BYTES).increment(len as u64);
}

pub(crate) fn upload_refused(reason: &'static str) {
    counter!(UPLOADS_REFUSED, "reason" => reason).increment(1);
}

pub(crate) fn upload_stored() {
    counter!(UPLOADS_STORED).increment(1);
}

pub(crate) fn index_size(index: &ChainIndex) {
    for chain in [ChainId::A, ChainId::B] {
        let blocks = index.head(chain).map_or(0, |head| head.blocks);
        gauge!(BLOCKS, "chain" => chain.as_str()).set(blocks as f64);
    }
}

pub(crate) fn appended(blocks: usize) {
    counter!(APPENDED).increment(blocks as u64);
}

pub(crate) fn refused(refusal: &Refusal) {
    counter!(REFUSED, "rule" => refusal.rule()).increment(1);
}

pub(crate) fn receipts(count: usize) {
    counter!(RECEIPTS).increment(count as u64);
    counter!(RECEIPT_BATCHES).increment(1);
}

pub(crate) fn written(took: Duration) {
    histogram!(WRITE).record(took.as_secs_f64());
}

pub(crate) fn rebuilt(took: Duration) {
    gauge!(REBUILD).set(took.as_secs_f64());
}

fn describe_disk() {
    describe_counter!(
        SCRUBBED,
        Unit::Bytes,
        "Bytes of payload files that the scrubber read from the disk"
    );
    describe_counter!(
        SCRUB_DAMAGED,
        Unit::Count,
        "Damaged payloads that the scrubber found"
    );
    describe_counter!(
        SCRUB_REPAIRED,
        Unit::Count,
        "Damaged payloads that the scrubber repaired"
    );
    describe_gauge!(FREE, Unit::Bytes, "Room on the disk of the data directory");
}

pub(crate) fn scrubbed(bytes: u64) {
    counter!(SCRUBBED).increment(bytes);
}

pub(crate) fn scrub_found(repaired: bool) {
    counter!(SCRUB_DAMAGED).increment(1);
    counter!(SCRUB_REPAIRED).increment(u64::from(repaired));
}

pub(crate) fn disk_free(bytes: u64) {
    gauge!(FREE).set(bytes as f64);
}
