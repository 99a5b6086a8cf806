//! How the way back to a snapshot looks over HTTP; what becomes of it is the wiring's.

use serde_json::{Value, json};

use crate::house::{House, Reply, client};

const PATH: &str = "/chain/rollback";

async fn order(house: &House, key: &str, body: &Value) -> Reply {
    let request = client().post(house.url(PATH)).bearer_auth(key);
    Reply::of(request.send_json(body).await.unwrap()).await
}

#[actix_rt::test]
async fn an_admin_goes_back_and_is_told_how_far_it_is() {
    let house = House::new();
    let wanted = json!({ "snapshot": "1-0", "reason": "poisoned" });
    let ordered = order(&house, &house.admin_key, &wanted).await;
    assert_eq!(ordered.status, 202, "{}", ordered.text);
    let expected = json!({
        "id": "2-1-0", "snapshot": "1-0", "snapshot_ms": 0, "heads": {}, "who": "owner from 127.0.0.1",
        "reason": "poisoned", "ordered_ms": 2, "ended_ms": null, "state": "ordered", "failure": null,
    });
    assert_eq!(ordered.json(), expected);
    let request = client().get(house.url(PATH)).bearer_auth(&house.admin_key);
    let last = Reply::of(request.send().await.unwrap()).await;
    assert_eq!((last.status, last.code()), (404, "not_found".to_owned()));
}

#[actix_rt::test]
async fn nobody_else_does() {
    let house = House::new();
    let wanted = json!({ "snapshot": "1-0", "reason": "poisoned" });
    for key in ["", "another key"] {
        assert_eq!(order(&house, key, &wanted).await.status, 401, "{key:?}");
        let request = client().get(house.url(PATH)).bearer_auth(key);
        assert_eq!(request.send().await.unwrap().status(), 401, "{key:?}");
    }
}

#[actix_rt::test]
async fn what_is_no_order_is_refused_in_words() {
    let house = House::new();
    for (wanted, status) in [
        (json!({ "snapshot": "1-0" }), 400),
        (json!({ "snapshot": 1, "reason": "" }), 400),
        (json!({ "timestamp": -1, "reason": "" }), 400),
        (
            json!({ "snapshot": "1-0", "reason": "", "force": true }),
            400,
        ),
        (json!({ "snapshot": "2-0", "reason": "" }), 404),
    ] {
        let refused = order(&house, &house.admin_key, &wanted).await;
        assert_eq!(refused.status, status, "{wanted}: {}", refused.text);
        assert!(!refused.json()["error"]["hint"].as_str().unwrap().is_empty());
    }
}
