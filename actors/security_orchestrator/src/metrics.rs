use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::audit::Record;
use crate::core::Standings;

const RECORDS: &str = "blyan_security_audit_records_total";
const ANCHORED: &str = "blyan_security_audit_anchored_count";
const QUARANTINED: &str = "blyan_security_quarantined_components";
const ALERTS: &str = "blyan_security_alerts_total";
const REPORTS: &str = "blyan_security_reports_total";

/// Describes every metric of this crate.
pub fn describe_metrics() {
    describe_counter!(RECORDS, "Audit records by action and outcome");
    describe_gauge!(
        ANCHORED,
        "Audit records that the last anchor on chain A covers"
    );
    describe_gauge!(
        QUARANTINED,
        Unit::Count,
        "Components that are out of service by decision"
    );
    describe_counter!(ALERTS, "Thresholds crossed, by indicator");
    describe_counter!(REPORTS, "Reports taken");
}

pub(crate) fn recorded(record: &Record) {
    let outcome = match record.outcome {
        crate::audit::RecordOutcome::Begun => "begun",
        crate::audit::RecordOutcome::Done => "done",
        crate::audit::RecordOutcome::Unchanged => "unchanged",
        crate::audit::RecordOutcome::Refused => "refused",
        crate::audit::RecordOutcome::Failed => "failed",
    };
    counter!(RECORDS, "action" => record.action.as_str(), "outcome" => outcome).increment(1);
}

pub(crate) fn anchored(count: u64) {
    gauge!(ANCHORED).set(count as f64);
}

pub(crate) fn quarantined(standings: &Standings) {
    gauge!(QUARANTINED).set(standings.iter().count() as f64);
}

pub(crate) fn alerted(indicator: &'static str) {
    counter!(ALERTS, "indicator" => indicator).increment(1);
}

pub(crate) fn reported() {
    counter!(REPORTS).increment(1);
}
