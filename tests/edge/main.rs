//! What clients rely on, asked of a real server over loopback with a scripted node behind it.

mod adoption;
mod economy;
mod house;
mod http;
mod one_upload;
mod openai;
mod orders;
mod rollback;
mod safety;
mod script;
mod streams;
mod uploads;
mod websocket;
