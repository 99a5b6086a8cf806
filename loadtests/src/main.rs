//! Open-loop chat load over WebSocket, SSE and HTTP.
fn main() {}
