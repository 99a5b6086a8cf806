//! Hosts, origins, keys and headers.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::house::{House, Reply, client};
use crate::script::SECRET;

const HELLO: &str = r#"{"prompt": "hello"}"#;

/// Status of a request whose lines are written as they are.
fn raw(house: &House, lines: &[&str], body: &str) -> u16 {
    let mut socket = TcpStream::connect(house.at).unwrap();
    let head = lines
        .join("\r\n")
        .replace("PORT", &house.at.port().to_string());
    let length = format!(
        "Content-Type: application/json\r\nContent-Length: {}",
        body.len()
    );
    // In one piece: a refusal before the body has come would close the connection under it.
    let request = format!("{head}\r\n{length}\r\nConnection: close\r\n\r\n{body}");
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no status: {answer:?}"))
        .parse()
        .unwrap()
}

#[actix_rt::test]
async fn a_host_must_be_the_nodes_own() {
    let house = House::with(&[("BLYAN__EDGE__ALLOWED_HOSTS", "[\"chat.example.org\"]")]);
    let table = [
        ("Host: 127.0.0.1:PORT", 200),
        ("Host: localhost:PORT", 200),
        ("Host: [::1]:PORT", 200),
        ("Host: chat.example.org", 200),
        ("Host: evil.example", 403),
        ("Host: evil.example:PORT", 403),
        ("Host: localhost:1", 403),
        ("Host: localhost", 403),
        ("Host: 127.0.0.1.evil.example:PORT", 403),
        ("Host: ", 403),
        ("X-Forwarded-Host: 127.0.0.1:PORT", 400),
        ("Host: 127.0.0.1:PORT\r\nHost: evil.example", 400),
        (
            "Host: evil.example\r\nX-Forwarded-Host: 127.0.0.1:PORT",
            403,
        ),
        ("Host: evil.example\r\nForwarded: host=127.0.0.1:PORT", 403),
    ];
    for (host, status) in table {
        for path in [
            "/health",
            "/",
            "/supervision/tree",
            "/v1/models",
            "/metrics",
            "/docs/",
        ] {
            let request = format!("GET {path} HTTP/1.1");
            assert_eq!(raw(&house, &[&request, host], ""), status, "{path} {host}");
        }
        assert_eq!(
            raw(&house, &["POST /chat HTTP/1.1", host], HELLO),
            status,
            "{host}"
        );
    }
    let target = "GET http://evil.example/health HTTP/1.1";
    assert_eq!(
        raw(&house, &[target, "Host: 127.0.0.1:PORT"], ""),
        403,
        "an absolute target names the host too"
    );
}

#[actix_rt::test]
async fn another_origins_page_is_refused_everywhere_it_could_act() {
    let house = House::new();
    let table = [
        ("Accept: */*", 200),
        ("Origin: http://127.0.0.1:PORT", 200),
        ("Origin: http://localhost:PORT", 200),
        ("Origin: http://evil.example", 403),
        ("Origin: http://localhost:1", 403),
        ("Origin: null", 403),
        (
            "Origin: http://127.0.0.1:PORT\r\nOrigin: http://evil.example",
            403,
        ),
        ("Sec-Fetch-Site: same-origin", 200),
        ("Sec-Fetch-Site: none", 200),
        ("Sec-Fetch-Site: same-site", 403),
        ("Sec-Fetch-Site: cross-site", 403),
    ];
    let openai = r#"{"messages": [{"role": "user", "content": "hello"}]}"#;
    for (origin, status) in table {
        for (request, body) in [
            ("POST /chat HTTP/1.1", HELLO),
            ("POST /chat/stream HTTP/1.1", HELLO),
            ("GET /chat/stream?prompt=hello HTTP/1.1", ""),
            ("POST /v1/chat/completions HTTP/1.1", openai),
        ] {
            assert_eq!(
                raw(&house, &[request, "Host: 127.0.0.1:PORT", origin], body),
                status,
                "{request} {origin}"
            );
        }
    }
}

#[actix_rt::test]
async fn no_answer_shares_anything_with_another_origin() {
    let house = House::new();
    let asked = client().request(actix_web::http::Method::OPTIONS, house.url("/chat"));
    let preflight = asked
        .insert_header(("origin", "http://evil.example"))
        .insert_header(("access-control-request-method", "POST"));
    let replies = [
        Reply::of(preflight.send().await.unwrap()).await,
        house.get("/health").await,
        house.chat("hello").await,
    ];
    for reply in replies {
        assert!(
            reply
                .headers
                .iter()
                .all(|(name, _)| !name.starts_with("access-control-")),
            "{reply:?}"
        );
    }
}

