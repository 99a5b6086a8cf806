//! How uploads look over HTTP; what becomes of them is the wiring's and the chain's.

use serde_json::{Value, json};

use crate::house::{House, Reply, client};
use crate::one_upload::{CHUNK, LENGTH, id, key};

fn block() -> Value {
    let vectors = include_str!("../vectors/block.json");
    let vectors: Value = serde_json::from_str(vectors).unwrap();
    let all = vectors["blocks"].as_array().unwrap();
    let expert = all.iter().find(|block| block["name"] == "expert").unwrap();
    serde_json::from_str(expert["block"].as_str().unwrap()).unwrap()
}

async fn begin(house: &House) -> Reply {
    house
        .post("/upload_moe_experts", json!({ "block": block() }))
        .await
}

fn path() -> String {
    format!("/upload_moe_experts/{}", id())
}

async fn patch(house: &House, path: &str, offset: Option<&str>, len: usize) -> Reply {
    let mut request = client().patch(house.url(path));
    if let Some(offset) = offset {
        request = request.insert_header(("upload-offset", offset));
    }
    Reply::of(request.send_body(vec![1_u8; len]).await.unwrap()).await
}

#[actix_rt::test]
async fn an_upload_begins_once_goes_on_and_ends() {
    let house = House::new();
    let begun = begin(&house).await;
    assert_eq!(
        (begun.status, begun.header("upload-offset")),
        (201, Some("0"))
    );
    let first = json!({
        "upload": id().to_string(), "block": "05".repeat(32), "received": 0, "length": LENGTH,
        "chunk_bytes_max": CHUNK, "state": "open",
    });
    assert_eq!(begun.json(), first);
    for (offset, len) in [("0", CHUNK), ("4096", CHUNK), ("8192", 1808)] {
        let written = patch(&house, &path(), Some(offset), len).await;
        assert_eq!(written.status, 200, "{}", written.text);
    }
    let again = begin(&house).await;
    assert_eq!(
        (again.status, again.json()["state"].as_str()),
        (200, Some("stored"))
    );
    assert_eq!(house.get(&path()).await.json()["received"], LENGTH);
    let removed = client().delete(house.url(&path())).send().await.unwrap();
    assert_eq!(removed.status(), 204);
    assert_eq!(house.get(&path()).await.status, 404);
}

#[actix_rt::test]
async fn a_piece_elsewhere_is_told_where_to_go_on() {
    let house = House::new();
    begin(&house).await;
    patch(&house, &path(), Some("0"), 100).await;
    let refused = patch(&house, &path(), Some("7"), 10).await;
    assert_eq!(
        (refused.status, refused.code()),
        (409, "conflict".to_owned())
    );
    assert_eq!(refused.header("upload-offset"), Some("100"));
}

#[actix_rt::test]
async fn pieces_that_are_no_pieces_are_refused() {
    let house = House::new();
    begin(&house).await;
    for (offset, len, status) in [
        (None, 1, 400),
        (Some("-1"), 1, 400),
        (Some("many"), 1, 400),
        (Some("0"), CHUNK + 1, 413),
    ] {
        let refused = patch(&house, &path(), offset, len).await;
        assert_eq!(
            refused.status, status,
            "{offset:?}, {len}: {}",
            refused.text
        );
        assert!(!refused.json()["error"]["hint"].as_str().unwrap().is_empty());
    }
    for name in ["0", &"00".repeat(16), "..%2f..%2fnode.key"] {
        let refused = patch(&house, &format!("/upload_moe_experts/{name}"), Some("0"), 1).await;
        assert_eq!(
            (refused.status, refused.code()),
            (404, "not_found".to_owned()),
            "{name}"
        );
    }
    assert_eq!(house.get(&path()).await.json()["received"], 0);
}

#[actix_rt::test]
async fn what_is_no_block_is_refused_in_words() {
    let house = House::new();
    let mut unknown = block();
    unknown["header"]["colour"] = json!("red");
    let mut short = block();
    short["signature"] = json!("00");
    for body in [
        json!({}),
        json!({ "block": 1 }),
        json!({ "block": unknown }),
        json!({ "block": short }),
    ] {
        let refused = house.post("/upload_moe_experts", body).await;
        assert_eq!(
            (refused.status, refused.code()),
            (400, "invalid_request".to_owned())
        );
    }
    assert_eq!(house.get("/upload_moe_experts").await.status, 405);
}

#[actix_rt::test]
async fn only_admins_see_and_grant_keys() {
    let house = House::new();
    let body = json!({ "key": key().to_string() });
    assert_eq!(house.get("/chain/keys").await.status, 401);
    assert_eq!(house.post("/chain/keys", body.clone()).await.status, 401);
    let ask = |method: awc::http::Method| {
        let admin = ("x-api-key", house.admin_key.clone());
        client()
            .request(method, house.url("/chain/keys"))
            .insert_header(admin)
    };
    let seen = Reply::of(ask(awc::http::Method::GET).send().await.unwrap()).await;
    assert_eq!(
        seen.json(),
        json!({ "authorised": [key().to_string()], "granted": [] })
    );
    let granted = Reply::of(ask(awc::http::Method::POST).send_json(&body).await.unwrap()).await;
    assert_eq!(granted.json()["block"], "09".repeat(32));
    let no_key = json!({ "key": format!("02{}05", "00".repeat(31)) });
    let refused = Reply::of(
        ask(awc::http::Method::POST)
            .send_json(&no_key)
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(refused.status, 400, "{}", refused.text);
}
