//! Every metric of the runtime.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::{ChildState, Generation, TreeEvent};

const EXITS: &str = "blyan_supervisors_exits_total";
const RESTARTS: &str = "blyan_supervisors_restarts_total";
const QUARANTINES: &str = "blyan_supervisors_quarantines_total";
const ESCALATIONS: &str = "blyan_supervisors_escalations_total";
const STATE: &str = "blyan_supervisors_child_state";
const GENERATION: &str = "blyan_supervisors_generation";
const WAIT: &str = "blyan_supervisors_mailbox_wait_seconds";
const POLL_AGE: &str = "blyan_supervisors_poll_age_seconds";
const MAILBOX: &str = "blyan_supervisors_mailbox_depth_messages";
const ZOMBIES: &str = "blyan_supervisors_zombie_threads";

/// Describes the metrics to the recorder that is installed now.
pub fn describe_metrics() {
    describe_counter!(
        EXITS,
        "Generations that ended, by child and by class of the reason"
    );
    describe_counter!(
        RESTARTS,
        "Restarts granted, by child and by class of the exit before"
    );
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
    describe_gauge!(GENERATION, "How often the child was started");
    describe_histogram!(
        WAIT,
        Unit::Seconds,
        "From a message's admission to its handler, of one message in 64"
    );
    describe_gauge!(
        POLL_AGE,
        Unit::Seconds,
        "For how long the child has not come back from what it is doing; 0 while it waits"
    );
    describe_gauge!(ZOMBIES, "Abandoned threads that have not come back");
}

pub(crate) fn note_event(event: &TreeEvent) {
    match event {
        TreeEvent::ChildExited { path, reason, .. } => {
            counter!(EXITS, "child" => path.to_string(), "reason" => reason.class()).increment(1);
        }
        TreeEvent::ChildRestarting { path, reason, .. } => {
            counter!(RESTARTS, "child" => path.to_string(), "reason" => *reason).increment(1);
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

pub(crate) fn note_state(path: &str, state: ChildState, generation: Generation) {
    let value = match state {
        ChildState::Stopped => 0,
        ChildState::Starting => 1,
        ChildState::Running => 2,
        ChildState::BackingOff => 3,
        ChildState::Quarantined => 4,
        ChildState::Stopping => 5,
    };
    gauge!(STATE, "child" => path.to_owned()).set(f64::from(value));
    gauge!(GENERATION, "child" => path.to_owned()).set(generation.0 as f64);
}

pub(crate) fn note_wait(path: &str, wait: Duration) {
    histogram!(WAIT, "child" => path.to_owned()).record(wait);
}

pub(crate) fn note_poll_age(path: &str, age: Duration) {
    gauge!(POLL_AGE, "child" => path.to_owned()).set(age.as_secs_f64());
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
                uptime: Duration::ZERO,
            });
            note_event(&TreeEvent::ChildRestarting {
                path: Arc::clone(&path),
                reason: "panicked",
                pause: Duration::ZERO,
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
            note_state("a", ChildState::Quarantined, Generation(3));
            note_depth("a", 7);
            note_wait("a", Duration::from_millis(2));
            note_poll_age("a", Duration::from_millis(1500));
            recorder.handle().render()
        });
        for name in [
            EXITS,
            RESTARTS,
            QUARANTINES,
            ESCALATIONS,
            STATE,
            GENERATION,
            WAIT,
            POLL_AGE,
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
        for line in [
            r#"restarts_total{child="a",reason="panicked"} 1"#,
            r#"generation{child="a"} 3"#,
            r#"mailbox_wait_seconds_count{child="a"} 1"#,
            r#"poll_age_seconds{child="a"} 1.5"#,
        ] {
            assert!(
                page.contains(&format!("blyan_supervisors_{line}")),
                "{page}"
            );
        }
    }
}
