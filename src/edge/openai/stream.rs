use serde::Serialize;

use super::replies::{completion_id, finish_reason, now_s};
use super::request::StreamOptions;
use crate::edge::error::ErrorDetail;
use crate::edge::replies::Usage;
use crate::edge::sse::{COMMENT, json};
use crate::edge::stream::{Encode, Session, StreamEvent};

const DONE: &str = "data: [DONE]\n\n";

/// Writes `chat.completion.chunk` events.
pub struct Chunks {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    usage: bool,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<ChunkChoice<'a>>,
    /// Null in all chunks but the last when the usage is asked for, else left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl Chunks {
    /// The chunks of this session.
    pub fn new(session: &Session, options: StreamOptions) -> Self {
        Self {
            id: completion_id(session.id()),
            created: now_s(),
            model: session.model().name.clone(),
            fingerprint: session.model().id.to_string(),
            usage: options.include_usage == Some(true),
        }
    }

    fn delta(&self, delta: Delta<'_>, finish_reason: Option<&'static str>) -> String {
        let choice = ChunkChoice {
            index: 0,
            delta,
            logprobs: None,
            finish_reason,
        };
        self.chunk(vec![choice], None)
    }

    fn chunk(&self, choices: Vec<ChunkChoice<'_>>, usage: Option<Usage>) -> String {
        let chunk = Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage: self.usage.then_some(usage),
        };
        format!("data: {}\n\n", json(&chunk))
    }

    fn end(&self, reason: &'static str, usage: Usage) -> String {
        let mut text = self.delta(Delta::default(), Some(reason));
        if self.usage {
            text.push_str(&self.chunk(Vec::new(), Some(usage)));
        }
        text.push_str(DONE);
        text
    }
}

impl Encode for Chunks {
    fn encode(&mut self, event: &StreamEvent) -> Option<String> {
        match event {
            StreamEvent::Start(_) => {
                let delta = Delta {
                    role: Some("assistant"),
                    content: Some(""),
                };
                Some(self.delta(delta, None))
            }
            StreamEvent::Token(token) if token.token.is_empty() => None,
            StreamEvent::Token(token) => {
                let delta = Delta {
                    role: None,
                    content: Some(&token.token),
                };
                Some(self.delta(delta, None))
            }
            StreamEvent::End(end) => Some(self.end(finish_reason(end.finish_reason), end.usage)),
            StreamEvent::Error(error) => Some(failed(error)),
            StreamEvent::Idle => Some(COMMENT.to_owned()),
        }
    }
}

/// OpenAI's clients raise an error for an event with `error` in it.
fn failed(error: &ErrorDetail) -> String {
    format!("data: {}\n\n", json(&error.for_openai()))
}
