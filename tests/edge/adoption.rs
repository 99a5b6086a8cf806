//! How an adoption looks over HTTP; what becomes of it is the wiring's.

use serde_json::{Value, json};

use crate::house::{House, Reply, client};

async fn adopt(house: &House, key: &str, body: &Value) -> Reply {
    let request = client()
        .post(house.url("/model/adopt"))
        .bearer_auth(key)
        .send_json(body);
    Reply::of(request.await.unwrap()).await
}

#[actix_rt::test]
async fn an_admin_adopts_blocks() {
    let house = House::new();
    let block = "07".repeat(32);
    let wanted = json!({ "blocks": [block], "reason": "it answers better" });
    let adopted = adopt(&house, &house.admin_key, &wanted).await;
    assert_eq!(adopted.status, 200, "{}", adopted.text);
    let expected = json!({
        "model_id": "after", "model_id_before": "owner from 127.0.0.1",
        "replaced": [{ "name": "it answers better", "from": "", "to": block }],
    });
    assert_eq!(adopted.json(), expected);
}

#[actix_rt::test]
async fn nobody_else_does() {
    let house = House::new();
    let wanted = json!({ "blocks": ["07".repeat(32)] });
    for key in ["", "another key"] {
        assert_eq!(adopt(&house, key, &wanted).await.status, 401, "{key:?}");
    }
}

#[actix_rt::test]
async fn what_is_no_order_is_refused_in_words() {
    let house = House::new();
    for wanted in [
        json!({}),
        json!({ "blocks": "07" }),
        json!({ "blocks": ["07"] }),
        json!({ "blocks": [], "force": true }),
    ] {
        let refused = adopt(&house, &house.admin_key, &wanted).await;
        assert_eq!(
            (refused.status, refused.code()),
            (400, "invalid_request".to_owned()),
            "{}",
            refused.text
        );
    }
}