#[actix_rt::test]
async fn every_answer_carries_the_headers() {
    let house = House::new();
    let refused = client()
        .get(house.url("/health"))
        .insert_header(("origin", "http://evil.example"))
        .send()
        .await
        .unwrap();
    let replies = [
        house.get("/").await,
        house.get("/health").await,
        house.get("/nothing").await,
        house.chat("panics").await,
        house.post("/chat", json!({"bogus": 1})).await,
        house.post("/chat/stream", json!({"prompt": "hello"})).await,
        Reply::of(refused).await,
    ];
    for reply in replies {
        assert_eq!(
            reply.header("x-content-type-options"),
            Some("nosniff"),
            "{reply:?}"
        );
        assert_eq!(reply.header("x-frame-options"), Some("DENY"));
        assert_eq!(reply.header("x-xss-protection"), Some("1; mode=block"));
        assert_eq!(reply.header("x-api-version"), Some("v2.0"));
        assert!(
            reply
                .header("content-security-policy")
                .unwrap()
                .starts_with("default-src 'self';")
        );
        assert_eq!(reply.header("strict-transport-security"), None);
    }
    let secure = House::with(&[("BLYAN__EDGE__HSTS", "true")])
        .get("/health")
        .await;
    assert_eq!(
        secure.header("strict-transport-security"),
        Some("max-age=31536000; includeSubDomains")
    );
}

#[actix_rt::test]
async fn panic_texts_are_for_the_admin() {
    let house = House::new();
    let ask = async |name: &'static str, value: String| {
        Reply::of(
            client()
                .get(house.url("/supervision/tree"))
                .insert_header((name, value))
                .send()
                .await
                .unwrap(),
        )
        .await
    };
    let key = house.admin_key.clone();
    let public = house.get("/supervision/tree").await;
    let wrong = ask("x-api-key", "wrong".into()).await;
    for reply in [&public, &wrong] {
        assert!(!reply.text.contains(SECRET));
        assert_eq!(
            reply.json()["children"][0]["last_exit"]["class"],
            "panicked"
        );
    }
    for reply in [
        ask("x-api-key", key.clone()).await,
        ask("authorization", format!("Bearer {key}")).await,
    ] {
        assert_eq!(reply.json()["children"][0]["last_exit"]["text"], SECRET);
    }
    let part = house
        .get("/supervision/tree/serving/replicas/inference-1")
        .await;
    assert!(!part.text.contains(SECRET));
}

#[actix_rt::test]
async fn with_api_keys_only_their_holders_chat() {
    let hash = blyan_formats::hash::sha256(b"open sesame");
    let hashes = format!("[\"{}\"]", hash.map(|byte| format!("{byte:02x}")).concat());
    let house = House::with(&[("BLYAN__EDGE__API_KEYS", &hashes)]);
    let refused = house.chat("hello").await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (401, "unauthorized")
    );
    assert_eq!(refused.json()["get_key"], "/auth/register");
    let openai = house
        .post(
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "hello"}]}),
        )
        .await;
    assert_eq!(
        (openai.status, openai.json()["error"]["type"].as_str()),
        (401, Some("authentication_error"))
    );
    assert_eq!(house.get("/chat/stream?prompt=hello").await.status, 401);
    for (name, value) in [
        ("x-api-key", "open sesame"),
        ("authorization", "Bearer open sesame"),
    ] {
        let request = client()
            .post(house.url("/chat"))
            .insert_header((name, value));
        let reply = Reply::of(
            request
                .send_json(&json!({"prompt": "hello"}))
                .await
                .unwrap(),
        )
        .await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    assert_eq!(house.get("/health").await.status, 200);
}

#[actix_rt::test]
async fn without_api_keys_an_unknown_bearer_is_ignored() {
    let house = House::new();
    let request = client()
        .post(house.url("/chat"))
        .insert_header(("authorization", "Bearer sk-anything"));
    let reply = Reply::of(
        request
            .send_json(&json!({"prompt": "hello"}))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(reply.status, 200);
}
