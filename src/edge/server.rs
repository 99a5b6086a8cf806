//! The actix-web server on threads of its own, so that it outlives whoever started it.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::{ArbiterHandle, System};
use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::{Next, from_fn};

use actix_web::web::Data;
use actix_web::{App, HttpServer};
use tokio::sync::oneshot;

use super::app;
use super::security::surround;
use super::state::EdgeState;

const BACKLOG: u32 = 1024;
/// From the last accept to the stop: a worker that is told to stop drops the connections that it was handed but has not
/// begun to serve.
const HAND_OVER: Duration = Duration::from_millis(250);

/// A running server. Dropping it stops it: new connections are left to its successor on the same listener, open ones
/// finish within the limit.
pub struct RunningServer {
    handle: ServerHandle,
    own: ArbiterHandle,
    ended: Option<oneshot::Receiver<io::Result<()>>>,
}

impl RunningServer {
    /// Serves what `listener` accepts.
    pub fn start(
        state: Arc<EdgeState>,
        listener: TcpListener,
        stop_limit: Duration,
    ) -> io::Result<Self> {
        let (started, handle) = std::sync::mpsc::sync_channel(1);
        let (tell_end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("edge-server".into())
            .spawn(move || {
                let end = System::new().block_on(async move {
                    let server = match build(state, listener, stop_limit) {
                        Ok(server) => server,
                        Err(error) => {
                            return started
                                .send(Err(error))
                                .map_err(|_| io::Error::other("nobody waits"));
                        }
                    };
                    let _ =
                        started.send(Ok((server.handle(), System::current().arbiter().clone())));
                    server.await
                });
                let _ = tell_end.send(end);
            })?;
        let (handle, own) = handle
            .recv()
            .map_err(|_| io::Error::other("the server's thread ended"))??;
        Ok(Self {
            handle,
            own,
            ended: Some(ended),
        })
    }

    /// Stops accepting; resolves when every connection is done or the limit has passed.
    pub fn drain(&self) -> impl Future<Output = ()> + 'static {
        let handle = self.handle.clone();
        async move {
            handle.pause().await;
            tokio::time::sleep(HAND_OVER).await;
            handle.stop(true).await;
        }
    }

    /// Resolves when the server ends, with the reason; can be asked for once.
    pub fn take_end(&mut self) -> Option<oneshot::Receiver<io::Result<()>>> {
        self.ended.take()
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        // On the server's own thread, which outlives this one's arbiter; if it has ended there is nothing to stop.
        self.own.spawn(self.drain());
    }
}

fn build(state: Arc<EdgeState>, listener: TcpListener, stop_limit: Duration) -> io::Result<Server> {
    let config = state.config.clone();
    let server = HttpServer::new(move || {
        let (state, layer) = (Data::from(Arc::clone(&state)), Arc::clone(&state));
        App::new()
            .wrap(from_fn(move |request, next: Next<_>| {
                surround(Arc::clone(&layer), request, next)
            }))
            .configure(|config| app::routes(config, state))
    });
    let per_worker = config.connections_max.div_ceil(config.workers);
    Ok(server
        .workers(config.workers)
        .max_connections(per_worker)
        .backlog(BACKLOG)
        .keep_alive(config.keep_alive())
        .client_request_timeout(config.header_timeout())
        // A client that has closed its side is gone: what it asked for is not computed further.
        .h1_allow_half_closed(false)
        .shutdown_timeout(stop_limit.as_secs().max(1))
        .disable_signals()
        .listen(listener)?
        .run())
}
