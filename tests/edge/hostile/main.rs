//! Hostile WebSocket and HTTP inputs over loopback: each gets a clear error or a clean close, none makes the edge panic,
//! the edge answers the next client, and the heap never grows by more than the bytes sent + 1 MiB, counted by the
//! allocator.

mod heap;
mod house;
mod http;
mod messages;
#[path = "../one_upload.rs"]
mod one_upload;
#[path = "../orders.rs"]
mod orders;
#[path = "../script.rs"]
mod script;
mod websocket;
mod wire;
