//! Requests, replies and the one shape of errors.

use serde_json::json;

use crate::house::{House, Reply, client};
use crate::script::{MODEL, SECRET, model_id};

#[actix_rt::test]
async fn a_chat_is_answered_in_full() {
    let reply = House::new().chat("hello").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let body = reply.json();
    assert!(body["request_id"].as_str().unwrap().starts_with("req-"));
    assert_eq!(body["model"], MODEL);
    assert_eq!(body["model_id"], model_id().to_string());
    assert_eq!(body["text"], "Hello");
    assert_eq!(body["finish_reason"], "stop");
    assert_eq!(
        body["usage"],
        json!({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9})
    );
    assert_eq!(
        body["experts"],
        json!({"top_k": 16, "used": 480, "loaded": 0})
    );
    for field in ["queue_ms", "prefill_ms", "decode_ms", "tokens_per_second"] {
        assert!(body["timing"][field].is_number(), "{field}");
    }
}

#[actix_rt::test]
async fn an_error_of_the_node_keeps_its_code_its_expert_and_its_request() {
    let reply = House::new().chat("corrupt").await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (503, "expert_corrupt")
    );
    assert!(reply.header("retry-after").is_some());
    let error = &reply.json()["error"];
    assert_eq!(error["expert"]["name"], "layer4.expert7");
    assert!(error["request_id"].as_str().unwrap().starts_with("req-"));
    for field in ["message", "hint"] {
        assert!(error[field].is_string(), "{field}");
    }
}

#[actix_rt::test]
async fn a_refusal_for_want_of_room_says_when_to_come_back() {
    let reply = House::new().chat("full").await;
    assert_eq!((reply.status, reply.code().as_str()), (429, "overloaded"));
    assert_eq!(reply.header("retry-after"), Some("2"));
    assert_eq!(reply.json()["error"]["retry_after_ms"], 1500);
}

#[actix_rt::test]
async fn every_fault_of_a_request_has_the_same_shape() {
    let house = House::with(&[("BLYAN__EDGE__BODY_BYTES_MAX", "1000")]);
    let post = async |path: &str, kind: &str, body: &str| {
        let request = client()
            .post(house.url(path))
            .insert_header(("content-type", kind));
        Reply::of(request.send_body(body.to_owned()).await.unwrap()).await
    };
    let json = "application/json";
    let big = format!(r#"{{"prompt": "{}"}}"#, "x".repeat(2000));
    let table = [
        (post("/chat", json, "no json").await, 400, "invalid_request"),
        (post("/chat", json, "").await, 400, "invalid_request"),
        (
            post("/chat", json, r#"{"prompt": "x", "bogus": 1}"#).await,
            400,
            "invalid_request",
        ),
        (
            post("/chat", json, r#"{"messages": []}"#).await,
            400,
            "invalid_request",
        ),
        (
            post("/chat", json, &"[".repeat(900)).await,
            400,
            "invalid_request",
        ),
        (
            post("/chat", "text/plain", r#"{"prompt": "x"}"#).await,
            400,
            "invalid_request",
        ),
        (post("/chat", json, &big).await, 413, "payload_too_large"),
        (
            post("/chat/stream", json, &big).await,
            413,
            "payload_too_large",
        ),
        (post("/health", json, "{}").await, 405, "method_not_allowed"),
        (house.get("/chat").await, 405, "method_not_allowed"),
        (house.get("/nothing").await, 404, "not_found"),
        (house.get("/chat/stream").await, 400, "invalid_request"),
        (
            house.get("/chat/stream?prompt=x&bogus=1").await,
            400,
            "invalid_request",
        ),
        (
            house.get("/chat/stream?prompt=x&max_tokens=-1").await,
            400,
            "invalid_request",
        ),
        (house.get("/ws/chat").await, 400, "invalid_request"),
        (
            house.get("/experts/top?limit=0").await,
            400,
            "invalid_request",
        ),
        (
            house.get("/experts/stats/layer99.expert99").await,
            404,
            "not_found",
        ),
        (
            house.get("/experts/stats/..%2F..%2Fetc").await,
            404,
            "not_found",
        ),
        (house.get("/chain/Z/head").await, 404, "not_found"),
        (
            house.get("/experts/layer0.expert9/versions").await,
            404,
            "not_found",
        ),
        (
            house.get("/experts/nobody/versions").await,
            404,
            "not_found",
        ),
        (
            house.get("/chain/B/lineage/zz").await,
            400,
            "invalid_request",
        ),
        (
            house
                .get(&format!("/chain/B/lineage/{}", "ab".repeat(32)))
                .await,
            404,
            "not_found",
        ),
        (
            house.get("/chain/A/blocks/zz").await,
            400,
            "invalid_request",
        ),
        (
            house
                .get(&format!("/chain/A/blocks/{}", "ab".repeat(32)))
                .await,
            404,
            "not_found",
        ),
        (
            house.get("/security/integrity_status").await,
            503,
            "unavailable",
        ),
    ];
    for (reply, status, code) in table {
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{}",
            reply.text
        );
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let error = &reply.json()["error"];
        assert!(
            error["message"].is_string() && error["hint"].is_string(),
            "{}",
            reply.text
        );
    }
}

#[actix_rt::test]
async fn an_unknown_field_is_named() {
    let reply = House::new()
        .post("/chat", json!({"prompt": "x", "top_k_expert": 12}))
        .await;
    assert!(
        reply.text.contains("top_k_expert") && reply.text.contains("top_k_experts"),
        "{}",
        reply.text
    );
}

#[actix_rt::test]
async fn a_panic_in_a_handler_is_a_typed_500_and_the_server_lives() {
    let house = House::new();
    for path in ["/chat", "/v1/chat/completions"] {
        let body = if path == "/chat" {
            json!({"prompt": "panics"})
        } else {
            json!({"model": MODEL, "messages": [{"role": "user", "content": "panics"}]})
        };
        let reply = house.post(path, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (500, "internal"));
        assert!(!reply.text.contains(SECRET));
    }
    assert_eq!(house.chat("hello").await.status, 200);
}

#[actix_rt::test]
async fn places_for_answers_are_bounded_and_given_back() {
    let house = House::with(&[("BLYAN__EDGE__STREAMS_MAX", "1")]);
    let stream = client()
        .post(house.url("/chat/stream"))
        .send_json(&json!({"prompt": "forever"}))
        .await
        .unwrap();
    assert_eq!(stream.status(), 200);
    let refused = house.chat("hello").await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "overloaded")
    );
    assert!(refused.header("retry-after").is_some());
    drop(stream);
    house.wait_for_cancels(1).await;
    let answered = async {
        while house.chat("hello").await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::house::PATIENCE, answered)
        .await
        .expect("the place is free again");
}

#[actix_rt::test]
async fn reads_answer() {
    let house = House::new();
    assert_eq!(house.get("/health").await.json()["status"], "ok");
    assert_eq!(house.get("/ready").await.json()["ready"], true);
    assert_eq!(house.get("/monitoring/health").await.json()["status"], "ok");
    assert_eq!(house.get("/chain/a/head").await.json()["blocks"], 3);
    for chain in ["B", "C", "D"] {
        let reply = house.get(&format!("/chain/{chain}/head")).await;
        let empty = json!({"chain": chain, "hash": null, "index": null, "blocks": 0});
        assert_eq!((reply.status, reply.json()), (200, empty));
    }
    assert_eq!(
        house.get("/genesis/hash").await.json()["genesis_hash"],
        "01".repeat(32)
    );
    assert_eq!(
        house.get("/experts/top").await.json(),
        json!({"experts": []})
    );
    let versions = house.get("/experts/layer0.expert1/versions").await.json();
    assert_eq!(versions["versions"][0]["current"], true);
    let lineage = format!("/chain/B/lineage/{}", "05".repeat(32));
    assert_eq!(
        house.get(&lineage).await.json()["blocks"],
        versions["versions"]
    );
    let head = client().head(house.url("/health")).send().await.unwrap();
    assert_eq!(head.status(), 200);
}

#[actix_rt::test]
async fn a_path_may_hold_slashes_or_their_code() {
    let house = House::new();
    for path in [
        "serving/replicas/inference-1",
        "serving%2Freplicas%2Finference-1",
    ] {
        let reply = house.get(&format!("/supervision/tree/{path}")).await;
        assert_eq!(reply.json()["state"], "backing_off", "{}", reply.text);
    }
    assert_eq!(
        house.get("/supervision/tree/none").await.code(),
        "not_found"
    );
}

#[actix_rt::test]
async fn a_stopping_node_is_not_ready_and_admits_nothing() {
    let house = House::new();
    house.stopping.closing.cancel();
    for reply in [house.get("/ready").await, house.chat("hello").await] {
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (503, "shutting_down")
        );
    }
    assert_eq!(house.get("/health").await.status, 200);
}

