//! What the runtime logs.

use crate::TreeEvent;

pub(crate) fn note_event(event: &TreeEvent) {
    match event {
        TreeEvent::ChildStarted { path, generation } => {
            tracing::info!(child = %path, %generation, "started");
        }
        TreeEvent::ChildExited {
            path,
            generation,
            reason,
            ..
        } if reason.is_normal() => {
            tracing::info!(child = %path, %generation, %reason, "exited");
        }
        TreeEvent::ChildExited {
            path,
            generation,
            reason,
            ..
        } => {
            tracing::warn!(child = %path, %generation, %reason, "exited");
        }
        TreeEvent::ChildRestarting { path, pause, .. } => {
            tracing::info!(child = %path, ?pause, "restarting");
        }
        TreeEvent::ChildQuarantined { path, why } => {
            tracing::error!(child = %path, %why, "quarantined");
        }
        TreeEvent::ChildRecovered { path } => tracing::info!(child = %path, "recovered"),
        TreeEvent::Escalated { path, why } => {
            tracing::error!(supervisor = %path, %why, "escalated")
        }
        TreeEvent::ThreadAbandoned { path, zombies, .. } => {
            tracing::error!(child = %path, zombies, "its thread is stuck and was abandoned");
        }
        TreeEvent::ZombieReturned { path, zombies, .. } => {
            tracing::warn!(child = %path, zombies, "an abandoned thread has come back");
        }
    }
}
