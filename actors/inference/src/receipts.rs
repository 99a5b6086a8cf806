//! One durable receipt for each admitted request, then its last event.

use std::sync::Arc;
use std::time::Duration;

use blyan_protocol::{ChatEvent, PublicError, Receipt, ReceiptSink};
use tokio::sync::mpsc::OwnedPermit;
use tokio::time::{sleep, timeout};

use crate::metrics;

/// The last event waits this long for its receipt.
const LAST_EVENT_WAITS: Duration = Duration::from_secs(1);
/// A sink that takes longer is asked again.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Records the receipt and sends the last event: as soon as the receipt is durable, or after a second while the
/// storage is down. Returns when the receipt is durable.
pub(crate) async fn bid_farewell(
    sink: Arc<dyn ReceiptSink>,
    receipt: Receipt,
    last: ChatEvent,
    room: OwnedPermit<ChatEvent>,
) {
    let recording = record_until_durable(sink, receipt);
    tokio::pin!(recording);
    let in_time = timeout(LAST_EVENT_WAITS, &mut recording).await.is_ok();
    room.send(last);
    if !in_time {
        recording.await;
    }
}

/// Recording twice keeps the first, so that asking again after an unclear end is safe.
async fn record_until_durable(sink: Arc<dyn ReceiptSink>, receipt: Receipt) {
    let mut pause = FIRST_PAUSE;
    while let Err(why) = attempt(Arc::clone(&sink), receipt.clone()).await {
        tracing::warn!(request = %receipt.request_id, %why, "a receipt is not durable yet");
        metrics::receipt_retried();
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Refused(#[from] PublicError),
    #[error("the sink panicked")]
    Panicked,
    #[error("the sink did not answer")]
    Silent,
}

/// In a task of its own, so that a panic of the sink does not lose the receipt.
async fn attempt(sink: Arc<dyn ReceiptSink>, receipt: Receipt) -> Result<(), AttemptError> {
    let mut task = tokio::spawn(async move { sink.record(receipt).await });
    match timeout(ATTEMPT_LIMIT, &mut task).await {
        Ok(Ok(recorded)) => Ok(recorded?),
        Ok(Err(_)) => Err(AttemptError::Panicked),
        Err(_) => {
            task.abort();
            Err(AttemptError::Silent)
        }
    }
}
