//! A bar on standard error for work that takes longer than two seconds, where a person watches.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

const PATIENCE: Duration = Duration::from_secs(2);
const TEMPLATE: &str = "{msg} [{bar:32}] {pos}/{len} {elapsed} (eta {eta})";
const BYTES_TEMPLATE: &str = "{msg} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} (eta {eta})";

/// A bar that appears when it is worth it, and is gone when dropped.
pub struct Bar {
    bar: ProgressBar,
    began: Instant,
    shown: Mutex<bool>,
}

impl Bar {
    /// Counts things.
    pub fn of_things(message: &'static str) -> Self {
        Self::new(message, TEMPLATE)
    }

    /// Counts bytes.
    pub fn of_bytes(message: &'static str) -> Self {
        Self::new(message, BYTES_TEMPLATE)
    }

    fn new(message: &'static str, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(message);
        Self {
            bar,
            began: Instant::now(),
            shown: Mutex::new(!std::io::stderr().is_terminal()),
        }
    }

    /// So many of all are done.
    pub fn set(&self, done: u64, all: u64) {
        self.bar.set_length(all);
        self.bar.set_position(done);
        let mut shown = self.shown.lock();
        if !*shown && self.began.elapsed() >= PATIENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            *shown = true;
        }
    }

    /// Stands before the bar from now on.
    pub fn tell(&self, message: String) {
        self.bar.set_message(message);
    }

    /// So many more are done.
    pub fn add(&self, more: u64, all: u64) {
        self.set(self.bar.position() + more, all);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
