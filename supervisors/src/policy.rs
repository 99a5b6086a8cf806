//! What a person writes down about a child: when it is restarted, how often, how it is stopped and where it runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When a child that has exited is started again. Names and meaning are OTP's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Always.
    #[default]
    Permanent,
    /// Only after an abnormal exit, see [`ExitReason::is_normal`](crate::ExitReason::is_normal).
    Transient,
    /// Never, not even when its siblings are restarted as a group.
    Temporary,
}

/// Which siblings share the fate of a child that is restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// None.
    #[default]
    OneForOne,
    /// Those that stand after it.
    RestForOne,
    /// All of them.
    OneForAll,
}

/// A sliding restart window: at most `max_restarts` restarts within any span of `within`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Restarts that are granted; the next failure uses the window up.
    pub max_restarts: u32,
    /// Length of the span.
    pub within: Duration,
}

impl Window {
    /// 3 restarts in 60 s: the default of a child.
    pub const CHILD: Self = Self::new(3, Duration::from_secs(60));
    /// 10 restarts in 60 s: the default of a supervisor.
    pub const SUPERVISOR: Self = Self::new(10, Duration::from_secs(60));

    /// At most `max_restarts` restarts within any span of `within`.
    pub const fn new(max_restarts: u32, within: Duration) -> Self {
        Self {
            max_restarts,
            within,
        }
    }
}

/// The pause before a restart: none before the first in a window, then `initial`, doubled each time up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Pause before the second restart in a window.
    pub initial: Duration,
    /// Longest pause, jitter not counted.
    pub max: Duration,
    /// Each pause is lengthened by a random share of itself, at most this many per cent.
    pub jitter_percent: u8,
}

impl Backoff {
    /// No pause at all.
    pub const NONE: Self = Self {
        initial: Duration::ZERO,
        max: Duration::ZERO,
        jitter_percent: 0,
    };

    /// The pause before restart number `nth` (from 0) of the current window, without jitter.
    pub fn pause(&self, nth: u32) -> Duration {
        let Some(doublings) = nth.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.initial.saturating_mul(factor).min(self.max)
    }

    /// [`pause`](Self::pause) lengthened by jitter; `draw` is a uniform random number.
    pub fn jittered(&self, nth: u32, draw: u64) -> Duration {
        let pause = self.pause(nth);
        let share = draw % (u64::from(self.jitter_percent) * 1000 + 1);
        pause.saturating_add(pause.mul_f64(share as f64 / 100_000.0))
    }

    /// The longest time that `restarts` restarts in a row can spend pausing.
    pub(crate) fn longest_total(&self, restarts: u32) -> Duration {
        let stretch = 1.0 + f64::from(self.jitter_percent) / 100.0;
        // From the 64th doubling on each pause equals the 64th.
        let counted = restarts.min(64);
        let rest = self.pause(64).saturating_mul(restarts - counted);
        let total = (0..counted).fold(rest, |sum, nth| sum.saturating_add(self.pause(nth)));
        Duration::try_from_secs_f64(total.as_secs_f64() * stretch).unwrap_or(Duration::MAX)
    }
}

impl Default for Backoff {
    /// 0, 100 ms, 200 ms, ... up to 5 s, each up to 10 % longer.
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(5),
            jitter_percent: 10,
        }
    }
}

/// How a worker is stopped. A supervisor has no limit of its own: its children have theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shutdown {
    /// Asked to stop, and killed when it has not within this time.
    Timeout(Duration),
    /// Killed at once: dropped at its next await point, without `stopping` and `stopped`.
    Kill,
    /// Asked to stop and waited for.
    Infinity,
}

impl Default for Shutdown {
    /// OTP's default for workers: 5 s.
    fn default() -> Self {
        Self::Timeout(Duration::from_secs(5))
    }
}

/// The thread that a worker lives on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// An arbiter of its own: whatever blocks, calls foreign code or computes for long.
    #[default]
    OwnThread,
    /// An arbiter that all shared children of the tree live on. When one of them is stuck, all are moved.
    Shared,
    /// The thread that the tree was started on. It cannot be abandoned, so a stuck child is not found.
    Local,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BACKOFF: Backoff = Backoff {
        initial: SECOND,
        max: Duration::from_secs(3),
        jitter_percent: 50,
    };

    #[test]
    fn jitter_reaches_its_share_of_the_pause_and_no_further() {
        let lengthened = |draw| BACKOFF.jittered(2, draw);
        assert_eq!(lengthened(0), 2 * SECOND);
        assert_eq!(lengthened(25_000), 2 * SECOND + SECOND / 2);
        assert_eq!(lengthened(50_000), 3 * SECOND);
        assert_eq!(lengthened(50_001), 2 * SECOND, "the draws wrap around");
    }

    #[test]
    fn the_longest_pauses_add_up_to_the_longest_total() {
        for restarts in [0, 1, 2, 3, 10, 63, 64, 65, 100] {
            let longest = |nth| BACKOFF.jittered(nth, 50_000).as_secs_f64();
            let sum: f64 = (0..restarts).map(longest).sum();
            let total = BACKOFF.longest_total(restarts).as_secs_f64();
            assert!((total - sum).abs() < 1e-6, "{restarts}: {total} {sum}");
        }
    }

    #[test]
    fn a_total_beyond_all_durations_is_the_longest_of_them() {
        let endless = Backoff {
            initial: Duration::MAX,
            max: Duration::MAX,
            jitter_percent: 50,
        };
        assert_eq!(endless.longest_total(u32::MAX), Duration::MAX);
    }
}
