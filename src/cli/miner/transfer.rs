//! An upload over a connection that may break: the node knows how much it has, so that trouble of any kind is met by
//! asking it and going on.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use awc::http::{Method, StatusCode};
use blyan_formats::{SignedBlock, to_canonical};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::payload::PayloadFile;
use crate::cli::node_api::{Body, NoAnswer, NodeApi, Reply};

const PATH: &str = "/upload_moe_experts";

/// How long trouble is borne.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The first pause; it doubles from one try to the next.
    pub pause_min: Duration,
    /// The longest pause, unless the node asks for more.
    pub pause_max: Duration,
    /// The longest that a node may ask for; a quota that is used up for hours is nothing to wait for.
    pub asked_max: Duration,
    /// Tries in a row that bring no byte further, at most.
    pub tries_max: u32,
}

impl Default for Patience {
    /// Two minutes in all: a node that restarts is back by then.
    fn default() -> Self {
        Self {
            pause_min: Duration::from_millis(500),
            pause_max: Duration::from_secs(30),
            asked_max: Duration::from_secs(60),
            tries_max: 9,
        }
    }
}

impl Patience {
    /// The pause after so many tries in a row.
    fn pause(&self, tries: u32) -> Duration {
        let doublings = tries.saturating_sub(1).min(16);
        self.pause_min
            .saturating_mul(1 << doublings)
            .min(self.pause_max)
    }
}

/// What the node says of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Session {
    /// Its id.
    pub upload: String,
    /// The block's hash.
    pub block: String,
    /// Bytes that the node has, durably.
    pub received: u64,
    /// Bytes of the payload.
    pub length: u64,
    /// Bytes of a chunk, at most.
    pub chunk_bytes_max: u64,
    /// How far it is.
    pub state: State,
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Bytes are missing, or were not looked at yet.
    Open,
    /// The block is on the chain.
    Stored,
}

/// The body that opens an upload.
#[derive(Serialize)]
struct Opening<'a> {
    block: &'a SignedBlock,
}

/// Why an answer is no step forward.
enum Trouble {
    /// Another try may do better; wait at least so long.
    Passing(String, Duration),
    /// It would be the same again.
    Lasting(anyhow::Error),
}

impl From<NoAnswer> for Trouble {
    fn from(why: NoAnswer) -> Self {
        match why {
            NoAnswer::Broken { .. } => Self::Passing(why.to_string(), Duration::ZERO),
            NoAnswer::Address { .. } => Self::Lasting(why.into()),
        }
    }
}

/// Whom to tell about what happens.
pub struct Listener<'a> {
    /// So many bytes of all are at the node.
    pub progress: &'a dyn Fn(u64, u64),
    /// Something went wrong and is tried again.
    pub trouble: &'a dyn Fn(&str),
}

/// What trouble there was, and whether it is still borne.
struct Nerve<'a> {
    patience: &'a Patience,
    listener: &'a Listener<'a>,
    tries: u32,
    /// The most bytes that any try brought to the node.
    most: u64,
}

impl<'a> Nerve<'a> {
    fn new(patience: &'a Patience, listener: &'a Listener<'a>) -> Self {
        Self {
            patience,
            listener,
            tries: 0,
            most: 0,
        }
    }

    /// Waits until another try makes sense.
    ///
    /// # Errors
    /// None does.
    async fn bear(&mut self, reached: u64, trouble: Trouble) -> Result<()> {
        let (why, asked) = match trouble {
            Trouble::Lasting(why) => return Err(why),
            Trouble::Passing(why, asked) => (why, asked),
        };
        let forward = reached > self.most;
        self.tries = if forward { 1 } else { self.tries + 1 };
        self.most = self.most.max(reached);
        if self.tries > self.patience.tries_max || asked > self.patience.asked_max {
            bail!("{why}; run the same command again later: it goes on where it stopped");
        }
        (self.listener.trouble)(&why);
        tokio::time::sleep(self.patience.pause(self.tries).max(asked)).await;
        Ok(())
    }
}

