//! Carries out what the core decides. One task on the supervision thread; it runs no code of any actor.

use std::{collections::HashMap, sync::Arc, time::Duration};

use actix_rt::{Arbiter, ArbiterHandle};
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    Generation, Placement, TreeError, TreeEvent, TreeExit, TreeOptions,
    control::Control,
    core::{Command, Core, Effect, Event, Ix},
    gate::{GateControl, Status},
    log, metrics,
    planter::Planter,
    runner::{ExitGuard, Launch, Report},
    spec::AnyWorker,
};

/// Mailboxes are measured once in so many stuck ticks.
const TICKS_PER_MEASUREMENT: u64 = 50;

/// An order from a handle.
pub(crate) enum Request {
    Command {
        command: Command,
        done: oneshot::Sender<Result<(), TreeError>>,
    },
    /// Adds a worker below a supervisor.
    Add {
        parent: Ix,
        spec: Arc<dyn AnyWorker>,
        done: oneshot::Sender<Result<(), TreeError>>,
    },
    /// The time of a stop is over.
    Overrun,
}

/// What handles and the driver share.
pub(crate) struct Shared {
    pub(crate) core: Mutex<Core>,
    pub(crate) gates: Mutex<HashMap<Ix, Arc<dyn GateControl>>>,
    pub(crate) events: broadcast::Sender<TreeEvent>,
    pub(crate) exit: watch::Sender<Option<TreeExit>>,
    pub(crate) epoch: Instant,
}

impl Shared {
    /// Time since the tree's start.
    pub(crate) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}

/// A generation that has not ended.
struct Current {
    generation: Generation,
    control: Arc<Control>,
}

struct Worker {
    spec: Arc<dyn AnyWorker>,
    gate: Arc<dyn GateControl>,
    path: Arc<str>,
    current: Option<Current>,
    /// Kept from one generation to the next, until it is abandoned.
    own_thread: Option<Arbiter>,
}

impl Worker {
    /// The generation whose poll is older than its limit, and that age. The starter's thread cannot be given up.
    fn stuck(&self, node: Ix) -> Option<(Ix, Generation, Duration)> {
        let limits = self.spec.limits();
        let limit = limits
            .stuck
            .filter(|_| limits.placement != Placement::Local)?;
        let age = self.poll_age()?;
        let generation = self.current.as_ref()?.generation;
        (age > limit).then_some((node, generation, age))
    }

    /// For how long the actor has not come back from what it is doing; `None` while it waits.
    fn poll_age(&self) -> Option<Duration> {
        self.current.as_ref()?.control.poll_age()
    }
}

/// What the driver is made of.
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: HashMap<Ix, Arc<dyn AnyWorker>>,
    pub(crate) options: TreeOptions,
    pub(crate) requests: mpsc::UnboundedReceiver<Request>,
}

pub(crate) struct Driver {
    shared: Arc<Shared>,
    workers: HashMap<Ix, Worker>,
    options: TreeOptions,
    requests: mpsc::UnboundedReceiver<Request>,
    reports: mpsc::UnboundedReceiver<Report>,
    reports_to_me: mpsc::UnboundedSender<Report>,
    shared_thread: Option<Arbiter>,
    /// The thread that the tree was started on, where there is one with an event loop of actix.
    starter: Option<ArbiterHandle>,
    ticks: u64,
}

impl Drop for Driver {
    /// Whoever waits for the end of the tree learns that nobody supervises it any more.
    fn drop(&mut self) {
        self.shared.exit.send_if_modified(|exit| {
            let lost = exit.is_none();
            exit.get_or_insert(TreeExit::SupervisionLost);
            lost
        });
    }
}

impl Driver {
    pub(crate) fn new(parts: Parts, starter: Option<ArbiterHandle>) -> Self {
        let (reports_to_me, reports) = mpsc::unbounded_channel();
        let mut driver = Self {
            shared: parts.shared,
            workers: HashMap::new(),
            options: parts.options,
            requests: parts.requests,
            reports,
            reports_to_me,
            shared_thread: None,
            starter,
            ticks: 0,
        };
        for (ix, spec) in parts.workers {
            driver.employ(ix, spec);
        }
        driver
    }

    fn employ(&mut self, ix: Ix, spec: Arc<dyn AnyWorker>) {
        let worker = Worker {
            gate: spec.gate(),
            path: Arc::clone(self.shared.core.lock().path(ix)),
            spec,
            current: None,
            own_thread: None,
        };
        self.workers.insert(ix, worker);
    }

