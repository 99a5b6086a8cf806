//! Server-Sent Events.

use std::io::Write;
use std::net::TcpStream;

use blyan_protocol::{ErrorCode, PublicError};
use futures_util::StreamExt;
use serde_json::json;

use crate::house::{House, PATIENCE, Reply, client, events};

#[actix_rt::test]
async fn events_come_in_order_with_exact_costs() {
    let house = House::new();
    let posted = house
        .post("/chat/stream", json!({"prompt": "hello", "max_tokens": 5}))
        .await;
    let got = house.get("/chat/stream?prompt=hello&max_tokens=5").await;
    for reply in [posted, got] {
        assert_eq!(
            reply.header("content-type"),
            Some("text/event-stream; charset=utf-8")
        );
        let events = reply.events();
        let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["stream_start", "token", "token", "stream_end"]);
        let (start, end) = (&events[0].1, &events[3].1);
        assert_eq!(start["stream_id"], end["stream_id"]);
        assert_eq!(
            (
                start["max_tokens"].as_u64(),
                start["prompt_tokens"].as_u64()
            ),
            (Some(5), Some(7))
        );
        assert_eq!(
            (&start["input_cost"], &start["charged"]),
            (&json!("70"), &json!(false))
        );
        let costs: Vec<_> = events[1..3]
            .iter()
            .map(|(_, data)| data["cumulative_cost"].clone())
            .collect();
        assert_eq!(costs, ["90", "110"]);
        assert_eq!(
            (&end["total_cost"], &end["total_tokens"], &end["charged"]),
            (&json!("110"), &json!(9), &json!(false))
        );
        assert!(end["duration"].is_number());
        assert_eq!(end["finish_reason"], "stop");
    }
}

#[actix_rt::test]
async fn a_failure_before_the_first_token_is_a_status_and_a_later_one_an_event() {
    let house = House::new();
    let early = house
        .post("/chat/stream", json!({"prompt": "corrupt"}))
        .await;
    assert_eq!(
        (early.status, early.code().as_str()),
        (503, "expert_corrupt")
    );
    let late = house.post("/chat/stream", json!({"prompt": "fails"})).await;
    assert_eq!(late.status, 200);
    let events = late.events();
    let (name, data) = events.last().unwrap();
    assert_eq!(
        (name.as_str(), &data["error"]["code"]),
        ("error", &json!("expert_corrupt"))
    );
    assert!(data["error"]["request_id"].is_string());
}

#[actix_rt::test]
async fn an_answer_whose_maker_vanishes_ends_with_an_error() {
    let events = House::new()
        .post("/chat/stream", json!({"prompt": "vanishes"}))
        .await
        .events();
    assert_eq!(events.last().unwrap().1["error"]["code"], "unavailable");
}

#[actix_rt::test]
async fn an_idle_stream_has_a_heartbeat() {
    let house = House::with(&[("BLYAN__EDGE__HEARTBEAT_MS", "5")]);
    let mut response = client()
        .post(house.url("/chat/stream"))
        .send_json(&json!({"prompt": "silence"}))
        .await
        .unwrap();
    let mut text = String::new();
    while !text.contains(": keep-alive\n\n: keep-alive\n\n") {
        let chunk = tokio::time::timeout(PATIENCE, response.next())
            .await
            .expect("a heartbeat");
        text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
    }
    assert_eq!(events(&text).len(), 1, "comments are no events");
}

#[actix_rt::test]
async fn a_client_that_goes_away_cancels_whatever_it_waits_for() {
    let house = House::new();
    let requests = [
        ("/chat/stream", "forever"),
        ("/chat/stream", "silence"),
        ("/chat", "forever"),
        ("/chat", "silence"),
    ];
    for (number, (path, prompt)) in requests.into_iter().enumerate() {
        let body = json!({ "prompt": prompt }).to_string();
        let mut socket = TcpStream::connect(house.at).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json",
            house.at
        );
        write!(
            socket,
            "{head}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let asked = async {
            while house.script.asked.load(std::sync::atomic::Ordering::SeqCst) <= number {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .expect("the request arrives");
        drop(socket);
        house.wait_for_cancels(number + 1).await;
    }
}

#[actix_rt::test]
async fn a_client_that_does_not_read_loses_its_stream() {
    let house = House::with(&[("BLYAN__EDGE__SLOW_READER_MS", "50")]);
    let body = json!({"prompt": "flood"}).to_string();
    let mut socket = TcpStream::connect(house.at).unwrap();
    let head = format!(
        "POST /chat/stream HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json",
        house.at
    );
    write!(
        socket,
        "{head}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    house.wait_for_cancels(1).await;
}

#[actix_rt::test]
async fn a_reconnection_does_not_begin_anew() {
    let house = House::new();
    let request = client()
        .get(house.url("/chat/stream?prompt=hello"))
        .insert_header(("last-event-id", "1"));
    let reply = Reply::of(request.send().await.unwrap()).await;
    assert_eq!((reply.status, reply.text.as_str()), (204, ""));
    assert_eq!(
        house.script.asked.load(std::sync::atomic::Ordering::SeqCst),
        0
    );
}

#[actix_rt::test]
async fn open_streams_hear_of_a_shutdown() {
    let house = House::new();
    let mut response = client()
        .post(house.url("/chat/stream"))
        .send_json(&json!({"prompt": "silence"}))
        .await
        .unwrap();
    house.stopping.closing.cancel();
    house.stopping.cut.cancel();
    let body = tokio::time::timeout(PATIENCE, response.body())
        .await
        .expect("an end")
        .unwrap();
    let events = events(std::str::from_utf8(&body).unwrap());
    assert_eq!(events.last().unwrap().1["error"]["code"], "shutting_down");
    house.wait_for_cancels(1).await;
}

#[actix_rt::test]
async fn open_streams_and_new_requests_hear_why_a_node_stops() {
    let house = House::new();
    let mut response = client()
        .post(house.url("/chat/stream"))
        .send_json(&json!({"prompt": "silence"}))
        .await
        .unwrap();
    let why = PublicError::new(ErrorCode::RollingBack, "It goes back.", "Wait.");
    house.stopping.because(why);
    house.stopping.closing.cancel();
    assert_eq!(house.chat("hello").await.code(), "rolling_back");
    assert_eq!(house.get("/ready").await.code(), "rolling_back");
    house.stopping.cut.cancel();
    let body = tokio::time::timeout(PATIENCE, response.body()).await;
    let body = body.expect("an end").unwrap();
    let events = events(std::str::from_utf8(&body).unwrap());
    assert_eq!(events.last().unwrap().1["error"]["code"], "rolling_back");
}

#[actix_rt::test]
async fn a_server_that_is_replaced_finishes_its_streams() {
    let house = House::new();
    let mut response = client()
        .post(house.url("/chat/stream"))
        .send_json(&json!({"prompt": "silence"}))
        .await
        .unwrap();
    let (stopping, cancelled) = (house.stopping.clone(), house.script.cancelled.clone());
    drop(house.server);
    assert_eq!(cancelled.load(std::sync::atomic::Ordering::SeqCst), 0);
    stopping.cut.cancel();
    let body = tokio::time::timeout(PATIENCE, response.body())
        .await
        .expect("an end")
        .unwrap();
    assert!(body.ends_with(b"\n\n"));
}