/// Reads a path of the node, which may restart meanwhile. Run within an actix system.
///
/// # Errors
/// The node refuses, in its own words; or it could not be reached for minutes.
pub async fn read<T: DeserializeOwned>(
    api: &NodeApi,
    path: &str,
    patience: &Patience,
    listener: &Listener<'_>,
) -> Result<T> {
    let mut nerve = Nerve::new(patience, listener);
    loop {
        let trouble = match api.send(Method::GET, path, Body::Empty).await {
            Ok(reply) if reply.status == StatusCode::NOT_FOUND => bail!("{}", reply.refusal()),
            Ok(reply) => match judge(reply) {
                Ok(read) => return Ok(read),
                Err(trouble) => trouble,
            },
            Err(why) => why.into(),
        };
        nerve.bear(0, trouble).await?;
    }
}

/// Brings a payload and its block to the chain of the node, however often the connection breaks. Run within an actix
/// system.
///
/// # Errors
/// As [`read`].
pub async fn upload(
    api: &NodeApi,
    payload: &PayloadFile,
    block: &SignedBlock,
    patience: &Patience,
    listener: &Listener<'_>,
) -> Result<Session> {
    let opening = to_canonical(&Opening { block })?;
    let run = Run {
        api,
        payload,
        block: block.hash().to_string(),
        listener,
    };
    let mut nerve = Nerve::new(patience, listener);
    loop {
        match run.attempt(&opening).await {
            Ok(stored) => return Ok(stored),
            Err((reached, trouble)) => nerve.bear(reached, trouble).await?,
        }
    }
}

struct Run<'a> {
    api: &'a NodeApi,
    payload: &'a PayloadFile,
    block: String,
    listener: &'a Listener<'a>,
}

impl Run<'_> {
    /// One attempt: opens the upload or finds it again, and sends what is missing. With an error come the bytes that
    /// the node has by now.
    async fn attempt(&self, opening: &[u8]) -> Result<Session, (u64, Trouble)> {
        let opened = self.open(opening).await;
        let mut session = opened.map_err(|trouble| (0, trouble))?;
        loop {
            (self.listener.progress)(session.received, session.length);
            if session.state == State::Stored {
                return Ok(session);
            }
            // An empty chunk at the end finishes an upload whose end was interrupted.
            let sent = self.send(&session).await;
            session = sent.map_err(|trouble| (session.received, trouble))?;
        }
    }

    async fn open(&self, opening: &[u8]) -> Result<Session, Trouble> {
        let body = Body::Json(opening.to_vec());
        let reply = self.api.send(Method::POST, PATH, body).await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Err(Trouble::Lasting(anyhow!("this node takes no uploads")));
        }
        let session: Session = judge(reply)?;
        if session.block == self.block {
            return Ok(session);
        }
        let why = anyhow!("the node speaks of another block, {}", session.block);
        Err(Trouble::Lasting(why))
    }

    async fn send(&self, session: &Session) -> Result<Session, Trouble> {
        let chunk = self
            .payload
            .chunk(session.received, session.chunk_bytes_max);
        let chunk = chunk.context("the payload file");
        let body = Body::Chunk {
            offset: session.received,
            bytes: &chunk.map_err(Trouble::Lasting)?,
        };
        let path = format!("{PATH}/{}", session.upload);
        let next: Session = judge(self.api.send(Method::PATCH, &path, body).await?)?;
        let forward = next.state == State::Stored || next.received > session.received;
        if forward {
            return Ok(next);
        }
        let why = format!("the node stays at byte {}", next.received);
        Err(Trouble::Passing(why, Duration::ZERO))
    }
}

/// What an answer means.
fn judge<T: DeserializeOwned>(reply: Reply) -> Result<T, Trouble> {
    let status = reply.status;
    if status.is_success() {
        return reply.json().map_err(Trouble::Lasting);
    }
    let refusal = reply.refusal();
    let passing = status.is_server_error()
        || matches!(
            status,
            // Somebody else sent a chunk, or the upload was cleaned away: to be found out by opening it again.
            StatusCode::CONFLICT
                | StatusCode::NOT_FOUND
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
        );
    if passing {
        return Err(Trouble::Passing(
            refusal,
            reply.retry_after.unwrap_or_default(),
        ));
    }
    Err(Trouble::Lasting(anyhow!("the node refuses: {refusal}")))
}

#[cfg(test)]
mod tests;
