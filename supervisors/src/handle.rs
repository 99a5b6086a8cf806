//! Starting a tree and giving it orders.

use std::{collections::HashMap, sync::Arc, time::Duration};

use actix::{Actor, Context};
use actix_rt::{Arbiter, System};
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    ChildSpec, ChildState, SpecError, SupervisorSpec, TreeError, TreeEvent, TreeExit, TreeNode,
    TreeOptions,
    core::{Command, Core, Ix, Settings},
    driver::{Driver, Parts, Request, Shared},
    planter::Planter,
    spec::{AnyWorker, check_worker},
};

/// Starts supervision trees.
pub struct Tree;

impl Tree {
    /// Checks the spec, starts a supervision thread and lets it start the children, left to right. Returns before they
    /// are up; see [`TreeHandle::wait_running`].
    ///
    /// # Errors
    /// A spec that is not well-formed; no actix `System` on this thread.
    pub fn start(spec: SupervisorSpec, options: TreeOptions) -> Result<TreeHandle, SpecError> {
        spec.validate()?;
        if !options.local && System::try_current().is_none() {
            return Err(SpecError::NoSystem);
        }
        let (handle, parts) = assemble(spec, options)?;
        if parts.options.local {
            actix_rt::spawn(Driver::new(parts, None).run());
        } else {
            let starter = Arbiter::try_current();
            let thread =
                Arbiter::try_new().map_err(|error| SpecError::Thread(error.to_string()))?;
            thread.spawn_fn(move || {
                actix_rt::spawn(async move {
                    Driver::new(parts, starter).run().await;
                    Arbiter::current().stop();
                });
            });
        }
        Ok(handle)
    }
}

fn assemble(spec: SupervisorSpec, options: TreeOptions) -> Result<(TreeHandle, Parts), SpecError> {
    let settings = Settings {
        seed: options.seed,
        zombies_max: options.zombies_max,
        kill_grace: options.kill_grace,
        started_unix_ms: (options.unix_ms)(),
    };
    let mut core = Core::new(&spec.id, spec.strategy, spec.window, settings);
    let (mut gates, mut workers) = (HashMap::new(), HashMap::new());
    Planter {
        core: &mut core,
        gates: &mut gates,
        workers: &mut workers,
    }
    .plant_all(0, spec.members)?;
    let shared = Arc::new(Shared {
        core: Mutex::new(core),
        gates: Mutex::new(gates),
        events: broadcast::channel(options.events_len_max.max(1)).0,
        exit: watch::channel(None).0,
        epoch: Instant::now(),
    });
    let (sender, requests) = mpsc::unbounded_channel();
    let handle = TreeHandle {
        shared: Arc::clone(&shared),
        requests: sender,
    };
    let parts = Parts {
        shared,
        workers,
        options,
        requests,
    };
    Ok((handle, parts))
}

/// A running tree. Clones command the same tree; dropping them all does not stop it.
#[derive(Clone)]
pub struct TreeHandle {
    shared: Arc<Shared>,
    requests: mpsc::UnboundedSender<Request>,
}

impl TreeHandle {
    /// The whole tree as it is now.
    pub fn describe(&self) -> TreeNode {
        let gates = self.shared.gates.lock().clone();
        let depth = |ix: Ix| gates.get(&ix).map_or(0, |gate| gate.depth());
        self.shared.core.lock().describe(self.shared.now(), &depth)
    }

    /// What happens from now on. A subscriber that falls behind loses the oldest events and is told so.
    pub fn subscribe(&self) -> broadcast::Receiver<TreeEvent> {
        self.shared.events.subscribe()
    }

    /// Waits until the node is running; the root is when each child runs or has been given up.
    ///
    /// # Errors
    /// No such node, the deadline, or the tree's end.
    pub async fn wait_running(&self, path: &str, within: Duration) -> Result<(), TreeError> {
        let mut events = self.subscribe();
        let mut exit = self.shared.exit.subscribe();
        let node = self.find(path)?;
        let running = async {
            while self.shared.core.lock().state(node) != ChildState::Running {
                tokio::select! {
                    event = events.recv() => { let _ = event; }
                    _ = ended(&mut exit) => return Err(TreeError::Ended),
                }
            }
            Ok(())
        };
        tokio::time::timeout(within, running)
            .await
            .unwrap_or(Err(TreeError::Timeout))
    }

