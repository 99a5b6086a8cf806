use std::fmt;

use blyan_protocol::{ChatRequest, Message, PublicError, Role};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use utoipa::ToSchema;

use crate::edge::chat::{ChatBody, ChatDefaults, StopTexts};
use crate::edge::error::invalid;

/// What OpenAI's clients send. Fields that this node does not know are ignored, as clients send many by default;
/// those that it knows and cannot follow are refused.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct CompletionBody {
    /// The name or the hash of the model.
    pub model: Option<String>,
    /// The conversation.
    #[schema(value_type = Vec<Object>)]
    messages: Vec<OpenAiMessage>,
    /// Generated tokens, at most; the older name.
    max_tokens: Option<u32>,
    /// Generated tokens, at most.
    max_completion_tokens: Option<u32>,
    /// 0 is greedy; at most 2.
    temperature: Option<f32>,
    /// Above 0, at most 1.
    top_p: Option<f32>,
    /// Same seed, same draws.
    seed: Option<i64>,
    /// Generation ends before the first of these texts.
    stop: Option<StopTexts>,
    /// As chunks.
    stream: Option<bool>,
    /// `include_usage`
    stream_options: Option<StreamOptions>,
    /// Experts per layer and token: this node's own.
    top_k_experts: Option<u32>,
    /// Answers: only 1.
    n: Option<u32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    #[schema(value_type = Option<Object>)]
    logit_bias: Option<Filled>,
    logprobs: Option<bool>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Filled>,
    #[schema(value_type = Option<Vec<Object>>)]
    functions: Option<Filled>,
    #[schema(value_type = Option<Object>)]
    response_format: Option<ResponseFormat>,
}

/// `stream_options`
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// One more chunk with the usage at the end.
    pub include_usage: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
struct OpenAiMessage {
    role: OpenAiRole,
    #[serde(deserialize_with = "text_or_parts")]
    content: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OpenAiRole {
    System,
    Developer,
    User,
    Assistant,
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    _type: PartType,
    text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PartType {
    Text,
}

/// Whether a list or an object has anything in it; what that is is not kept.
#[derive(Clone, Copy, Debug)]
struct Filled(bool);

/// `response_format`
#[derive(Clone, Debug, Deserialize)]
struct ResponseFormat {
    r#type: Option<String>,
}

// The visitors below stand where an untagged enum or a `serde_json::Value` would build a tree that is many times as
// large as its JSON.

fn text_or_parts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_any(ContentVisitor)
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("content is a text or an array of text parts")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<String, A::Error> {
        let mut content = String::new();
        while let Some(Part { text, .. }) = parts.next_element()? {
            content.push_str(&text);
        }
        Ok(content)
    }
}

impl<'de> Deserialize<'de> for Filled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FilledVisitor)
    }
}

struct FilledVisitor;

impl<'de> Visitor<'de> for FilledVisitor {
    type Value = Filled;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Filled, A::Error> {
        let filled = list.next_element::<IgnoredAny>()?.is_some();
        IgnoredAny.visit_seq(list).map(|_| Filled(filled))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Filled, A::Error> {
        let filled = map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some();
        IgnoredAny.visit_map(map).map(|_| Filled(filled))
    }
}

/// A field that cannot be followed.
#[derive(Debug)]
pub struct Fault {
    /// What OpenAI calls `param`.
    pub param: Option<&'static str>,
    /// Why.
    pub error: Box<PublicError>,
}

impl Fault {
    fn new(param: Option<&'static str>, error: PublicError) -> Self {
        Self {
            param,
            error: Box::new(error),
        }
    }
}

impl CompletionBody {
    /// The options of a streamed answer; `None` where the answer is wanted whole.
    pub fn streamed(&self) -> Option<StreamOptions> {
        (self.stream == Some(true)).then(|| self.stream_options.unwrap_or_default())
    }

    /// The request that it asks for.
    pub fn into_request(self, defaults: &ChatDefaults) -> Result<ChatRequest, Fault> {
        if let Some(param) = self.unsupported() {
            let message = format!("`{param}` has a value that this node cannot follow.");
            return Err(Fault::new(Some(param), invalid(message)));
        }
        if self.messages.is_empty() {
            return Err(Fault::new(Some("messages"), invalid("messages is empty.")));
        }
        let body = ChatBody {
            messages: Some(self.messages.into_iter().map(Message::from).collect()),
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            temperature: self.temperature,
            top_p: self.top_p,
            // Any 64 bits are a seed.
            seed: self.seed.map(i64::cast_unsigned),
            stop: self.stop,
            top_k_experts: self.top_k_experts,
            ..ChatBody::default()
        };
        body.into_request(defaults)
            .map_err(|error| Fault::new(None, error))
    }

    fn unsupported(&self) -> Option<&'static str> {
        let nonzero = |value: Option<f32>| value.is_some_and(|value| value != 0.0);
        let some = |filled: Option<Filled>| filled.is_some_and(|filled| filled.0);
        let format = self
            .response_format
            .as_ref()
            .and_then(|format| format.r#type.as_deref());
        let refused = [
            ("n", self.n.is_some_and(|n| n != 1)),
            ("frequency_penalty", nonzero(self.frequency_penalty)),
            ("presence_penalty", nonzero(self.presence_penalty)),
            ("logit_bias", some(self.logit_bias)),
            ("logprobs", self.logprobs == Some(true)),
            ("tools", some(self.tools)),
            ("functions", some(self.functions)),
            (
                "response_format",
                format.is_some_and(|format| format != "text"),
            ),
        ];
        refused
            .into_iter()
            .find_map(|(param, refused)| refused.then_some(param))
    }
}

impl From<OpenAiMessage> for Message {
    fn from(message: OpenAiMessage) -> Self {
        let role = match message.role {
            OpenAiRole::System | OpenAiRole::Developer => Role::System,
            OpenAiRole::User => Role::User,
            OpenAiRole::Assistant => Role::Assistant,
        };
        Self {
            role,
            content: message.content,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: ChatDefaults = ChatDefaults {
        max_tokens: 9,
        temperature: 0.5,
        top_p: 0.9,
    };

    fn parse(json: &str) -> Result<ChatRequest, Fault> {
        let body: CompletionBody = serde_json::from_str(json).unwrap();
        body.into_request(&DEFAULTS)
    }

    #[test]
    fn what_clients_send_by_default_is_taken() {
        let request = parse(
            r#"{"model": "m", "messages": [
                {"role": "developer", "content": "Be brief.", "name": "x"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
              "n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": false, "tools": null,
              "response_format": {"type": "text"}, "user": "u", "store": false, "metadata": {}, "stop": null,
              "max_tokens": 3, "max_completion_tokens": 5, "seed": -1, "parallel_tool_calls": true}"#,
        )
        .unwrap();
        assert_eq!(request.messages[0].role, Role::System);
        assert_eq!(request.messages[1].content, "ab");
        assert_eq!((request.max_tokens, request.sampling.seed), (5, u64::MAX));
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        for (field, param) in [
            (r#""n": 2"#, "n"),
            (r#""frequency_penalty": 0.5"#, "frequency_penalty"),
            (r#""logprobs": true"#, "logprobs"),
            (r#""tools": [{}]"#, "tools"),
            (
                r#""response_format": {"type": "json_object"}"#,
                "response_format",
            ),
        ] {
            let json = format!(r#"{{"messages": [{{"role": "user", "content": "x"}}], {field}}}"#);
            assert_eq!(parse(&json).unwrap_err().param, Some(param));
        }
        assert_eq!(
            parse(r#"{"messages": []}"#).unwrap_err().param,
            Some("messages")
        );
    }
}
