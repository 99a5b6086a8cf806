//! A server on a free port, and ways to ask it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use awc::{Client, ClientResponse};
use blyan::config::{Config, Sources};
use blyan::edge::{EdgeParts, EdgeState, Keys, RunningServer, Stopping};
use blyan_security::SecurityHandle;
use blyan_supervisors::NoProbe;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;
use tempfile::TempDir;

use crate::one_upload::OneUpload;
use crate::orders::Orders;
use crate::script::Script;

/// Longer than anything here takes; a test that meets it has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(5);

pub struct House {
    pub at: SocketAddr,
    pub script: Arc<Script>,
    pub stopping: Stopping,
    pub admin_key: String,
    pub server: RunningServer,
    _data_dir: TempDir,
}

impl House {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// With these environment variables.
    pub fn with(environment: &[(&str, &str)]) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let config = config(environment);
        let keys = Keys::load(&config.edge, data_dir.path()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (script, stopping) = (Arc::new(Script::default()), Stopping::default());
        let at = listener.local_addr().unwrap();
        let parts = EdgeParts {
            node: script.clone(),
            uploads: Arc::new(OneUpload::default()),
            adoption: Arc::new(Orders),
            rollbacks: Arc::new(Orders),
            economy: Arc::new(Orders),
            security: SecurityHandle::unbound(&config.security),
            keys,
            bound: at,
            stopping: stopping.clone(),
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            probe: Arc::new(NoProbe),
        };
        let state = Arc::new(EdgeState::new(&config, parts));
        Self {
            at,
            script,
            stopping,
            admin_key: std::fs::read_to_string(data_dir.path().join("admin.key"))
                .unwrap()
                .trim()
                .to_owned(),
            server: RunningServer::start(state, listener, STOP).unwrap(),
            _data_dir: data_dir,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    pub async fn get(&self, path: &str) -> Reply {
        Reply::of(client().get(self.url(path)).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        Reply::of(
            client()
                .post(self.url(path))
                .send_json(&body)
                .await
                .unwrap(),
        )
        .await
    }

    pub async fn chat(&self, prompt: &str) -> Reply {
        self.post("/chat", serde_json::json!({ "prompt": prompt }))
            .await
    }

    /// Waits until so many requests were cancelled.
    pub async fn wait_for_cancels(&self, count: usize) {
        let cancelled = || self.script.cancelled.load(Ordering::SeqCst);
        let waited = tokio::time::timeout(PATIENCE, async {
            while cancelled() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        assert!(
            waited.await.is_ok(),
            "{} of {count} were cancelled",
            cancelled()
        );
    }
}

fn config(environment: &[(&str, &str)]) -> Config {
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let sources = Sources {
        environment: environment.collect(),
        ..Sources::default()
    };
    sources.load().unwrap()
}

pub fn client() -> Client {
    Client::builder().timeout(PATIENCE).finish()
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub text: String,
}

impl Reply {
    pub async fn of<S>(mut response: ClientResponse<S>) -> Self
    where
        S: futures_util::Stream<Item = Result<actix_web::web::Bytes, awc::error::PayloadError>>,
    {
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        let body = response.body().limit(10 << 20).await.unwrap();
        Self {
            status: response.status().as_u16(),
            headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|fault| panic!("{fault}: {}", self.text))
    }

    /// The error's code, in either shape.
    pub fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_else(|| panic!("no error code: {}", self.text))
            .to_owned()
    }

    /// (event, data) of a Server-Sent Events body.
    pub fn events(&self) -> Vec<(String, Value)> {
        events(&self.text)
    }
}

pub fn events(text: &str) -> Vec<(String, Value)> {
    let field = |block: &str, name: &str| {
        block
            .lines()
            .find_map(|line| line.strip_prefix(name).map(str::to_owned))
    };
    let event = |block: &str| {
        Some((
            field(block, "event: ")?,
            serde_json::from_str(&field(block, "data: ")?).unwrap(),
        ))
    };
    text.split("\n\n").filter_map(event).collect()
}
