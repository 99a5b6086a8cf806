//! What clients rely on, asked of a real server over loopback with a scripted node behind it.

mod http;
mod house;
mod openai;
mod safety;
mod script;
mod streams;
mod websocket;
