//! A world in which starts and stops succeed at once, unless a test says otherwise.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    Backoff, ChildState, ExitReason, Generation, Restart, Strategy, TreeEvent, TreeExit, TreeNode,
    Window,
    core::{Command, Core, Effect, Event, Ix, Settings},
    spec::Rules,
};

pub(super) const SECOND: Duration = Duration::from_secs(1);
/// Far more than any test's tree needs to come to rest.
const EVENTS_MAX: usize = 10_000;

pub(super) fn settings() -> Settings {
    Settings {
        seed: 7,
        zombies_max: 2,
        kill_grace: Duration::from_millis(100),
        started_unix_ms: 1_000_000,
    }
}

pub(super) fn rules(restart: Restart) -> Rules {
    Rules {
        restart,
        backoff: Backoff::NONE,
        ..Rules::default()
    }
}

pub(super) struct World {
    pub(super) core: Core,
    pub(super) now: Duration,
    /// `start a 1`, `stop a 1`, `kill a 1`, `abandon a 1`, `gives up node` as they happened.
    pub(super) log: Vec<String>,
    pub(super) events: Vec<TreeEvent>,
    pub(super) exit: Option<TreeExit>,
    /// What the callers of each node have been told last: its state, generation and the end of its back-off.
    pub(super) told: BTreeMap<Ix, (ChildState, Generation, Option<Duration>)>,
    /// Generations that exist.
    pub(super) alive: BTreeMap<Ix, Generation>,
    /// Children that do nothing when told to start, stop or be gone.
    pub(super) deaf: BTreeSet<Ix>,
    /// With true, actors answer only when a test says so, see [`World::delivers`].
    pub(super) slow: bool,
    inbox: VecDeque<Event>,
    later: VecDeque<Event>,
    unheard: VecDeque<Event>,
}

impl World {
    pub(super) fn new(core: Core) -> Self {
        Self {
            core,
            now: Duration::ZERO,
            log: Vec::new(),
            events: Vec::new(),
            exit: None,
            told: BTreeMap::new(),
            alive: BTreeMap::new(),
            deaf: BTreeSet::new(),
            slow: false,
            inbox: VecDeque::new(),
            later: VecDeque::new(),
            unheard: VecDeque::new(),
        }
    }

    /// A root with workers of these names.
    pub(super) fn flat(strategy: Strategy, workers: &[(&str, Rules)]) -> Self {
        let mut core = Core::new("node", strategy, Window::SUPERVISOR, settings());
        for (id, rules) in workers {
            core.add_worker(0, id, rules.clone());
        }
        Self::new(core).booted()
    }

    pub(super) fn booted(mut self) -> Self {
        self.happens(Event::Boot);
        self.log.clear();
        self
    }

    pub(super) fn happens(&mut self, event: Event) {
        self.inbox.push_back(event);
        self.work_off();
    }

