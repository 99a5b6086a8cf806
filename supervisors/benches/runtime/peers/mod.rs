//! The same counter, five ways.

mod actix;
mod kameo;
mod ractor;
mod supervisors;
mod tokio;

use std::{error::Error, thread};

use crate::load::Lane;

/// As a node has it.
pub const OURS: &str = "supervisors";
/// As tasks of one runtime have it.
pub const OURS_ON_ONE_THREAD: &str = "supervisors, one thread";

/// Starts every peer; they live as long as the process.
pub async fn start_all() -> Result<Vec<Lane>, Box<dyn Error>> {
    Ok(vec![
        Lane::supervised(OURS, supervisors::start().await?),
        Lane::new("actix", actix::start()),
        Lane::new("actix with deadline", actix::start().with_deadline()),
        Lane::new("tokio", tokio::start()),
        Lane::supervised("ractor", ractor::start().await?),
        Lane::supervised("kameo", kameo::start().await?),
        Lane::supervised(
            OURS_ON_ONE_THREAD,
            supervisors::start_on_one_thread().await?,
        ),
    ])
}

/// Runs `task` on a thread of its own, with the runtime that an arbiter has.
fn on_a_thread(task: impl Future<Output = ()> + Send + 'static) {
    thread::spawn(|| {
        ::tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(task);
    });
}
