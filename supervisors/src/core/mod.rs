//! Who restarts, who stops, when to give up: no actix, no clock, no randomness of its own.
//!
//! [`Core`] is told what happened and at what time (counted from the tree's start) and answers with what is to be
//! done. Every event ends in [`Core::settle`], which compares what each supervisor wants with what its children are
//! and makes the next moves; so orders of start and stop follow from the state alone, not from who asked.

mod exits;
mod node;
mod report;
mod settle;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

pub(crate) use self::node::Ix;
use self::node::{Node, Phase};
use crate::{
    ChildState, ExitReason, Generation, Strategy, TreeEvent, TreeExit, Window,
    spec::{Rules, join},
};

/// What happened to a worker.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The tree is to start.
    Boot,
    /// The worker's factory and `started` have returned.
    Started { node: Ix, generation: Generation },
    /// The worker's actor has been dropped.
    Exited {
        node: Ix,
        generation: Generation,
        reason: ExitReason,
    },
    /// The worker's current poll is older than its limit.
    Stuck {
        node: Ix,
        generation: Generation,
        age: Duration,
    },
    /// The worker lived on a thread that was abandoned because of another.
    ThreadLost { node: Ix, generation: Generation },
    /// Time has passed.
    Tick,
    /// The time to stop is over.
    StopOverrun,
}

/// What a person wants.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Quarantine { node: Ix, why: String },
    Recover { node: Ix },
    Restart { node: Ix },
    Remove { node: Ix },
    Stop,
}

/// What the runtime has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Start {
        node: Ix,
        generation: Generation,
    },
    /// Let no further message through.
    Shut {
        node: Ix,
        generation: Generation,
    },
    /// Ask the actor to stop.
    Stop {
        node: Ix,
        generation: Generation,
    },
    /// Drop the actor as soon as its thread is free.
    Kill {
        node: Ix,
        generation: Generation,
    },
    /// Give the actor up, with its thread.
    Abandon {
        node: Ix,
        generation: Generation,
    },
    /// Tell callers what the worker does; `retry_at` is when its back-off ends.
    Show {
        node: Ix,
        state: ChildState,
        generation: Generation,
        retry_at: Option<Duration>,
    },
    Tell(TreeEvent),
    End(TreeExit),
}

/// Numbers that hold for the whole tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) zombies_max: usize,
    pub(crate) kill_grace: Duration,
    /// Unix time of the tree's start.
    pub(crate) started_unix_ms: u64,
}

/// The state of a tree.
#[derive(Debug)]
pub(crate) struct Core {
    settings: Settings,
    /// The root is node 0; a child always stands behind its parent.
    nodes: Vec<Node>,
    /// Abandoned generations that have not come back.
    zombies: BTreeSet<(Ix, Generation)>,
    draws: u64,
    /// Time of the newest event.
    seen: Duration,
    /// Why the tree ends, once it does.
    ending: Option<TreeExit>,
    ended: bool,
    effects: Vec<Effect>,
}

const ROOT: Ix = 0;

impl Core {
    /// A tree of the root alone.
    pub(crate) fn new(id: &str, strategy: Strategy, window: Window, settings: Settings) -> Self {
        let root = Node::supervisor(None, Arc::from(id), Rules::default(), strategy, window);
        Self {
            settings,
            nodes: vec![root],
            zombies: BTreeSet::new(),
            draws: settings.seed,
            seen: Duration::ZERO,
            ending: None,
            ended: false,
            effects: Vec::new(),
        }
    }

    /// Adds a worker as the last child of `parent`.
    pub(crate) fn add_worker(&mut self, parent: Ix, id: &str, rules: Rules) -> Ix {
        let path = self.path_below(parent, id);
        self.push(parent, Node::worker(Some(parent), path, rules))
    }

