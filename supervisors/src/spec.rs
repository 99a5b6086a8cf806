//! Declarative children: what the tree is made of.

use std::{future::Future, sync::Arc, time::Duration};

use actix::{Actor, Context};
use futures_util::{FutureExt, future::LocalBoxFuture};

use crate::{
    Backoff, ChildRef, ExitReason, Placement, Restart, Shutdown, SpecError, StartContext, Strategy,
    Window,
    admission::BOUND_MAX,
    gate::GateControl,
    runner::{self, Launch},
};

/// What the pure core needs to know of a child.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) restart: Restart,
    pub(crate) shutdown: Shutdown,
    pub(crate) window: Window,
    /// True when a used-up window quarantines the child, false when only the supervisor's window counts.
    pub(crate) quarantine: bool,
    pub(crate) backoff: Backoff,
    pub(crate) start_limit: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            restart: Restart::default(),
            shutdown: Shutdown::default(),
            window: Window::CHILD,
            quarantine: true,
            backoff: Backoff::default(),
            start_limit: Duration::from_secs(30),
        }
    }
}

/// What the runtime needs to know of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) placement: Placement,
    pub(crate) stuck: Option<Duration>,
    pub(crate) mailbox_len_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            placement: Placement::default(),
            stuck: Some(Duration::from_secs(5)),
            mailbox_len_max: 256,
        }
    }
}

pub(crate) type Factory<A> =
    Arc<dyn Fn(StartContext) -> LocalBoxFuture<'static, Result<A, ExitReason>> + Send + Sync>;

/// A worker: how to make the actor `A`, and what to do when it fails.
///
/// Defaults: permanent, 3 restarts in 60 s and then quarantine, back-off of [`Backoff::default`], 5 s to stop, 30 s to
/// start, stuck after 5 s in one poll, 256 messages, a thread of its own.
pub struct ChildSpec<A: Actor<Context = Context<A>>> {
    pub(crate) id: String,
    pub(crate) rules: Rules,
    pub(crate) limits: Limits,
    pub(crate) factory: Factory<A>,
    pub(crate) child: ChildRef<A>,
}

impl<A: Actor<Context = Context<A>>> ChildSpec<A> {
    /// A child whose actor `factory` makes, on the child's thread, anew for each generation. It may block, within the
    /// start limit. An error counts as a failed start; a plain text becomes
    /// [`ExitReason::StartFailed`], other reasons are taken as they are.
    pub fn new<F>(id: impl Into<String>, factory: F) -> Self
    where
        F: Fn(StartContext) -> Result<A, ExitReason> + Send + Sync + 'static,
    {
        let factory = Arc::new(factory);
        Self::new_async(id, move |start| {
            let factory = Arc::clone(&factory);
            async move { factory(start) }
        })
    }

    /// As [`new`](Self::new), for starts that have to wait for something.
    pub fn new_async<F, Fut>(id: impl Into<String>, factory: F) -> Self
    where
        F: Fn(StartContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, ExitReason>> + 'static,
    {
        Self {
            id: id.into(),
            rules: Rules::default(),
            limits: Limits::default(),
            factory: Arc::new(move |start| factory(start).boxed_local()),
            child: ChildRef::unbound(),
        }
    }

    /// Puts the child behind a handle that was made before, see [`ChildRef::unbound`].
    #[must_use]
    pub fn bind(mut self, child: &ChildRef<A>) -> Self {
        self.child = child.clone();
        self
    }

    /// The child's handle, valid from now on.
    pub fn child_ref(&self) -> ChildRef<A> {
        self.child.clone()
    }

    /// When it is restarted.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.rules.restart = restart;
        self
    }

    /// How it is stopped.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.rules.shutdown = shutdown;
        self
    }

    /// Its own restart window; used up, the child is quarantined.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.rules.window = window;
        self
    }

    /// With false the child has no window of its own: its failures fill the supervisor's alone.
    #[must_use]
    pub fn quarantine(mut self, quarantine: bool) -> Self {
        self.rules.quarantine = quarantine;
        self
    }

    /// Pauses before its restarts.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.rules.backoff = backoff;
        self
    }

    /// The thread it lives on.
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.limits.placement = placement;
        self
    }

    /// The longest that one poll of the running actor may take; `None`: as long as it likes.
    #[must_use]
    pub fn stuck_limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.stuck = limit.into();
        self
    }

    /// The longest that the factory and `started` may take together.
    #[must_use]
    pub fn start_limit(mut self, limit: Duration) -> Self {
        self.rules.start_limit = limit;
        self
    }

    /// Messages that may be waiting or being handled at one time.
    #[must_use]
    pub fn mailbox_len_max(mut self, len: usize) -> Self {
        self.limits.mailbox_len_max = len;
        self
    }
}

/// A worker spec without its actor's type.
pub(crate) trait AnyWorker: Send + Sync {
    fn id(&self) -> &str;
    fn rules(&self) -> &Rules;
    fn limits(&self) -> Limits;
    fn gate(&self) -> Arc<dyn GateControl>;
    /// Starts a generation on the current thread, as a task of its current `LocalSet`.
    fn run_here(&self, launch: Launch);
}

impl<A: Actor<Context = Context<A>>> AnyWorker for ChildSpec<A> {
    fn id(&self) -> &str {
        &self.id
    }