    /// Stops a node and keeps it down until [`recover`](Self::recover). Returns when it has been told to stop.
    ///
    /// # Errors
    /// No such node; the root.
    pub async fn quarantine(&self, path: &str, reason: &str) -> Result<(), TreeError> {
        let node = self.find(path)?;
        let why = reason.to_owned();
        self.command(Command::Quarantine { node, why }).await
    }

    /// Starts a node that is quarantined, finished or backing off. Its own restart window begins anew.
    ///
    /// # Errors
    /// No such node.
    pub async fn recover(&self, path: &str) -> Result<(), TreeError> {
        let node = self.find(path)?;
        self.command(Command::Recover { node }).await
    }

    /// Stops a node and starts it again, with the siblings that its strategy takes along. Not counted in any window.
    ///
    /// # Errors
    /// No such node; the root; a quarantined node.
    pub async fn restart(&self, path: &str) -> Result<(), TreeError> {
        let node = self.find(path)?;
        self.command(Command::Restart { node }).await
    }

    /// Adds a worker as the last child of the supervisor at `parent` and starts it.
    ///
    /// # Errors
    /// No such supervisor; a spec that is not well-formed; an id that is taken.
    pub async fn add_child<A>(&self, parent: &str, spec: ChildSpec<A>) -> Result<(), TreeError>
    where
        A: Actor<Context = Context<A>>,
    {
        let parent = self.find(parent)?;
        let spec: Arc<dyn AnyWorker> = Arc::new(spec);
        self.check_new(parent, &*spec)?;
        self.ask(|done| Request::Add { parent, spec, done }).await
    }

    /// Stops a node and forgets it, with everything below it. Returns when it has been told to stop.
    ///
    /// # Errors
    /// No such node; the root.
    pub async fn remove_child(&self, path: &str) -> Result<(), TreeError> {
        let node = self.find(path)?;
        self.command(Command::Remove { node }).await
    }

    /// Stops everything in reverse order, each child within its own limit; what is left after `within` is abandoned.
    /// On a tree that has ended, how it ended.
    pub async fn stop(&self, within: Duration) -> TreeExit {
        // A refusal means that the tree has ended; `wait` says how.
        let _ = self.command(Command::Stop).await;
        if let Ok(exit) = tokio::time::timeout(within, self.wait()).await {
            return exit;
        }
        let _ = self.requests.send(Request::Overrun);
        self.wait().await
    }

    /// Waits for the end of the tree.
    pub async fn wait(&self) -> TreeExit {
        ended(&mut self.shared.exit.subscribe()).await
    }

    /// Threads that were abandoned and have not come back.
    pub fn zombies(&self) -> usize {
        self.shared.core.lock().zombies()
    }

    fn find(&self, path: &str) -> Result<Ix, TreeError> {
        let found = self.shared.core.lock().find(path);
        found.ok_or_else(|| TreeError::NoSuchPath {
            path: path.to_owned(),
        })
    }

    fn check_new(&self, parent: Ix, spec: &dyn AnyWorker) -> Result<(), TreeError> {
        let core = self.shared.core.lock();
        let path = core.path_below(parent, spec.id());
        let Some(window) = core.window_of_supervisor(parent) else {
            let why = "only a supervisor can have children";
            let path = core.path(parent).to_string();
            return Err(TreeError::Refused { path, why });
        };
        check_worker(&path, spec, window)?;
        if core.find(&path).is_some() {
            let path = path.to_string();
            return Err(SpecError::DuplicateId { path }.into());
        }
        Ok(())
    }

    async fn command(&self, command: Command) -> Result<(), TreeError> {
        self.ask(|done| Request::Command { command, done }).await
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), TreeError>>) -> Request,
    ) -> Result<(), TreeError> {
        let (done, answer) = oneshot::channel();
        self.requests
            .send(request(done))
            .map_err(|_| TreeError::Ended)?;
        answer.await.unwrap_or(Err(TreeError::Ended))
    }
}

/// The exit, once there is one. The channel's sender lives as long as the handle that asks.
async fn ended(exit: &mut watch::Receiver<Option<TreeExit>>) -> TreeExit {
    match exit.wait_for(Option::is_some).await {
        Ok(exit) => exit.clone().unwrap_or(TreeExit::SupervisionLost),
        Err(_) => TreeExit::SupervisionLost,
    }
}
