//! The tree as a report.

use std::time::Duration;

use super::{Core, Ix, ROOT};
use crate::{NodeKind, TreeNode};

impl Core {
    /// The whole tree at `now`; `depth` says how many messages a worker has admitted.
    pub(crate) fn describe(&self, now: Duration, depth: &dyn Fn(Ix) -> usize) -> TreeNode {
        self.describe_node(ROOT, now, depth)
    }

    fn describe_node(&self, ix: Ix, now: Duration, depth: &dyn Fn(Ix) -> usize) -> TreeNode {
        let node = &self.nodes[ix];
        let children = node.children.iter();
        TreeNode {
            id: node.path.to_string(),
            kind: match node.supervision {
                Some(_) => NodeKind::Supervisor,
                None => NodeKind::Worker,
            },
            state: node.phase.state(),
            generation: node.generation,
            restarts_in_window: self.restarts_in_window(ix, now),
            last_exit: node.last_exit.clone(),
            quarantine_reason: node.quarantined_because.clone(),
            mailbox_depth: depth(ix),
            children: children
                .map(|&child| self.describe_node(child, now, depth))
                .collect(),
        }
    }

    fn restarts_in_window(&self, ix: Ix, now: Duration) -> u32 {
        let node = &self.nodes[ix];
        match &node.supervision {
            Some(supervision) => supervision.restarts.count(supervision.window, now),
            None => node.restarts.count(self.window_of(ix), now),
        }
    }
}
