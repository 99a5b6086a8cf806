//! Every metric of the runtime.

use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::{ChildState, TreeEvent};

const EXITS: &str = "blyan_supervisors_exits_total";
const RESTARTS: &str = "blyan_supervisors_restarts_total";
const QUARANTINES: &str = "blyan_supervisors_quarantines_total";
const ESCALATIONS: &str = "blyan_supervisors_escalations_total";
const STATE: &str = "blyan_supervisors_child_state";
const MAILBOX: &str = "blyan_supervisors_mailbox_depth_messages";
const ZOMBIES: &str = "blyan_supervisors_zombie_threads";

/// Describes the metrics to the recorder that is installed now.
pub fn describe_metrics() {
    describe_counter!(
        EXITS,
        "Generations that ended, by child and by class of the reason"
    );
    describe_counter!(RESTARTS, "Restarts granted, by child");
    describe_counter!(
        QUARANTINES,
        "Children taken out by their window, by corrupt data or by a person"
    );
    describe_counter!(ESCALATIONS, "Supervisors that used their restart window up");
    describe_gauge!(
        STATE,
        "What the child does: 0 stopped, 1 starting, 2 running, 3 backing off, 4 quarantined, 5 stopping"
    );
    describe_gauge!(
        MAILBOX,
        "Messages that the child has admitted and not answered"
    );
    describe_gauge!(ZOMBIES, "Abandoned threads that have not come back");
}

pub(crate) fn note_event(event: &TreeEvent) {
    match event {
        TreeEvent::ChildExited { path, reason, .. } => {
            counter!(EXITS, "child" => path.to_string(), "reason" => reason.class()).increment(1);
        }
        TreeEvent::ChildRestarting { path, .. } => {
            counter!(RESTARTS, "child" => path.to_string()).increment(1);
        }
        TreeEvent::ChildQuarantined { path, .. } => {
            counter!(QUARANTINES, "child" => path.to_string()).increment(1);
        }
        TreeEvent::Escalated { path, .. } => {
            counter!(ESCALATIONS, "supervisor" => path.to_string()).increment(1);
        }
        TreeEvent::ThreadAbandoned { zombies, .. } | TreeEvent::ZombieReturned { zombies, .. } => {
            gauge!(ZOMBIES).set(*zombies as f64);
        }
        TreeEvent::ChildStarted { .. } | TreeEvent::ChildRecovered { .. } => {}
    }
}

pub(crate) fn note_state(path: &str, state: ChildState) {
    let value = match state {
        ChildState::Stopped => 0,
        ChildState::Starting => 1,
        ChildState::Running => 2,
        ChildState::BackingOff => 3,
        ChildState::Quarantined => 4,
        ChildState::Stopping => 5,
    };
    gauge!(STATE, "child" => path.to_owned()).set(f64::from(value));
}

pub(crate) fn note_depth(path: &str, depth: usize) {
    gauge!(MAILBOX, "child" => path.to_owned()).set(depth as f64);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::{ExitReason, Generation};

    #[test]
    fn every_metric_is_described() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let page = metrics::with_local_recorder(&recorder, || {
            let path: Arc<str> = Arc::from("a");
            let generation = Generation(1);
            describe_metrics();
            note_event(&TreeEvent::ChildExited {
                path: Arc::clone(&path),
                generation,
                reason: ExitReason::Killed,
                uptime: std::time::Duration::ZERO,
            });
            note_event(&TreeEvent::ChildRestarting {
                path: Arc::clone(&path),
                pause: std::time::Duration::ZERO,
            });
            let why = String::new();
            note_event(&TreeEvent::Escalated {
                path: Arc::clone(&path),
                why: why.clone(),
            });
            note_event(&TreeEvent::ChildQuarantined {
                path: Arc::clone(&path),
                why,
            });
            note_event(&TreeEvent::ThreadAbandoned {
                path,
                generation,
                zombies: 1,
            });
            note_state("a", ChildState::Quarantined);
            note_depth("a", 7);
            recorder.handle().render()
        });
        for name in [
            EXITS,
            RESTARTS,
            QUARANTINES,
            ESCALATIONS,
            STATE,
            MAILBOX,
            ZOMBIES,
        ] {
            assert!(page.contains(&format!("# HELP {name} ")), "{page}");
        }
        assert!(
            page.contains(r#"blyan_supervisors_exits_total{child="a",reason="killed"} 1"#),
            "{page}"
        );
        assert!(
            page.contains(r#"blyan_supervisors_child_state{child="a"} 4"#),
            "{page}"
        );
    }
}