    fn rules(&self) -> &Rules {
        &self.rules
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn gate(&self) -> Arc<dyn GateControl> {
        Arc::clone(&self.child.gate) as Arc<dyn GateControl>
    }

    fn run_here(&self, launch: Launch) {
        runner::run_here(self, launch);
    }
}

pub(crate) enum Member {
    Worker(Arc<dyn AnyWorker>),
    Supervisor(SupervisorSpec),
}

/// A supervisor: children in a fixed order, started left to right, stopped right to left.
///
/// Defaults: one_for_one, 10 restarts in 60 s. As a child of another supervisor it is permanent, restarts whole, and
/// has the same window and quarantine as a worker.
pub struct SupervisorSpec {
    pub(crate) id: String,
    pub(crate) strategy: Strategy,
    pub(crate) window: Window,
    pub(crate) rules: Rules,
    pub(crate) members: Vec<Member>,
}

impl SupervisorSpec {
    /// A supervisor without children. The root's id stands for the whole tree and in no path but its own.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            strategy: Strategy::default(),
            window: Window::SUPERVISOR,
            rules: Rules::default(),
            members: Vec::new(),
        }
    }

    /// Which siblings share a failed child's fate.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Restarts of all children together; used up, the supervisor escalates.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// When the supervisor, as a child, is restarted.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.rules.restart = restart;
        self
    }

    /// Its own window as a child: how often it may escalate before it is quarantined.
    #[must_use]
    pub fn child_window(mut self, window: Window) -> Self {
        self.rules.window = window;
        self
    }

    /// As [`ChildSpec::quarantine`].
    #[must_use]
    pub fn quarantine(mut self, quarantine: bool) -> Self {
        self.rules.quarantine = quarantine;
        self
    }

    /// Pauses before its restarts.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.rules.backoff = backoff;
        self
    }

    /// Adds a worker at the end.
    #[must_use]
    pub fn child<A: Actor<Context = Context<A>>>(mut self, spec: ChildSpec<A>) -> Self {
        self.members.push(Member::Worker(Arc::new(spec)));
        self
    }

    /// Adds a supervisor at the end.
    #[must_use]
    pub fn supervisor(mut self, spec: SupervisorSpec) -> Self {
        self.members.push(Member::Supervisor(spec));
        self
    }

    /// Checks ids, windows, back-offs and bounds of the whole subtree, as [`Tree::start`](crate::Tree::start) does.
    ///
    /// # Errors
    /// The first fault found.
    pub fn validate(&self) -> Result<(), SpecError> {
        check_id(&self.id)?;
        check_window(&self.id, self.window)?;
        self.validate_members("")
    }

    fn validate_members(&self, prefix: &str) -> Result<(), SpecError> {
        let mut seen = std::collections::HashSet::new();
        for member in &self.members {
            let path = join(prefix, member.id());
            if !seen.insert(member.id()) {
                return Err(SpecError::DuplicateId { path });
            }
            match member {
                Member::Worker(worker) => check_worker(&path, &**worker, self.window)?,
                Member::Supervisor(supervisor) => {
                    check_id(&supervisor.id)?;
                    check_rules(&path, &supervisor.rules, self.window)?;
                    check_window(&path, supervisor.window)?;
                    supervisor.validate_members(&path)?;
                }
            }
        }
        Ok(())
    }
}

impl Member {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Worker(worker) => worker.id(),
            Self::Supervisor(supervisor) => &supervisor.id,
        }
    }
}

/// The path of `id` below `prefix`, which is empty for children of the root.
pub(crate) fn join(prefix: &str, id: &str) -> String {
    if prefix.is_empty() {
        id.to_owned()
    } else {
        format!("{prefix}/{id}")
    }
}

/// Checks a worker at `path` below a supervisor with this window.
pub(crate) fn check_worker(
    path: &str,
    worker: &dyn AnyWorker,
    of_supervisor: Window,
) -> Result<(), SpecError> {
    check_id(worker.id())?;
    check_rules(path, worker.rules(), of_supervisor)?;
    check_mailbox(path, worker.limits().mailbox_len_max)
}

fn check_id(id: &str) -> Result<(), SpecError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !id.is_empty() && id.chars().all(plain) {
        Ok(())
    } else {
        Err(SpecError::BadId { id: id.to_owned() })
    }
}

fn check_window(path: &str, window: Window) -> Result<(), SpecError> {
    if window.within.is_zero() {
        return Err(SpecError::EmptyWindow {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// `of_supervisor` is the window that counts for a child without one of its own.
fn check_rules(path: &str, rules: &Rules, of_supervisor: Window) -> Result<(), SpecError> {
    let window = if rules.quarantine {
        rules.window
    } else {
        of_supervisor
    };
    check_window(path, window)?;
    if rules.restart == Restart::Temporary {
        return Ok(());
    }
    let pauses = rules.backoff.longest_total(window.max_restarts);
    if pauses >= window.within {
        return Err(SpecError::WindowNeverFills {
            path: path.to_owned(),
            max_restarts: window.max_restarts,
            within: window.within,
            pauses,
        });
    }
    Ok(())
}

fn check_mailbox(path: &str, len: usize) -> Result<(), SpecError> {
    let max = BOUND_MAX;
    if (1..=max).contains(&len) {
        Ok(())
    } else {
        Err(SpecError::MailboxBound {
            path: path.to_owned(),
            len,
            max,
        })
    }
}