    /// Runs until the tree has ended.
    pub(crate) async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.options.stuck_tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.decide(Event::Boot);
        while !self.shared.core.lock().has_ended() {
            let deadline = self.shared.core.lock().next_deadline();
            let epoch = self.shared.epoch;
            tokio::select! {
                Some(report) = self.reports.recv() => self.on_report(report),
                Some(request) = self.requests.recv() => self.on_request(request),
                () = sleep_until(deadline.map(|at| epoch + at)) => self.decide(Event::Tick),
                _ = ticks.tick() => self.look_around(),
            }
        }
        self.dismiss();
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::ThreadLost { node, generation } => {
                self.decide(Event::ThreadLost { node, generation })
            }
            Report::Started { node, generation } => {
                self.decide(Event::Started { node, generation })
            }
            Report::Exited {
                node,
                generation,
                reason,
            } => {
                self.forget(node, generation);
                self.decide(Event::Exited {
                    node,
                    generation,
                    reason,
                });
                self.sweep();
            }
        }
    }

    fn forget(&mut self, node: Ix, generation: Generation) {
        if let Some(worker) = self.workers.get_mut(&node)
            && worker
                .current
                .as_ref()
                .is_some_and(|current| current.generation == generation)
        {
            worker.current = None;
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Command { command, done } => {
                let answer = self.command(command);
                // Whoever asked may have stopped waiting.
                let _ = done.send(answer);
            }
            Request::Add { parent, spec, done } => {
                let answer = self.add(parent, spec);
                let _ = done.send(answer);
            }
            Request::Overrun => self.decide(Event::StopOverrun),
        }
    }

    fn command(&mut self, command: Command) -> Result<(), TreeError> {
        let path = match &command {
            Command::Quarantine { node, .. }
            | Command::Recover { node }
            | Command::Restart { node }
            | Command::Remove { node } => self.shared.core.lock().path(*node).to_string(),
            Command::Stop => String::new(),
        };
        let now = self.shared.now();
        let mut core = self.shared.core.lock();
        let decided = core.command(command, now);
        let effects = decided.map_err(|why| TreeError::Refused { path, why })?;
        self.show_all(&effects);
        drop(core);
        self.carry_out(effects);
        self.sweep();
        Ok(())
    }

    /// Lets go of workers that were removed and have come down, threads included.
    fn sweep(&mut self) {
        let core = self.shared.core.lock();
        for (ix, mut worker) in self.workers.extract_if(|&ix, _| core.is_gone(ix)) {
            retire(&mut worker.own_thread);
            self.shared.gates.lock().remove(&ix);
        }
    }

    fn add(&mut self, parent: Ix, spec: Arc<dyn AnyWorker>) -> Result<(), TreeError> {
        let mut workers = HashMap::new();
        Planter {
            core: &mut self.shared.core.lock(),
            gates: &mut self.shared.gates.lock(),
            workers: &mut workers,
        }
        .plant_worker(parent, spec)?;
        for (ix, spec) in workers {
            self.employ(ix, spec);
        }
        self.decide(Event::Tick);
        Ok(())
    }

    fn decide(&mut self, event: Event) {
        let now = self.shared.now();
        let mut core = self.shared.core.lock();
        let effects = core.decide(event, now);
        self.show_all(&effects);
        drop(core);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start { node, generation } => self.start(node, generation),
                Effect::Shut { node, generation } => self.part_from(node, generation, |_| {}),
                Effect::Stop { node, generation } => {
                    self.part_from(node, generation, Control::stop)
                }
                Effect::Kill { node, generation } => {
                    self.part_from(node, generation, Control::kill)
                }
                Effect::Abandon { node, generation } => self.abandon(node, generation),
                Effect::Show { .. } => {}
                Effect::Tell(event) => self.tell(event),
                Effect::End(exit) => self.end(exit),
            }
        }
    }

    fn start(&mut self, node: Ix, generation: Generation) {
        let Some(worker) = self.workers.get_mut(&node) else {
            return;
        };
        let control = Control::new();
        worker.current = Some(Current {
            generation,
            control: Arc::clone(&control),
        });
        let launch = Launch {
            path: Arc::clone(&worker.path),
            control,
            probe: Arc::clone(&self.options.probe),
            guard: ExitGuard {
                node,
                generation,
                reports: self.reports_to_me.clone(),
                reported: false,
            },
        };
        self.launch(node, launch);
    }

    /// Sends the generation to its thread. Where that cannot be done, the launch's guard reports the exit.
    fn launch(&mut self, node: Ix, launch: Launch) {
        let Some(worker) = self.workers.get_mut(&node) else {
            return;
        };
        let spec = Arc::clone(&worker.spec);
        let thread = match worker.spec.limits().placement {
            _ if self.options.local => None,
            Placement::OwnThread => arbiter_in(&mut worker.own_thread),
            Placement::Shared => arbiter_in(&mut self.shared_thread),
            Placement::Local => self.starter.clone(),
        };
        match thread {
            Some(thread) => {
                thread.spawn_fn(move || spec.run_here(launch));
            }
            None if self.options.local => spec.run_here(launch),
            None => tracing::error!(child = %launch.path, "no thread could be made for a child"),
        }
    }

    /// Shuts the gate and tells the generation to go.
    fn part_from(&mut self, node: Ix, generation: Generation, order: impl FnOnce(&Control)) {
        if let Some(worker) = self.workers.get(&node) {
            worker.gate.shut(generation);
            if let Some(current) = worker
                .current
                .as_ref()
                .filter(|current| current.generation == generation)
            {
                order(&current.control);
            }
        }
    }

    /// Releases who waits for the generation and leaves its thread to itself: the thread ends when it comes back.
    fn abandon(&mut self, node: Ix, generation: Generation) {
        self.part_from(node, generation, Control::kill);
        self.forget(node, generation);
        let Some(worker) = self.workers.get_mut(&node) else {
            return;
        };
        match worker.spec.limits().placement {
            Placement::OwnThread => retire(&mut worker.own_thread),
            Placement::Shared => self.move_neighbours(node),
            Placement::Local => {}
        }
    }

    /// Who shares a thread with a stuck child is stuck too.
    fn move_neighbours(&mut self, stuck: Ix) {
        retire(&mut self.shared_thread);
        let shared = |worker: &Worker| worker.spec.limits().placement == Placement::Shared;
        let neighbours = self
            .workers
            .iter()
            .filter(|(ix, worker)| **ix != stuck && shared(worker));
        let lost: Vec<(Ix, Generation)> = neighbours
            .filter_map(|(&ix, worker)| {
                worker
                    .current
                    .as_ref()
                    .map(|current| (ix, current.generation))
            })
            .collect();
        for (node, generation) in lost {
            self.part_from(node, generation, Control::kill);
            self.forget(node, generation);
            // Decided after the effects in hand, in the order of arrival.
            let _ = self
                .reports_to_me
                .send(Report::ThreadLost { node, generation });
        }
    }

    /// Tells callers of the new states, with the core locked: who reads a state in the tree finds it at the handle too.
    fn show_all(&self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Show {
                node,
                state,
                generation,
                retry_at,
            } = *effect
                && let Some(worker) = self.workers.get(&node)
            {
                worker.gate.publish(Status {
                    state,
                    generation,
                    retry_at: retry_at.map(|at| self.shared.epoch + at),
                });
                metrics::note_state(&worker.path, state, generation);
            }
        }
    }

    fn tell(&self, event: TreeEvent) {
        log::note_event(&event);
        metrics::note_event(&event);
        // Nobody may be listening.
        let _ = self.shared.events.send(event);
    }

    fn end(&self, exit: TreeExit) {
        match &exit {
            TreeExit::Stopped => tracing::info!("the supervision tree has stopped"),
            failed => tracing::error!(exit = %failed, "the supervision tree has ended"),
        }
        self.shared.exit.send_replace(Some(exit));
    }

    /// Looks for polls that are older than their limit, and now and then measures mailboxes.
    fn look_around(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(TICKS_PER_MEASUREMENT) {
            for worker in self.workers.values() {
                metrics::note_depth(&worker.path, worker.gate.depth());
                metrics::note_poll_age(&worker.path, worker.poll_age().unwrap_or_default());
            }
        }
        let stuck = self
            .workers
            .iter()
            .filter_map(|(&node, worker)| worker.stuck(node));
        for (node, generation, age) in stuck.collect::<Vec<_>>() {
            self.decide(Event::Stuck {
                node,
                generation,
                age,
            });
        }
    }

    /// Ends the threads of a tree that has ended.
    fn dismiss(&mut self) {
        retire(&mut self.shared_thread);
        for worker in self.workers.values_mut() {
            retire(&mut worker.own_thread);
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The arbiter kept in `slot`, a new one where there is none that still runs.
fn arbiter_in(slot: &mut Option<Arbiter>) -> Option<ArbiterHandle> {
    if !slot.as_ref().is_some_and(Arbiter::alive) {
        *slot = Arbiter::try_new()
            .inspect_err(|error| tracing::error!(%error, "no thread for a child"))
            .ok();
    }
    slot.as_ref().map(Arbiter::handle)
}

/// Lets the arbiter's thread end as soon as its event loop runs again.
fn retire(slot: &mut Option<Arbiter>) {
    if let Some(arbiter) = slot.take() {
        arbiter.stop();
    }
}
