//! What the edge counts.

use std::time::Duration;

use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use blyan_protocol::ErrorCode;

const REQUESTS: &str = "blyan_edge_requests_total";
const REQUEST_SECONDS: &str = "blyan_edge_request_seconds";
const REFUSALS: &str = "blyan_edge_refusals_total";
const PANICS: &str = "blyan_edge_panics_total";
const STREAMS: &str = "blyan_edge_streams_count";
const STREAM_ENDS: &str = "blyan_edge_stream_ends_total";
const FIRST_TOKEN_SECONDS: &str = "blyan_edge_first_token_seconds";
const WEBSOCKETS: &str = "blyan_edge_websockets_count";

/// Says once what every metric of the edge means.
pub fn describe() {
    describe_counter!(
        REQUESTS,
        Unit::Count,
        "Answered HTTP requests by route, method and status."
    );
    describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "From a request's header to its response's header, by route."
    );
    describe_counter!(REFUSALS, Unit::Count, "Errors that left the node, by code.");
    describe_counter!(
        PANICS,
        Unit::Count,
        "Panics caught in request handlers and streams."
    );
    describe_gauge!(STREAMS, Unit::Count, "Answers being made now.");
    describe_counter!(STREAM_ENDS, Unit::Count, "Ended answers by how they ended.");
    describe_histogram!(
        FIRST_TOKEN_SECONDS,
        Unit::Seconds,
        "From admission to the first token."
    );
    describe_gauge!(WEBSOCKETS, Unit::Count, "Open WebSocket connections.");
}

/// A request was answered.
pub fn answered(route: &str, method: &str, status: u16, took: Duration) {
    let labels = [
        ("route", route.to_owned()),
        ("method", method.to_owned()),
        ("status", status.to_string()),
    ];
    counter!(REQUESTS, &labels).increment(1);
    histogram!(REQUEST_SECONDS, "route" => route.to_owned()).record(took);
}

/// An error leaves the node.
pub fn refused(code: ErrorCode) {
    counter!(REFUSALS, "code" => code.as_str()).increment(1);
}

/// A panic was caught.
pub fn panicked() {
    counter!(PANICS).increment(1);
}

/// An answer ended.
pub fn stream_ended(how: &'static str) {
    counter!(STREAM_ENDS, "how" => how).increment(1);
}

/// The first token of an answer is on its way.
pub fn first_token(after: Duration) {
    histogram!(FIRST_TOKEN_SECONDS).record(after);
}

/// Counts something as open until dropped.
pub struct Open(&'static str);

impl Open {
    /// An answer that is being made.
    pub fn stream() -> Self {
        Self::count(STREAMS)
    }

    /// A WebSocket connection.
    pub fn websocket() -> Self {
        Self::count(WEBSOCKETS)
    }

    fn count(name: &'static str) -> Self {
        gauge!(name).increment(1);
        Self(name)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1);
    }
}
