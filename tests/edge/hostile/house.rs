//! The edge under attack.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use blyan::config::Sources;
use blyan::edge::{EdgeParts, EdgeState, Keys, RunningServer, Stopping};
use blyan_security::SecurityHandle;
use blyan_supervisors::NoProbe;
use metrics_exporter_prometheus::PrometheusBuilder;
use tempfile::TempDir;

use crate::heap::growth_while;
use crate::one_upload::OneUpload;
use crate::orders::Orders;
use crate::script::Script;

/// What an input may cost beside its own length.
const SLACK: usize = 1 << 20;
const STOP: Duration = Duration::from_secs(5);

/// The counters are the process's: one house at a time.
static ALONE: Mutex<()> = Mutex::new(());
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A server with the node's own defaults.
pub struct House {
    pub at: SocketAddr,
    /// Bytes of a body or a WebSocket message, at most.
    pub bound: usize,
    inputs: usize,
    largest_growth: usize,
    _server: RunningServer,
    _data_dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl House {
    pub fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        count_panics();
        let data_dir = tempfile::tempdir().unwrap();
        let config = Sources::default().load().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let parts = EdgeParts {
            node: Arc::new(Script::default()),
            uploads: Arc::new(OneUpload::default()),
            adoption: Arc::new(Orders),
            rollbacks: Arc::new(Orders),
            economy: Arc::new(Orders),
            security: SecurityHandle::unbound(&config.security),
            keys: Keys::load(&config.edge, data_dir.path()).unwrap(),
            bound: at,
            stopping: Stopping::default(),
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            probe: Arc::new(NoProbe),
        };
        let state = Arc::new(EdgeState::new(&config, parts));
        Self {
            at,
            bound: config.edge.body_bytes_max,
            inputs: 0,
            largest_growth: 0,
            _server: RunningServer::start(state, listener, STOP).unwrap(),
            _data_dir: data_dir,
            _alone: alone,
        }
    }

    /// Lets `attack` send its `sent` bytes and holds the heap's growth against them.
    pub fn bounded<T>(
        &mut self,
        what: &str,
        sent: usize,
        attack: impl FnOnce(SocketAddr) -> T,
    ) -> T {
        let at = self.at;
        let (result, growth) = growth_while(|| attack(at));
        self.inputs += 1;
        self.largest_growth = self.largest_growth.max(growth.saturating_sub(sent));
        assert!(
            growth <= sent + SLACK,
            "{what}: {sent} bytes sent, heap grew by {growth}"
        );
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "{what}");
        result
    }
}

impl Drop for House {
    fn drop(&mut self) {
        println!(
            "{} inputs; heap at most {} bytes beyond what was sent",
            self.inputs, self.largest_growth
        );
    }
}

/// Also those that the edge catches. Those of the tests' own threads, which bear the tests' names, are assertions.
fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        let own = |name: &str| name.contains("::");
        std::panic::set_hook(Box::new(move |panic| {
            if !std::thread::current().name().is_some_and(own) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            usual(panic);
        }));
    });
}