#[actix_rt::test]
async fn every_route_is_documented_and_the_page_works_offline() {
    let house = House::new();
    let document = house.get("/openapi.json").await.json();
    for path in [
        "/chat",
        "/chat/stream",
        "/ws/chat",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{id}",
        "/experts/top",
        "/experts/stats/{name}",
        "/experts/{name}/versions",
        "/chain/{id}/head",
        "/chain/B/lineage/{hash}",
        "/chain/{id}/blocks/{hash}",
        "/genesis/hash",
        "/health",
        "/ready",
        "/monitoring/health",
        "/supervision/tree",
        "/security/integrity_status",
        "/metrics",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let page = house.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(
        !page.text.contains("https://") && !page.text.contains("//cdn"),
        "{}",
        page.text
    );
    assert_eq!(house.get("/docs/swagger-ui-bundle.js").await.status, 200);
    assert!(
        house
            .get("/docs/swagger-initializer.js")
            .await
            .text
            .contains("openapi.json")
    );
}

#[actix_rt::test]
async fn the_chat_page_needs_nothing_from_elsewhere_and_no_inline_script() {
    let house = House::new();
    let page = house.get("/").await;
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    let mut files = vec![page.text.clone()];
    for attribute in ["src=\"", "href=\""] {
        for rest in page.text.split(attribute).skip(1) {
            let path = rest.split('"').next().unwrap();
            assert!(path.starts_with('/') && !path.starts_with("//"), "{path}");
            let file = house.get(path).await;
            assert_eq!(file.status, 200, "{path}");
            files.push(file.text);
        }
    }
    assert!(files.len() >= 4);
    assert!(
        !page.text.contains("<style")
            && !page.text.contains(" style=")
            && !page.text.contains(" onclick=")
    );
    assert!(
        page.text
            .split("<script")
            .skip(1)
            .all(|script| script.contains("src=") && script.contains("></script>"))
    );
}
