//! Every metric of this crate.

use metrics::{Unit, counter, describe_counter};

use crate::core::Receipt;
use crate::{LedgerError, Refusal};

const TRANSFERS: &str = "blyan_ledger_transfers_total";
const REFUSED: &str = "blyan_ledger_refused_transfers_total";
const ENTRIES: &str = "blyan_ledger_commits_total";

/// Describes the metrics; called once by the wiring.
pub fn describe_metrics() {
    describe_counter!(
        TRANSFERS,
        Unit::Count,
        "Transfers that took effect, repeats included, since the process started"
    );
    describe_counter!(REFUSED, Unit::Count, "Transfers refused");
    describe_counter!(
        ENTRIES,
        Unit::Count,
        "Groups of transfers that were decided together"
    );
}

pub(crate) fn committed(decided: &Result<Vec<Result<Receipt, Refusal>>, LedgerError>) {
    let Ok(decided) = decided else { return };
    let passed = decided.iter().filter(|one| one.is_ok()).count();
    counter!(ENTRIES).increment(1);
    counter!(TRANSFERS).increment(passed as u64);
    counter!(REFUSED).increment((decided.len() - passed) as u64);
}
