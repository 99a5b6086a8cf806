//! What a factory is given, and the tasks that live and die with the actor.

use std::{future::Future, marker::PhantomData, panic::AssertUnwindSafe, rc::Rc, sync::Arc};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::{ExitHandle, ExitReason, Generation, Probe, control::Control, runner::panic_text};

/// Given to a child's factory on the child's own thread, anew for each generation.
pub struct StartContext {
    pub(crate) generation: Generation,
    pub(crate) path: Arc<str>,
    pub(crate) probe: Arc<dyn Probe>,
    pub(crate) tasks: Tasks,
}

impl StartContext {
    /// Which start of the child this is, from 1.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The child's place, such as `serving/replicas/inference-1`.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Ends this generation from anywhere.
    pub fn exit_handle(&self) -> ExitHandle {
        self.tasks.exit_handle()
    }

    /// Cancelled when this generation is over, also when its thread was abandoned: a zombie's fence.
    /// To cancel it ends nothing else.
    pub fn token(&self) -> CancellationToken {
        self.tasks.control.token().child_token()
    }

    /// The tree's fault probe.
    pub fn probe(&self) -> &Arc<dyn Probe> {
        &self.probe
    }

    /// Spawns tasks that end with this generation; the actor may keep a clone.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Same as [`Tasks::spawn`].
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(task);
    }
}

/// Spawns tasks on the child's thread that are dropped with the generation. Stays on that thread.
#[derive(Clone)]
pub struct Tasks {
    control: Arc<Control>,
    _on_the_childs_thread: PhantomData<Rc<()>>,
}

impl Tasks {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Self {
            control,
            _on_the_childs_thread: PhantomData,
        }
    }

    /// Ends the generation from anywhere.
    pub fn exit_handle(&self) -> ExitHandle {
        ExitHandle {
            control: Arc::clone(&self.control),
        }
    }

    /// Runs `task` until it ends or the generation does; the next generation starts after it has been dropped. Its panic is the generation's exit, its polls count for
    /// stuck detection.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let control = Arc::clone(&self.control);
        let mut task = Box::pin(AssertUnwindSafe(task).catch_unwind());
        let pulsed = std::future::poll_fn({
            let control = Arc::clone(&control);
            move |cx| {
                let _polling = control.begin_poll();
                task.as_mut().poll(cx)
            }
        });
        let counted = control.enter_task();
        actix_rt::spawn(async move {
            // Locals go in reverse order: the task is gone before it stops being counted.
            let _counted = counted;
            let pulsed = pulsed;
            tokio::select! {
                biased;
                () = control.token().cancelled() => {}
                end = pulsed => if let Err(payload) = end {
                    control.exit(ExitReason::Panicked(panic_text(&*payload)));
                }
            }
        });
    }
}
