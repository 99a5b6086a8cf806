use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use blyan_chain::ChainConfig;
use blyan_chain::uploads::UploadsConfig;
use blyan_expert_cache::ExpertCacheConfig;
use blyan_inference::config::InferenceConfig;
use blyan_security::SecurityConfig;
use blyan_supervisors::{Backoff, Window};
use serde::Deserialize;

/// The whole configuration. Meaning, unit and default of each key stand in `config/default.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The process.
    pub node: NodeConfig,
    /// The HTTP server.
    pub edge: EdgeConfig,
    /// What a chat request gets that does not say otherwise.
    pub chat: ChatConfig,
    /// The price table.
    pub pricing: PricingConfig,
    /// Where an import reads.
    pub model: ModelConfig,
    /// ONNX Runtime and its memory.
    pub runtime: RuntimeConfig,
    /// Replicas, queue, bounds of a request.
    pub inference: InferenceConfig,
    /// Mapped experts.
    pub expert_cache: ExpertCacheConfig,
    /// The network.
    pub chain: ChainConfig,
    /// Experts that miners upload.
    pub uploads: UploadsConfig,
    /// Restart windows, pauses, stuck limits.
    pub supervision: SupervisionConfig,
    /// Quarantine, audit log.
    pub security: SecurityConfig,
    /// Who is told.
    pub alerts: AlertsConfig,
}

/// `[node]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    data_dir: Option<PathBuf>,
    /// Where the edge listens.
    pub listen: SocketAddr,
    /// Log filter.
    pub log: String,
    /// JSON log lines.
    pub log_json: bool,
    shutdown_ms: u64,
}

impl NodeConfig {
    /// The data directory, by default in the home directory.
    pub fn data_dir(&self) -> PathBuf {
        let in_home = || home().join(".local/share/blyan");
        self.data_dir.clone().unwrap_or_else(in_home)
    }

    /// From SIGTERM to the end of the process.
    pub fn shutdown(&self) -> Duration {
        Duration::from_millis(self.shutdown_ms)
    }
}

/// `[edge]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeConfig {
    /// Threads that serve HTTP.
    pub workers: usize,
    /// Open connections over all workers.
    pub connections_max: usize,
    /// Bytes of a body or of a WebSocket message.
    pub body_bytes_max: usize,
    /// Answers being made at once.
    pub streams_max: usize,
    /// Streams of one WebSocket connection.
    pub ws_streams_per_connection_max: usize,
    heartbeat_ms: u64,
    ws_silence_ms: u64,
    slow_reader_ms: u64,
    keep_alive_ms: u64,
    header_timeout_ms: u64,
    /// SHA-256 of each key that may chat, in hex.
    pub api_keys: Vec<String>,
    /// A file of further ones.
    pub api_keys_file: Option<PathBuf>,
    /// A file of admins beside the owner: a name and a hash each.
    pub admin_keys_file: Option<PathBuf>,
    /// Further names under which the node is reached.
    pub allowed_hosts: Vec<String>,
    /// Send Strict-Transport-Security.
    pub hsts: bool,
}

impl EdgeConfig {
    /// Between two signs of life on an idle stream.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    /// How long a WebSocket may be silent.
    pub fn ws_silence(&self) -> Duration {
        Duration::from_millis(self.ws_silence_ms)
    }

    /// How long a client may take nothing from its stream.
    pub fn slow_reader(&self) -> Duration {
        Duration::from_millis(self.slow_reader_ms)
    }

    /// How long an idle HTTP connection is kept.
    pub fn keep_alive(&self) -> Duration {
        Duration::from_millis(self.keep_alive_ms)
    }

    /// How long a request's header may take.
    pub fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    /// Whether any key is configured.
    pub fn has_api_keys(&self) -> bool {
        !self.api_keys.is_empty() || self.api_keys_file.is_some()
    }

    fn fault(&self) -> Option<&'static str> {
        let positive = [
            (self.workers, "edge.workers must be at least 1"),
            (
                self.connections_max,
                "edge.connections_max must be at least 1",
            ),
            (
                self.body_bytes_max,
                "edge.body_bytes_max must be at least 1",
            ),
            (self.streams_max, "edge.streams_max must be at least 1"),
            (
                self.ws_streams_per_connection_max,
                "edge.ws_streams_per_connection_max must be at least 1",
            ),
        ];
        if let Some((_, fault)) = positive.iter().find(|(value, _)| *value == 0) {
            return Some(fault);
        }
        if self.heartbeat_ms == 0 || self.slow_reader_ms == 0 {
            return Some("edge.heartbeat_ms and edge.slow_reader_ms must be at least 1");
        }
        (self.ws_silence_ms <= 2 * self.heartbeat_ms)
            .then_some("edge.ws_silence_ms must be more than twice edge.heartbeat_ms")
    }
}

/// `[chat]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatConfig {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus.
    pub top_p: f32,
}

impl ChatConfig {
    fn fault(&self) -> Option<&'static str> {
        if !(0.0..=2.0).contains(&self.temperature) {
            return Some("chat.temperature must be from 0 to 2");
        }
        (!(self.top_p > 0.0 && self.top_p <= 1.0))
            .then_some("chat.top_p must be above 0 and at most 1")
    }
}

