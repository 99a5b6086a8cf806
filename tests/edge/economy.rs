//! What was paid for answers, over HTTP; the ledger itself is `blyan-reward`'s.

use serde_json::{Value, json};

use crate::house::{House, Reply, client};

const FIRST: &str = "0x0101010101010101010101010101010101010101";

async fn get(house: &House, path: &str) -> Reply {
    Reply::of(client().get(house.url(path)).send().await.unwrap()).await
}

fn earner(address: &str, earned: &str, paid: &str, accrued: &str) -> Value {
    json!({ "address": address, "earned": earned, "paid": paid, "accrued": accrued })
}

#[actix_rt::test]
async fn anybody_sees_who_earned_what() {
    let house = House::new();
    let second = FIRST.replace("01", "02");
    let expected = [
        earner(FIRST, "2000000", "1000000", "1000000"),
        earner(&second, "1000000", "0", "1000000"),
    ];
    let board = get(&house, "/economy/leaderboard").await;
    assert_eq!(board.json(), json!({ "earners": expected }));
    let board = get(&house, "/economy/leaderboard?limit=1").await;
    assert_eq!(board.json(), json!({ "earners": expected[..1] }));
    let one = get(&house, &format!("/economy/rewards/user/{second}")).await;
    assert_eq!(one.json(), expected[1]);
    let nobody = FIRST.replace("01", "0A");
    let none = get(&house, &format!("/economy/rewards/user/{nobody}")).await;
    assert_eq!(none.json(), earner(&nobody.to_lowercase(), "0", "0", "0"));
    let balance = get(&house, &format!("/wallet/balance/{second}")).await;
    assert_eq!(balance.json(), json!({ "address": second, "balance": "2" }));
}

#[actix_rt::test]
async fn what_is_no_address_or_no_number_is_refused_in_words() {
    let house = House::new();
    let paths = [
        "/wallet/balance/0x01",
        "/economy/rewards/user/owner",
        "/economy/leaderboard?limit=0",
        "/economy/leaderboard?limit=1001",
        "/economy/leaderboard?top=1",
    ];
    for path in paths {
        let refused = get(&house, path).await;
        assert_eq!(
            (refused.status, refused.code()),
            (400, "invalid_request".to_owned()),
            "{path}"
        );
    }
}

#[actix_rt::test]
async fn only_an_admin_distributes_and_a_ledger_that_is_down_says_so() {
    let house = House::new();
    let path = "/economy/rewards/distribute";
    for (key, status) in [
        ("", 401),
        ("another key", 401),
        (house.admin_key.as_str(), 503),
    ] {
        let request = client().post(house.url(path)).bearer_auth(key);
        assert_eq!(request.send().await.unwrap().status(), status, "{key:?}");
    }
    let down = get(&house, "/economy/supply").await;
    assert_eq!((down.status, down.code()), (503, "unavailable".to_owned()));
    // Experts are listed without it.
    let top = get(&house, "/experts/top").await.json();
    assert!(
        top["experts"]
            .as_array()
            .is_some_and(|experts| { experts.iter().all(|expert| expert["earned"].is_null()) })
    );
}
