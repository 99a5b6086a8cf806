//! Starting a tree and giving it orders.

use std::time::Duration;

use tokio::sync::broadcast;

use crate::{SpecError, SupervisorSpec, TreeError, TreeEvent, TreeExit, TreeNode, TreeOptions};

/// Starts supervision trees.
pub struct Tree;

impl Tree {
    /// Checks the spec, starts a supervision thread and lets it start the children, left to right. Returns before they
    /// are up; see [`TreeHandle::wait_running`].
    ///
    /// # Errors
    /// A spec that is not well-formed; no actix `System` on this thread.
    pub fn start(spec: SupervisorSpec, _options: TreeOptions) -> Result<TreeHandle, SpecError> {
        spec.validate()?;
        Err(SpecError::NoSystem)
    }
}

/// A running tree. Clones command the same tree; dropping them all does not stop it.
#[derive(Clone)]
pub struct TreeHandle {
    events: broadcast::Sender<TreeEvent>,
}

impl TreeHandle {
    /// The whole tree as it is now.
    pub fn describe(&self) -> TreeNode {
        unimplemented!("comes with the driver")
    }

    /// What happens from now on. A subscriber that falls behind loses the oldest events and is told so.
    pub fn subscribe(&self) -> broadcast::Receiver<TreeEvent> {
        self.events.subscribe()
    }

    /// Waits until the node, or the root, is running.
    ///
    /// # Errors
    /// No such node, the deadline, or the tree's end.
    pub async fn wait_running(&self, _path: &str, _within: Duration) -> Result<(), TreeError> {
        Err(TreeError::Ended)
    }

    /// Stops a node and keeps it down until [`recover`](Self::recover).
    ///
    /// # Errors
    /// No such node; the root.
    pub async fn quarantine(&self, _path: &str, _reason: &str) -> Result<(), TreeError> {
        Err(TreeError::Ended)
    }

    /// Starts a node that is quarantined or finished, with an empty window. Does nothing for one that runs.
    ///
    /// # Errors
    /// No such node.
    pub async fn recover(&self, _path: &str) -> Result<(), TreeError> {
        Err(TreeError::Ended)
    }

    /// Stops a node and starts it again, with the siblings that its strategy takes along. Not counted in any window.
    ///
    /// # Errors
    /// No such node; the root; a quarantined node.
    pub async fn restart(&self, _path: &str) -> Result<(), TreeError> {
        Err(TreeError::Ended)
    }

    /// Stops everything in reverse order, each child within its own limit; what is left after `within` is abandoned.
    /// On a tree that has ended, how it ended.
    pub async fn stop(&self, _within: Duration) -> TreeExit {
        TreeExit::SupervisionLost
    }

    /// Waits for the end of the tree.
    pub async fn wait(&self) -> TreeExit {
        TreeExit::SupervisionLost
    }

    /// Threads that were abandoned and have not come back.
    pub fn zombies(&self) -> usize {
        0
    }
}
