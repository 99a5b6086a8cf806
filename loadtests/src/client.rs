//! Sends one request and times what comes back, from the moment it should have been sent.

use std::time::{Duration, Instant};

use actix_web::web::Bytes;
use anyhow::{Context, anyhow};
use awc::ws::{Frame, Message};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};

use crate::check::Stream;
use crate::scenario::{Kind, Mix};

/// The longest event or message that is read.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// The node under load.
#[derive(Clone)]
pub struct Target {
    url: String,
    api_key: Option<String>,
}

/// What one request came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The code of the error that ended it, or what broke the connection.
    pub error: Option<String>,
    pub faults: Vec<String>,
    pub cancelled: bool,
    pub tokens: u64,
    pub first_token: Option<Duration>,
    pub gaps: Vec<Duration>,
    pub total: Duration,
}

impl Target {
    pub fn new(url: String, api_key: Option<String>) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
            api_key,
        }
    }

    /// Sends one request; `due` is when it should have left.
    pub async fn send(&self, mix: &Mix, prompt: &str, due: Instant, timeout: Duration) -> Outcome {
        let mut watch = Watch::new(due);
        let work = async {
            match mix.kind {
                Kind::Http => self.http(mix, prompt, &mut watch).await,
                Kind::Sse => self.sse(mix, prompt, &mut watch).await,
                Kind::Websocket => self.websocket(mix, prompt, &mut watch).await,
            }
        };
        let ended = tokio::time::timeout(timeout, work).await;
        let error = match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("timeout".to_owned()),
        };
        watch.outcome(error)
    }

    fn post(&self, path: &str) -> awc::ClientRequest {
        let client = awc::Client::builder().disable_timeout().finish();
        let request = client.post(format!("{}{path}", self.url));
        match &self.api_key {
            Some(key) => request.insert_header(("X-API-Key", key.as_str())),
            None => request,
        }
    }

    async fn http(&self, mix: &Mix, prompt: &str, watch: &mut Watch) -> anyhow::Result<()> {
        let mut response = self
            .post("/chat")
            .send_json(&body(mix, prompt))
            .await
            .map_err(|e| anyhow!("{e}"))?;
        let answer: Value = serde_json::from_slice(&response.body().limit(EVENT_BYTES_MAX).await?)
            .context("the answer is not JSON")?;
        if !response.status().is_success() {
            return Err(refusal(&answer));
        }
        watch.stream.ended = true;
        watch.stream.tokens = answer["usage"]["completion_tokens"].as_u64().unwrap_or(0);
        if answer["text"].as_str().is_none() {
            watch.stream.faults.push("an answer without a text".into());
        }
        Ok(())
    }

    async fn sse(&self, mix: &Mix, prompt: &str, watch: &mut Watch) -> anyhow::Result<()> {
        let mut response = self
            .post("/chat/stream")
            .send_json(&body(mix, prompt))
            .await
            .map_err(|e| anyhow!("{e}"))?;
        if !response.status().is_success() {
            return Err(refusal(&serde_json::from_slice(&response.body().await?)?));
        }
        let mut lines = SseLines::default();
        while let Some(chunk) = response.next().await {
            for (kind, data) in lines.feed(&chunk?)? {
                watch.event(&kind, &data);
                if watch.wants_cancel(mix) {
                    watch.stream.ended = true;
                    watch.stream.cancelled = true;
                    return Ok(());
                }
            }
        }
        watch.stream.closed();
        Ok(())
    }

    async fn websocket(&self, mix: &Mix, prompt: &str, watch: &mut Watch) -> anyhow::Result<()> {
        let client = awc::Client::new();
        let mut request = client
            .ws(format!("{}/ws/chat", self.url))
            .max_frame_size(EVENT_BYTES_MAX);
        if let Some(key) = &self.api_key {
            request = request.set_header("X-API-Key", key.as_str());
        }
        let (_, mut socket) = request.connect().await.map_err(|e| anyhow!("{e}"))?;
        let mut start = body(mix, prompt);
        start["type"] = json!("start");
        start["id"] = json!("s");
        socket.send(Message::Text(start.to_string().into())).await?;
        let mut cancel_sent = false;
        while !watch.stream.ended {
            match socket.next().await {
                Some(Ok(Frame::Text(text))) => {
                    let message: Value = serde_json::from_slice(&text)?;
                    watch.event(message["type"].as_str().unwrap_or("none"), &message);
                }
                Some(Ok(Frame::Ping(payload))) => socket.send(Message::Pong(payload)).await?,
                Some(Ok(Frame::Close(_))) | None => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(anyhow!("{error}")),
            }
            if watch.wants_cancel(mix) && !cancel_sent {
                cancel_sent = true;
                let cancel = json!({"type": "cancel", "id": "s"}).to_string();
                socket.send(Message::Text(cancel.into())).await?;
            }
        }
        watch.stream.closed();
        socket.send(Message::Close(None)).await.ok();
        Ok(())
    }
}

