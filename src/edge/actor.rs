//! The server as a supervised child.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use blyan_supervisors::{ChildRef, ChildSpec, ExitReason, Probe, Shutdown, StartContext};

use super::server::RunningServer;
use super::state::EdgeState;

/// Name of the fault point at the start of message handling.
const POINT: &str = "edge";
/// For what a stop needs beside the connections' limit.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// Owns one generation of the server. Its successor serves the same listener; what this one had accepted it finishes
/// in the background.
pub struct EdgeActor {
    server: RunningServer,
    probe: Arc<dyn Probe>,
    draining: Arc<AtomicBool>,
}

impl EdgeActor {
    /// A permanent child on a thread of its own, never quarantined: its exits fill the root's window. `listener` is
    /// kept by the spec, so that connections wait in its backlog while the server is restarted.
    pub fn spec(
        id: &str,
        state: Arc<EdgeState>,
        listener: TcpListener,
        stop_limit: Duration,
    ) -> ChildSpec<Self> {
        let listener = Arc::new(listener);
        ChildSpec::new(id, move |start| {
            Self::start_server(&start, &state, &listener, stop_limit)
        })
        .quarantine(false)
        .shutdown(Shutdown::Timeout(stop_limit + STOP_MARGIN))
    }

    fn start_server(
        start: &StartContext,
        state: &Arc<EdgeState>,
        listener: &TcpListener,
        stop_limit: Duration,
    ) -> Result<Self, ExitReason> {
        let failed = |error: std::io::Error| ExitReason::StartFailed(error.to_string());
        let listener = listener.try_clone().map_err(failed)?;
        let mut server =
            RunningServer::start(Arc::clone(state), listener, stop_limit).map_err(failed)?;
        let draining = Arc::new(AtomicBool::new(false));
        if let Some(end) = server.take_end() {
            let (exit, draining) = (start.exit_handle(), Arc::clone(&draining));
            start.spawn(async move {
                let end = end.await;
                if !draining.load(Ordering::Acquire) {
                    exit.exit(ExitReason::Fatal(format!("the server ended: {end:?}")));
                }
            });
        }
        Ok(Self {
            server,
            probe: Arc::clone(start.probe()),
            draining,
        })
    }
}

impl Actor for EdgeActor {
    type Context = Context<Self>;
}

/// Are you there?
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ping;

impl Handler<Ping> for EdgeActor {
    type Result = ();

    fn handle(&mut self, _ping: Ping, _ctx: &mut Context<Self>) {
        self.probe.hit(POINT);
    }
}

/// Accept nothing more; answers when every connection is done or the stop limit has passed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain;

impl Handler<Drain> for EdgeActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _drain: Drain, _ctx: &mut Context<Self>) -> Self::Result {
        self.draining.store(true, Ordering::Release);
        Box::pin(self.server.drain())
    }
}

/// What the wiring asks of the edge.
#[derive(Clone)]
pub struct EdgeHandle(ChildRef<EdgeActor>);

impl EdgeHandle {
    /// The handle of a child made by [`EdgeActor::spec`].
    pub fn new(child: ChildRef<EdgeActor>) -> Self {
        Self(child)
    }

    /// Lets the actor handle a message, so that an armed fault strikes.
    pub fn poke(&self) {
        // A child that is down has no need of a fault.
        let _ = self.0.try_tell(Ping);
    }

    /// See [`Drain`]; a server that is down has nothing to drain.
    pub async fn drain(&self, within: Duration) {
        if let Err(error) = self.0.call(Drain, within).await {
            tracing::warn!(%error, "the server was not drained");
        }
    }
}
