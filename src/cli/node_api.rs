//! Questions to a running node, as its admin where its key can be read.

use std::time::Duration;

use anyhow::{Result, anyhow};
use awc::Client;
use awc::http::Method;

use crate::config::Config;
use crate::edge::admin_key;

const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an answer, at most.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Where the node is, and who asks.
pub struct NodeApi {
    url: String,
    key: Option<String>,
}

impl NodeApi {
    /// The node at `url`, or the one of the configuration.
    pub fn new(config: &Config, url: Option<&str>) -> Self {
        let of_config = || format!("http://{}", config.node.listen);
        Self {
            url: url.map_or_else(of_config, |url| url.trim_end_matches('/').to_owned()),
            key: admin_key(&config.node.data_dir()),
        }
    }

    /// The body of a successful answer. Asked within an actix system.
    pub async fn ask(&self, method: Method, path: &str) -> Result<Vec<u8>> {
        let url = &self.url;
        let client = Client::builder().timeout(TIMEOUT).finish();
        let mut request = client.request(method, format!("{url}{path}"));
        if let Some(key) = &self.key {
            request = request.insert_header(("x-api-key", key.as_str()));
        }
        let reply = request.send().await;
        let mut reply = reply.map_err(|why| anyhow!("no node answers at {url}: {why}"))?;
        let body = reply.body().limit(BODY_BYTES_MAX).await;
        let body = body.map_err(|why| anyhow!("the answer of {url}: {why}"))?;
        if !reply.status().is_success() {
            return Err(anyhow!("{url} answers {}{}", reply.status(), said(&body)));
        }
        Ok(body.to_vec())
    }
}

/// What the node says about a refusal.
fn said(body: &[u8]) -> String {
    let parsed: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let message = parsed["error"]["message"].as_str();
    message.map_or_else(String::new, |message| format!(": {message}"))
}