fn body(mix: &Mix, prompt: &str) -> Value {
    let mut body = json!({
        "prompt": prompt,
        "max_tokens": mix.max_tokens,
        "temperature": mix.temperature,
    });
    if let Some(top_k) = mix.top_k_experts {
        body["top_k_experts"] = json!(top_k);
    }
    body
}

fn refusal(answer: &Value) -> anyhow::Error {
    anyhow!(
        "{}",
        answer["error"]["code"]
            .as_str()
            .unwrap_or("an error without a code")
    )
}

/// Times and judges one stream.
struct Watch {
    due: Instant,
    last: Instant,
    first_token: Option<Duration>,
    gaps: Vec<Duration>,
    stream: Stream,
}

impl Watch {
    fn new(due: Instant) -> Self {
        Self {
            due,
            last: due,
            first_token: None,
            gaps: Vec::new(),
            stream: Stream::default(),
        }
    }

    fn event(&mut self, kind: &str, data: &Value) {
        let now = Instant::now();
        if kind == "token" {
            match self.first_token {
                None => self.first_token = Some(now - self.due),
                Some(_) => self.gaps.push(now - self.last),
            }
            self.last = now;
        }
        self.stream.event(kind, data);
    }

    fn wants_cancel(&self, mix: &Mix) -> bool {
        mix.cancel_after_tokens
            .is_some_and(|tokens| self.stream.tokens >= u64::from(tokens))
    }

    fn outcome(self, error: Option<String>) -> Outcome {
        Outcome {
            error: error.or(self.stream.error),
            faults: self.stream.faults,
            cancelled: self.stream.cancelled,
            tokens: self.stream.tokens,
            first_token: self.first_token,
            gaps: self.gaps,
            total: self.due.elapsed(),
        }
    }
}

/// Cuts a Server-Sent Events body into (event, data).
#[derive(Default)]
struct SseLines {
    rest: Vec<u8>,
    event: String,
    data: String,
}

impl SseLines {
    fn feed(&mut self, chunk: &Bytes) -> anyhow::Result<Vec<(String, Value)>> {
        self.rest.extend_from_slice(chunk);
        anyhow::ensure!(
            self.rest.len() <= EVENT_BYTES_MAX,
            "an event above {EVENT_BYTES_MAX} bytes"
        );
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = std::str::from_utf8(&line)?.trim_end();
            if let Some(name) = line.strip_prefix("event:") {
                self.event = name.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data:") {
                self.data.push_str(data.trim_start());
            } else if line.is_empty() && !self.event.is_empty() {
                let data = std::mem::take(&mut self.data);
                events.push((
                    std::mem::take(&mut self.event),
                    serde_json::from_str(&data)?,
                ));
            }
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_any_cut() {
        let text = "event: token\ndata: {\"a\":\"é\"}\n\n: beat\n\nevent: stream_end\ndata: {}\n\n"
            .as_bytes();
        for cut in 0..text.len() {
            let mut lines = SseLines::default();
            let mut events = lines.feed(&Bytes::copy_from_slice(&text[..cut])).unwrap();
            events.extend(lines.feed(&Bytes::copy_from_slice(&text[cut..])).unwrap());
            assert_eq!(
                events,
                [
                    ("token".into(), json!({"a": "é"})),
                    ("stream_end".into(), json!({}))
                ]
            );
        }
    }
}