    /// Adds a supervisor as the last child of `parent`.
    pub(crate) fn add_supervisor(
        &mut self,
        parent: Ix,
        id: &str,
        rules: Rules,
        strategy: Strategy,
        window: Window,
    ) -> Ix {
        let path = self.path_below(parent, id);
        let node = Node::supervisor(Some(parent), path, rules, strategy, window);
        self.push(parent, node)
    }

    fn push(&mut self, parent: Ix, node: Node) -> Ix {
        self.nodes.push(node);
        let ix = self.nodes.len() - 1;
        self.nodes[parent].children.push(ix);
        ix
    }

    /// The path that a child `id` of `parent` has.
    pub(crate) fn path_below(&self, parent: Ix, id: &str) -> Arc<str> {
        let prefix = if parent == ROOT {
            ""
        } else {
            &self.nodes[parent].path
        };
        Arc::from(join(prefix, id))
    }

    /// Takes note of `event` at `now` and says what is to be done.
    pub(crate) fn decide(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        if !self.ended {
            self.seen = now;
            self.take_note(event, now);
            self.settle(now);
            self.show();
            self.tell_end();
        }
        std::mem::take(&mut self.effects)
    }

    /// Carries a person's wish out.
    ///
    /// # Errors
    /// A sentence about why it cannot be.
    pub(crate) fn command(
        &mut self,
        command: Command,
        now: Duration,
    ) -> Result<Vec<Effect>, &'static str> {
        match command {
            Command::Quarantine { node, why } => self.order_quarantine(node, why)?,
            Command::Recover { node } => self.order_recover(node),
            Command::Restart { node } => self.order_restart(node)?,
            Command::Remove { node } => self.order_remove(node)?,
            Command::Stop => self.end_with(TreeExit::Stopped),
        }
        Ok(self.decide(Event::Tick, now))
    }

    /// When [`Event::Tick`] is due next: always later than the newest event, since what was due then has been done
    /// or waits for something else.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let deadlines = self.nodes.iter().filter_map(|node| node.phase.until());
        deadlines.filter(|&until| until > self.seen).min()
    }

    /// True once [`Effect::End`] has been given out.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Abandoned generations that have not come back.
    pub(crate) fn zombies(&self) -> usize {
        self.zombies.len()
    }

    /// The restart window of a supervisor; `None` for a worker.
    pub(crate) fn window_of_supervisor(&self, node: Ix) -> Option<Window> {
        let supervision = self.nodes[node].supervision.as_ref()?;
        Some(supervision.window)
    }

    /// The node with this path.
    pub(crate) fn find(&self, path: &str) -> Option<Ix> {
        self.nodes
            .iter()
            .position(|node| !node.removed && *node.path == *path)
    }

    /// True for a node that was removed and has come down.
    pub(crate) fn is_gone(&self, node: Ix) -> bool {
        self.nodes[node].removed && !self.nodes[node].phase.is_up()
    }

    pub(crate) fn path(&self, node: Ix) -> &Arc<str> {
        &self.nodes[node].path
    }

    pub(crate) fn is_supervisor(&self, node: Ix) -> bool {
        self.nodes[node].is_supervisor()
    }

    pub(crate) fn state(&self, node: Ix) -> ChildState {
        self.nodes[node].phase.state()
    }

    fn take_note(&mut self, event: Event, now: Duration) {
        match event {
            Event::Boot => self.begin_start(ROOT, now),
            Event::Started { node, generation } => self.on_started(node, generation, now),
            Event::Exited {
                node,
                generation,
                reason,
            } => self.on_report(node, generation, reason, now),
            Event::Stuck {
                node,
                generation,
                age,
            } => self.on_stuck(node, generation, age, now),
            Event::ThreadLost { node, generation } => self.on_thread_lost(node, generation, now),
            Event::Tick => self.on_tick(now),
            Event::StopOverrun => self.on_stop_overrun(),
        }
    }

    fn on_started(&mut self, node: Ix, generation: Generation, now: Duration) {
        let current = &self.nodes[node];
        if current.generation == generation && matches!(current.phase, Phase::Starting { .. }) {
            self.mark_running(node, now);
        }
    }

    /// Everything is to go down, for the first reason given.
    fn end_with(&mut self, exit: TreeExit) {
        self.ending.get_or_insert(exit);
        let root = &mut self.nodes[ROOT];
        if root.phase.is_up() {
            root.phase = Phase::stopping(None);
        } else {
            self.ended = true;
        }
    }

    /// The end is the last thing to be told.
    fn tell_end(&mut self) {
        if self.ended {
            let exit = self.ending.clone().unwrap_or(TreeExit::Stopped);
            self.effects.push(Effect::End(exit));
        }
    }

    fn on_stop_overrun(&mut self) {
        let late = (0..self.nodes.len())
            .filter(|&ix| !self.is_supervisor(ix) && self.nodes[ix].phase.is_up());
        let late: Vec<Ix> = late.collect();
        for &node in &late {
            let generation = self.nodes[node].generation;
            self.effects.push(Effect::Abandon { node, generation });
        }
        let left = late
            .iter()
            .map(|&ix| self.nodes[ix].path.to_string())
            .collect();
        self.ending = Some(TreeExit::StopOverrun { left });
        self.ended = true;
    }

    fn order_quarantine(&mut self, node: Ix, why: String) -> Result<(), &'static str> {
        if node == ROOT {
            return Err("the root cannot be quarantined; stop the node instead");
        }
        if self.nodes[node].phase.is_up() {
            self.nodes[node].hold = Some(why);
            self.shut(node);
        } else {
            self.quarantine(node, why);
        }
        Ok(())
    }

    /// Refuses new messages to a node, or to all workers below it, before it is its turn to stop.
    fn shut(&mut self, node: Ix) {
        let generation = self.nodes[node].generation;
        self.effects.push(Effect::Shut { node, generation });
        for child in self.nodes[node].children.clone() {
            self.shut(child);
        }
    }

    fn order_recover(&mut self, node: Ix) {
        let path = Arc::clone(&self.nodes[node].path);
        let recovered = &mut self.nodes[node];
        let was_out =
            matches!(recovered.phase, Phase::Quarantined) || recovered.hold.take().is_some();
        recovered.forgive();
        if matches!(
            recovered.phase,
            Phase::Quarantined | Phase::BackingOff { .. }
        ) {
            recovered.phase = Phase::Stopped;
        }
        if was_out {
            self.effects
                .push(Effect::Tell(TreeEvent::ChildRecovered { path }));
        }
    }

    fn order_restart(&mut self, node: Ix) -> Result<(), &'static str> {
        if node == ROOT {
            return Err("the root cannot be restarted");
        }
        if matches!(self.nodes[node].phase, Phase::Quarantined) || self.nodes[node].hold.is_some() {
            return Err("it is quarantined; recover it instead");
        }
        self.mark_group(node);
        self.nodes[node].wanted = true;
        self.nodes[node].halt = self.nodes[node].phase.is_up();
        Ok(())
    }

    fn order_remove(&mut self, node: Ix) -> Result<(), &'static str> {
        if node == ROOT {
            return Err("the root cannot be removed");
        }
        self.nodes[node].removed = true;
        for child in self.nodes[node].children.clone() {
            self.order_remove(child)?;
        }
        Ok(())
    }

    /// Tells workers' callers about each state that has changed.
    fn show(&mut self) {
        for (node, current) in self.nodes.iter_mut().enumerate() {
            let state = current.phase.state();
            let generation = current.generation;
            if current.shown != (state, generation) {
                current.shown = (state, generation);
                self.effects.push(Effect::Show {
                    node,
                    state,
                    generation,
                    retry_at: current.phase.back_at(),
                });
            }
        }
    }

    /// SplitMix64, so that the same seed gives the same pauses.
    fn draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.draws ^ (self.draws >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
