use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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
    pub chat: ChatDefaults,
    /// The price table.
    pub pricing: PricingConfig,
}

/// `[node]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    data_dir: String,
    /// Where the edge listens.
    pub listen: SocketAddr,
    /// Log filter.
    pub log: String,
    /// JSON log lines.
    pub log_json: bool,
    /// From SIGTERM to the end, in ms.
    pub shutdown_ms: u64,
}

impl NodeConfig {
    /// The data directory, by default in the home directory.
    pub fn data_dir(&self) -> PathBuf {
        if !self.data_dir.is_empty() {
            return PathBuf::from(&self.data_dir);
        }
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
        home.join(".local/share/blyan")
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
    api_keys_file: String,
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

    /// The file of key hashes, if one is configured.
    pub fn api_keys_file(&self) -> Option<PathBuf> {
        (!self.api_keys_file.is_empty()).then(|| PathBuf::from(&self.api_keys_file))
    }

    /// Whether any key is configured.
    pub fn has_api_keys(&self) -> bool {
        !self.api_keys.is_empty() || self.api_keys_file().is_some()
    }

    fn fault(&self) -> Option<&'static str> {
        let positive = [
            (self.workers, "edge.workers must be at least 1"),
            (self.connections_max, "edge.connections_max must be at least 1"),
            (self.body_bytes_max, "edge.body_bytes_max must be at least 1"),
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
pub struct ChatDefaults {
    /// Generated tokens, at most.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus.
    pub top_p: f32,
}

impl ChatDefaults {
    fn fault(&self) -> Option<&'static str> {
        if self.max_tokens == 0 {
            return Some("chat.max_tokens must be at least 1");
        }
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

impl Config {
    /// The first rule that spans keys and is broken, as a sentence.
    pub(super) fn fault(&self) -> Option<String> {
        if self.node.shutdown_ms < 2000 {
            return Some("node.shutdown_ms must be at least 2000".into());
        }
        self.edge
            .fault()
            .or_else(|| self.chat.fault())
            .map(str::to_owned)
            .or_else(|| self.exposure_fault())
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
