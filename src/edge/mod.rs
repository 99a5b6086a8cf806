//! The edge: HTTP, Server-Sent Events and WebSocket in front of the node.

mod actor;
mod admin;
mod adoption;
mod app;
mod chat;
mod docs;
mod error;
mod health;
mod hosts;
mod keys;
pub mod metrics;
mod openai;
mod page;
mod port;
mod pricing;
mod reads;
pub mod replies;
mod rollback;
mod security;
mod server;
mod snapshots;
mod sse;
mod state;
mod stream;
mod uploads;
mod ws;

pub use actor::{EdgeActor, EdgeHandle};
pub use adoption::{AdoptReply, AdoptRequest, AdoptionPort, Replaced};
pub use keys::{KeyError, Keys, admin_key};
pub use port::{Answer, NodePort, ServedModel};
pub use pricing::MicroBly;
pub use rollback::{RollbackPort, RollbackReply, RollbackRequest, RollbackState};
pub use server::RunningServer;
pub use state::{EdgeParts, EdgeState, Stopping};
pub use uploads::{GrantReply, SignersReply, UploadPort, UploadReply, UploadState};
