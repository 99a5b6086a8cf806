//! Every metric of the crate.

use std::time::Duration;

use blyan_protocol::Outcome;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::core::{Ended, ReplicaId};

const STEP_SECONDS: &str = "blyan_inference_step_seconds";
const STEP_FAILURES: &str = "blyan_inference_step_failures_total";
const TOKENS: &str = "blyan_inference_generated_tokens_total";
const PROMPT_TOKENS: &str = "blyan_inference_prompt_tokens_total";
const REQUESTS: &str = "blyan_inference_ended_requests_total";
const REFUSED: &str = "blyan_inference_refused_requests_total";
const QUEUE_SECONDS: &str = "blyan_inference_queue_seconds";
const ADMITTED: &str = "blyan_inference_admitted_requests";
const WAITING: &str = "blyan_inference_waiting_requests";
const RECEIPT_RETRIES: &str = "blyan_inference_receipt_retries_total";
const KV_BYTES: &str = "blyan_inference_kv_bytes";
const PAUSES: &str = "blyan_inference_reader_pauses_total";

/// Says what each metric means. Needed once, after the recorder is installed.
pub fn describe() {
    describe_histogram!(
        STEP_SECONDS,
        Unit::Seconds,
        "Duration of a successful step, by replica"
    );
    describe_counter!(
        STEP_FAILURES,
        "Steps that gave nothing, by replica and reason"
    );
    describe_counter!(TOKENS, "Tokens generated in requests that have ended");
    describe_counter!(PROMPT_TOKENS, "Prompt tokens of requests that have ended");
    describe_counter!(
        REQUESTS,
        "Requests that have ended, by outcome and by how far they came: queue, prefill or decode"
    );
    describe_counter!(REFUSED, "Requests that were not admitted, by error code");
    describe_histogram!(
        QUEUE_SECONDS,
        Unit::Seconds,
        "From admission to the first step"
    );
    describe_gauge!(
        ADMITTED,
        "Requests waiting, running, or ended with a receipt not durable yet"
    );
    describe_gauge!(WAITING, "Requests waiting for a replica");
    describe_gauge!(
        KV_BYTES,
        Unit::Bytes,
        "Key/value memory of living sequences, as reserved"
    );
    describe_counter!(RECEIPT_RETRIES, "Attempts to record a receipt that failed");
    describe_counter!(
        PAUSES,
        "Times that a sequence paused because its reader was slow"
    );
}

pub(crate) fn kv_reserved(bytes: u64) {
    gauge!(KV_BYTES).increment(bytes as f64);
}

pub(crate) fn kv_given_back(bytes: u64) {
    gauge!(KV_BYTES).decrement(bytes as f64);
}

pub(crate) fn step_done(replica: ReplicaId, took: Duration) {
    histogram!(STEP_SECONDS, "replica" => replica.to_string()).record(took.as_secs_f64());
}

pub(crate) fn step_failed(replica: ReplicaId, reason: &'static str) {
    counter!(STEP_FAILURES, "replica" => replica.to_string(), "reason" => reason).increment(1);
}

pub(crate) fn refused(code: &'static str) {
    counter!(REFUSED, "code" => code).increment(1);
}

pub(crate) fn request_ended(ended: &Ended, outcome: &Outcome) {
    let outcome = match outcome {
        Outcome::Finished => "finished",
        Outcome::Cancelled => "cancelled",
        Outcome::Failed { code } => code.as_str(),
    };
    counter!(REQUESTS, "outcome" => outcome, "phase" => ended.phase.name()).increment(1);
    counter!(TOKENS).increment(u64::from(ended.usage.completion_tokens));
    counter!(PROMPT_TOKENS).increment(u64::from(ended.usage.prompt_tokens));
    histogram!(QUEUE_SECONDS).record(ended.timing.queue_ms / 1000.0);
}

pub(crate) fn house(admitted: usize, waiting: usize) {
    gauge!(ADMITTED).set(admitted as f64);
    gauge!(WAITING).set(waiting as f64);
}

pub(crate) fn receipt_retried() {
    counter!(RECEIPT_RETRIES).increment(1);
}

pub(crate) fn reader_paused() {
    counter!(PAUSES).increment(1);
}
