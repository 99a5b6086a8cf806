//! The actix-web server on threads of its own, so that it outlives whoever started it.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::Data;
use actix_web::{App, HttpServer};
use tokio::sync::oneshot;

use super::app;
use super::security::surround;
use super::state::EdgeState;

const BACKLOG: u32 = 1024;

/// A running server. Dropping it stops it: new connections are left to its successor on the same listener, open ones
/// finish within the limit.
pub struct RunningServer {
    handle: ServerHandle,
    ended: Option<oneshot::Receiver<io::Result<()>>>,
}

impl RunningServer {
    /// Serves what `listener` accepts.
    pub fn start(state: Arc<EdgeState>, listener: TcpListener, stop_limit: Duration) -> io::Result<Self> {
        let (started, handle) = std::sync::mpsc::sync_channel(1);
        let (tell_end, ended) = oneshot::channel();
        std::thread::Builder::new().name("edge-server".into()).spawn(move || {
            let end = actix_web::rt::System::new().block_on(async move {
                let server = match build(state, listener, stop_limit) {
                    Ok(server) => server,
                    Err(error) => return started.send(Err(error)).map_err(|_| io::Error::other("nobody waits")),
                };
                let _ = started.send(Ok(server.handle()));
                server.await
            });
            let _ = tell_end.send(end);
        })?;
        let handle = handle.recv().map_err(|_| io::Error::other("the server's thread ended"))??;
        Ok(Self {
            handle,
            ended: Some(ended),
        })
    }

    /// Stops accepting; resolves when every connection is done or the limit has passed.
    pub fn drain(&self) -> impl Future<Output = ()> + 'static {
        self.handle.stop(true)
    }

    /// Resolves when the server ends, with the reason; can be asked for once.
    pub fn take_end(&mut self) -> Option<oneshot::Receiver<io::Result<()>>> {
        self.ended.take()
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        // The command is given when the future is made; the server's own thread carries it out.
        drop(self.handle.stop(true));
    }
}

fn build(state: Arc<EdgeState>, listener: TcpListener, stop_limit: Duration) -> io::Result<Server> {
    let config = state.config.clone();
    let server = HttpServer::new(move || {
        let (state, layer) = (Data::from(Arc::clone(&state)), Arc::clone(&state));
        App::new()
            .wrap(from_fn(move |request, next: Next<_>| surround(Arc::clone(&layer), request, next)))
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
