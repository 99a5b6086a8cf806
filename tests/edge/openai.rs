//! What OpenAI's clients rely on.

use serde_json::{Value, json};

use crate::house::{House, Reply};
use crate::script::{MODEL, model_id};

fn body(prompt: &str, more: Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": prompt}]});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

async fn ask(house: &House, prompt: &str, more: Value) -> Reply {
    house.post("/v1/chat/completions", body(prompt, more)).await
}

/// The JSON of each `data:` line but `[DONE]`, which must be the last.
fn chunks(text: &str) -> Vec<Value> {
    let mut data: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{text}");
    data.into_iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[actix_rt::test]
async fn a_completion_is_whole() {
    let reply = ask(&House::new(), "hello", json!({"n": 1, "user": "u"}))
        .await
        .json();
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["model"], MODEL);
    assert_eq!(
        reply["choices"][0]["message"],
        json!({"role": "assistant", "content": "Hello", "refusal": null})
    );
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    assert_eq!(reply["usage"]["total_tokens"], 9);
    assert_eq!(reply["system_fingerprint"], model_id().to_string());
}

#[actix_rt::test]
async fn chunks_begin_with_the_role_and_end_with_the_reason() {
    let reply = ask(&House::new(), "hello", json!({"stream": true})).await;
    let chunks = chunks(&reply.text);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "Hello");
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "stop"
    );
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none() && chunk["object"] == "chat.completion.chunk"));
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
}

#[actix_rt::test]
async fn the_usage_comes_last_when_asked_for() {
    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let chunks = chunks(&ask(&House::new(), "hello", more).await.text);
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 2);
    assert!(
        others
            .iter()
            .all(|chunk| chunk["usage"] == Value::Null && chunk.get("usage").is_some())
    );
}

#[actix_rt::test]
async fn errors_have_openais_shape() {
    let house = House::new();
    let table = [
        (
            ask(&house, "corrupt", json!({})).await,
            503,
            "expert_corrupt",
            Value::Null,
        ),
        (
            ask(&house, "hello", json!({"model": "gpt-4"})).await,
            404,
            "model_not_found",
            json!("model"),
        ),
        (
            ask(&house, "hello", json!({"n": 2})).await,
            400,
            "invalid_request",
            json!("n"),
        ),
        (
            ask(&house, "hello", json!({"messages": []})).await,
            400,
            "invalid_request",
            json!("messages"),
        ),
        (
            ask(&house, "hello", json!({"messages": 7})).await,
            400,
            "invalid_request",
            Value::Null,
        ),
        (
            house.get("/v1/models/none").await,
            404,
            "model_not_found",
            json!("model"),
        ),
        (
            house.get("/v1/nothing").await,
            404,
            "not_found",
            Value::Null,
        ),
        (
            house.get("/v1/chat/completions").await,
            405,
            "method_not_allowed",
            Value::Null,
        ),
    ];
    for (reply, status, code, param) in table {
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{}",
            reply.text
        );
        let error = &reply.json()["error"];
        assert_eq!(error["param"], param, "{}", reply.text);
        assert!(error["message"].is_string() && error["type"].is_string());
        assert_eq!(error.as_object().unwrap().len(), 4, "{}", reply.text);
    }
}

#[actix_rt::test]
async fn a_stream_that_fails_says_so_and_is_not_done() {
    let reply = ask(&House::new(), "fails", json!({"stream": true})).await;
    let last = reply
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .next_back()
        .unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["error"]["code"], "expert_corrupt");
}

#[actix_rt::test]
async fn the_model_is_known_by_name_and_by_hash() {
    let house = House::new();
    let list = house.get("/v1/models").await.json();
    assert_eq!(
        (&list["object"], &list["data"][0]["id"]),
        (&json!("list"), &json!(MODEL))
    );
    assert_eq!(
        house.get(&format!("/v1/models/{MODEL}")).await.json()["id"],
        MODEL
    );
    let by_hash = ask(&house, "hello", json!({"model": model_id().to_string()})).await;
    assert_eq!(by_hash.status, 200);
}
