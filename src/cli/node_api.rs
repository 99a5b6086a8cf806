//! Questions to a running node, as its admin where its key can be read.

use std::time::Duration;

use anyhow::{Result, anyhow};
use awc::Client;
use awc::error::SendRequestError;
use awc::http::header::RETRY_AFTER;
use awc::http::{Method, StatusCode};
use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::edge::admin_key;
use crate::https;

const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an answer, at most.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Where the node is, and who asks.
pub struct NodeApi {
    url: String,
    key: Option<String>,
}

/// What goes with a question.
pub enum Body<'a> {
    /// Nothing.
    Empty,
    /// JSON.
    Json(Vec<u8>),
    /// Bytes, with what the header `Upload-Offset` says of them.
    Chunk { offset: u64, bytes: &'a [u8] },
}

/// Nobody answered, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The question did not arrive, or its answer broke off: another try may do better.
    #[error("no node answers at {url}: {why}")]
    Broken {
        /// Who was asked.
        url: String,
        /// Why.
        why: String,
    },
    /// There is nobody to ask there.
    #[error("{url} cannot be asked: {why}")]
    Address {
        /// Who was asked.
        url: String,
        /// Why.
        why: String,
    },
}

impl NoAnswer {
    fn of_send(url: &str, why: &SendRequestError) -> Self {
        let (url, text) = (url.to_owned(), why.to_string());
        match why {
            SendRequestError::Url(_) | SendRequestError::Http(_) => {
                Self::Address { url, why: text }
            }
            _ => Self::Broken { url, why: text },
        }
    }
}

/// What a node answered.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// How long to wait before the question is asked again, where the node says so.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body, as JSON.
    ///
    /// # Errors
    /// It is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|why| anyhow!("the node's answer: {why}"))
    }

    /// The status, and what the node says about a refusal and what to do.
    pub fn refusal(&self) -> String {
        let parsed: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let said = ["message", "hint"].map(|part| parsed["error"][part].as_str());
        let said: Vec<&str> = said.into_iter().flatten().collect();
        match &said[..] {
            [] => self.status.to_string(),
            said => format!("{}: {}", self.status, said.join(" ")),
        }
    }
}

impl NodeApi {
    /// The node at `url`, or the one of the configuration.
    pub fn new(config: &Config, url: Option<&str>) -> Self {
        Self {
            key: admin_key(&config.node.data_dir()),
            ..Self::of_anybody(config, url)
        }
    }

    /// The same without a key: for a node that need not be this machine's.
    pub fn of_anybody(config: &Config, url: Option<&str>) -> Self {
        match url {
            Some(url) => Self::at(url),
            None => Self::at(&format!("http://{}", config.node.listen)),
        }
    }

    /// The node at `url`, asked without a key.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
            key: None,
        }
    }

    /// The body of a successful answer. Asked within an actix system.
    pub async fn ask(&self, method: Method, path: &str) -> Result<Vec<u8>> {
        let reply = self.send(method, path, Body::Empty).await?;
        if !reply.status.is_success() {
            return Err(anyhow!("{} answers {}", self.url, reply.refusal()));
        }
        Ok(reply.body)
    }

    /// Any answer. Asked within an actix system.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
    ) -> Result<Reply, NoAnswer> {
        let mut request = self
            .client()?
            .request(method, format!("{}{path}", self.url));
        if let Some(key) = &self.key {
            request = request.insert_header(("x-api-key", key.as_str()));
        }
        let sent = match body {
            Body::Empty => request.send(),
            Body::Json(json) => request.content_type("application/json").send_body(json),
            Body::Chunk { offset, bytes } => request
                .insert_header(("upload-offset", offset))
                .content_type("application/octet-stream")
                .send_body(bytes.to_vec()),
        };
        let sent = sent.await;
        let mut reply = sent.map_err(|why| NoAnswer::of_send(&self.url, &why))?;
        let read = reply.body().limit(BODY_BYTES_MAX).await;
        let body = read.map_err(|why| NoAnswer::Broken {
            url: self.url.clone(),
            why: why.to_string(),
        })?;
        let retry_after = reply.headers().get(RETRY_AFTER);
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Reply {
            status: reply.status(),
            retry_after: seconds.map(Duration::from_secs),
            body: body.to_vec(),
        })
    }
    /// A client for each question: an idle connection may be closed under the next one.
    fn client(&self) -> Result<Client, NoAnswer> {
        if !self.url.starts_with("https://") {
            return Ok(Client::builder().timeout(TIMEOUT).finish());
        }
        https::client(TIMEOUT).map_err(|why| NoAnswer::Address {
            url: self.url.clone(),
            why: why.to_string(),
        })
    }
}