    fn work_off(&mut self) {
        let mut left = EVENTS_MAX;
        while let Some(event) = self.inbox.pop_front() {
            assert!(left > 0, "the tree does not come to rest");
            left -= 1;
            let effects = self.core.decide(event, self.now);
            self.carry_out(effects);
        }
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), &'static str> {
        let effects = self.core.command(command, self.now)?;
        self.carry_out(effects);
        self.work_off();
        Ok(())
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start { node, generation } => {
                    let before = self.alive.insert(node, generation);
                    assert_eq!(
                        before,
                        None,
                        "two generations of {} at once",
                        self.core.path(node)
                    );
                    self.note("start", node, generation);
                    self.answer(node, Event::Started { node, generation });
                }
                Effect::Stop { node, generation } => {
                    self.note("stop", node, generation);
                    self.answer_exit(node, generation, ExitReason::Shutdown);
                }
                Effect::Kill { node, generation } => {
                    self.note("kill", node, generation);
                    self.answer_exit(node, generation, ExitReason::Killed);
                }
                Effect::Abandon { node, generation } => {
                    self.note("abandon", node, generation);
                    self.alive.remove(&node);
                }
                Effect::Show {
                    node,
                    state,
                    generation,
                    retry_at,
                } => drop(self.told.insert(node, (state, generation, retry_at))),
                Effect::Shut { .. } => {}
                Effect::Tell(event) => self.hear(event),
                Effect::End(exit) => {
                    assert_eq!(self.exit.replace(exit), None, "a tree ends once");
                }
            }
        }
    }

    /// What is done to a generation that is dead already, its exit still unheard, is not worth a line.
    fn note(&mut self, what: &str, node: Ix, generation: Generation) {
        if self.alive.get(&node) == Some(&generation) {
            self.log
                .push(format!("{what} {} {generation}", self.core.path(node)));
        }
    }

    fn hear(&mut self, event: TreeEvent) {
        if let TreeEvent::Escalated { path, .. } = &event {
            self.log.push(format!("gives up {path}"));
        }
        self.events.push(event);
    }

    fn answer(&mut self, node: Ix, event: Event) {
        if self.deaf.contains(&node) {
            return;
        }
        match self.slow {
            true => self.later.push_back(event),
            false => self.inbox.push_back(event),
        }
    }

    fn answer_exit(&mut self, node: Ix, generation: Generation, reason: ExitReason) {
        if self.alive.get(&node) != Some(&generation) {
            return self.hear_of(node);
        }
        if !self.deaf.contains(&node) && !self.slow {
            self.alive.remove(&node);
        }
        let exited = Event::Exited {
            node,
            generation,
            reason,
        };
        self.answer(node, exited);
    }

    /// Brings the news that this one is dead, if there is such news.
    fn hear_of(&mut self, dead: Ix) {
        let about = |event: &Event| matches!(event, Event::Exited { node, .. } if *node == dead);
        if let Some(at) = self.unheard.iter().position(about) {
            self.inbox.extend(self.unheard.remove(at));
        }
    }

    /// The actor that owes the answer picked by the number gives it; false when none is owed.
    pub(super) fn delivers(&mut self, pick: usize) -> bool {
        if self.later.is_empty() {
            return false;
        }
        let event = self.later.remove(pick % self.later.len());
        match event {
            Some(Event::Started { node, generation })
                if self.alive.get(&node) != Some(&generation) => {}
            Some(Event::Exited {
                node, generation, ..
            }) if self.alive.get(&node) != Some(&generation) => {}
            Some(event) => {
                if let Event::Exited { node, .. } = event {
                    self.alive.remove(&node);
                }
                self.happens(event);
            }
            None => {}
        }
        true
    }

    pub(super) fn ix(&self, path: &str) -> Ix {
        self.core.find(path).expect("the path is in the tree")
    }

    /// The current generation of a child exits by itself.
    pub(super) fn exits(&mut self, path: &str, reason: ExitReason) {
        self.exit_together(&[(path, reason)]);
    }

    /// All of these have exited before their supervisor hears of the first. It hears of the next when nothing is left
    /// to do about the one before, as in OTP, or when it would stop what is dead already.
    pub(super) fn exit_together(&mut self, exits: &[(&str, ExitReason)]) {
        let dead = exits.iter().map(|(path, reason)| {
            let node = self.core.find(path).expect("the path is in the tree");
            let generation = self.alive.remove(&node).expect("it is alive");
            let reason = reason.clone();
            Event::Exited {
                node,
                generation,
                reason,
            }
        });
        self.unheard = dead.collect();
        while let Some(event) = self.unheard.pop_front() {
            self.happens(event);
        }
    }

    pub(super) fn panics(&mut self, path: &str) {
        self.exits(path, ExitReason::Panicked("boom".to_owned()));
    }

    /// Lets time pass, with a tick at each deadline on the way.
    pub(super) fn passes(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.core.next_deadline().filter(|&at| at <= end) {
            assert!(
                at > self.now,
                "a deadline that has been dealt with must not come back"
            );
            self.now = at;
            self.happens(Event::Tick);
        }
        self.now = end;
        self.happens(Event::Tick);
    }

    pub(super) fn state(&self, path: &str) -> ChildState {
        self.core.state(self.ix(path))
    }

    pub(super) fn tree(&self) -> TreeNode {
        self.core.describe(self.now, &|_| 0)
    }

    /// Nodes in the tree, the root included.
    pub(super) fn tree_size(&self) -> usize {
        fn size(node: &TreeNode) -> usize {
            1 + node.children.iter().map(size).sum::<usize>()
        }
        size(&self.tree())
    }

    pub(super) fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}