/// `[pricing]`, in 10^-6 BLY.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PricingConfig {
    /// 1,000 prompt tokens.
    pub input_per_1k: u64,
    /// 1,000 generated tokens.
    pub output_per_1k: u64,
}

/// `[model]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    gguf: Option<PathBuf>,
    /// Another recipe than the built-in one.
    pub recipe: Option<PathBuf>,
    /// Threads of an import.
    pub import_threads: usize,
}

impl ModelConfig {
    /// The file that an import reads.
    pub fn gguf(&self) -> PathBuf {
        let cached = || cache_dir().join("model/SmolLM2-135M-Instruct.Q4_1.gguf");
        self.gguf.clone().unwrap_or_else(cached)
    }
}

/// `[runtime]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeConfig {
    onnxruntime: Option<PathBuf>,
    /// Key/value memory of all sequences, in bytes.
    pub kv_bytes_max: u64,
    /// The CUDA device.
    pub cuda_device: i32,
    /// Its memory that ONNX Runtime may take, in bytes.
    pub cuda_memory_bytes_max: usize,
}

impl RuntimeConfig {
    /// The ONNX Runtime library.
    pub fn onnxruntime(&self) -> PathBuf {
        let cached = || cache_dir().join("onnxruntime/libonnxruntime.so.1.32.0");
        let asked = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
        asked
            .or_else(|| self.onnxruntime.clone())
            .unwrap_or_else(cached)
    }
}

/// `[supervision]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisionConfig {
    child_restarts_max: u32,
    child_window_ms: u64,
    supervisor_restarts_max: u32,
    supervisor_window_ms: u64,
    backoff_initial_ms: u64,
    backoff_max_ms: u64,
    backoff_jitter_percent: u8,
    replica_stuck_ms: u64,
    /// Threads that may be stuck for good.
    pub zombies_max: usize,
}

impl SupervisionConfig {
    /// A part's own window.
    pub fn child_window(&self) -> Window {
        Window::new(
            self.child_restarts_max,
            Duration::from_millis(self.child_window_ms),
        )
    }

    /// A supervisor's window over all its children.
    pub fn supervisor_window(&self) -> Window {
        Window::new(
            self.supervisor_restarts_max,
            Duration::from_millis(self.supervisor_window_ms),
        )
    }

    /// Pauses before restarts.
    pub fn backoff(&self) -> Backoff {
        Backoff {
            initial: Duration::from_millis(self.backoff_initial_ms),
            max: Duration::from_millis(self.backoff_max_ms),
            jitter_percent: self.backoff_jitter_percent,
        }
    }

    /// The longest single run of a replica.
    pub fn replica_stuck(&self) -> Duration {
        Duration::from_millis(self.replica_stuck_ms)
    }
}

/// `[alerts]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertsConfig {
    /// A file that holds the address of a Slack webhook.
    pub slack_url_file: Option<PathBuf>,
    /// A file that holds a routing key of PagerDuty.
    pub pagerduty_key_file: Option<PathBuf>,
    /// PagerDuty's Events API v2.
    pub pagerduty_url: String,
    /// Tries of one alert.
    pub tries_max: u32,
    /// Before the second try.
    pub retry_initial_ms: u64,
    /// One try.
    pub timeout_ms: u64,
}

impl AlertsConfig {
    fn fault(&self) -> Option<&'static str> {
        let positive = self.tries_max > 0 && self.retry_initial_ms > 0 && self.timeout_ms > 0;
        (!positive).then_some(
            "alerts.tries_max, alerts.retry_initial_ms and alerts.timeout_ms must be at least 1",
        )
    }
}

/// Where `make` puts what it fetched.
fn cache_dir() -> PathBuf {
    let in_home = || home().join(".cache/blyan");
    std::env::var_os("BLYAN_CACHE_DIR").map_or_else(in_home, PathBuf::from)
}

fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

impl Config {
    /// The first rule that is broken, as a sentence.
    pub(super) fn fault(&self) -> Option<String> {
        if self.node.shutdown_ms < 2000 {
            return Some("node.shutdown_ms must be at least 2000".into());
        }
        if self.model.import_threads == 0 {
            return Some("model.import_threads must be at least 1".into());
        }
        self.edge
            .fault()
            .or_else(|| self.chat.fault())
            .or_else(|| self.alerts.fault())
            .map(str::to_owned)
            .or_else(|| self.chain.validate().err())
            .or_else(|| self.uploads.validate().err())
            .or_else(|| {
                self.inference
                    .validate()
                    .err()
                    .map(|error| error.to_string())
            })
            .or_else(|| {
                self.expert_cache
                    .validate()
                    .err()
                    .map(|error| error.to_string())
            })
            .or_else(|| self.security.validate().err())
            .or_else(|| self.exposure_fault())
    }

    /// A step's limit, below the limit at which its replica counts as stuck.
    pub fn step_timeout(&self) -> Duration {
        let below_stuck = self.supervision.replica_stuck() * 4 / 5;
        self.inference.step_timeout().min(below_stuck)
    }

    fn exposure_fault(&self) -> Option<String> {
        let listen = self.node.listen;
        (!listen.ip().is_loopback() && !self.edge.has_api_keys()).then(|| {
            format!(
                "node.listen is {listen}, which others can reach, and no API key is configured: \
                 set edge.api_keys or edge.api_keys_file, or listen on 127.0.0.1"
            )
        })
    }
}
