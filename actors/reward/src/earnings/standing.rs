//! What is known of an expert when it is paid (REWARD-01).

/// Calls for which the usage factor is 1.
const CALLS_FOR_ONE: u64 = 100;
/// The usage factor's largest value, in thousandths.
const USAGE_MAX: u64 = 2_000;
/// The speed factor of an answer that takes no time, and its smallest value, in thousandths.
const SPEED_OF_NONE: u64 = 2_000;
const SPEED_MIN: u64 = 500;
/// The quality factor without a score, in thousandths: nothing records a score yet.
const QUALITY: u64 = 1_000;
/// Seconds after which an expert counts as unused.
const RECENT_S: u64 = 3_600;
/// The recency factor within that time, and after it, in thousandths.
const RECENT: u64 = 1_000;
const NOT_RECENT: u64 = 800;

/// An expert's record on this node, by what was credited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Uses credited.
    pub calls: u64,
    /// End of the last one, seconds since 1970.
    pub last_used_s: u64,
    /// Earned by it, in 10^-6 BLY, whoever mined it.
    pub earned: u64,
}

impl Standing {
    /// REWARD-01's product for one more use that ends at `ended_s` after `response_ms`, in units of 10^-12. The use itself
    /// counts as a call, so it is never 0.
    pub fn factor(&self, ended_s: u64, response_ms: u64) -> u64 {
        let calls = self.calls.saturating_add(1);
        let usage = (calls.saturating_mul(1_000) / CALLS_FOR_ONE).min(USAGE_MAX);
        let speed = SPEED_OF_NONE.saturating_sub(response_ms).max(SPEED_MIN);
        let is_recent = ended_s.saturating_sub(self.last_used_s) <= RECENT_S;
        let recency = if is_recent { RECENT } else { NOT_RECENT };
        usage * speed * QUALITY * recency
    }

    /// After a use that earned the expert so much.
    #[must_use]
    pub fn after(&self, ended_s: u64, earned: u64) -> Self {
        Self {
            calls: self.calls.saturating_add(1),
            last_used_s: self.last_used_s.max(ended_s),
            earned: self.earned.saturating_add(earned),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let fields = [self.calls, self.last_used_s, self.earned];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (fields, rest) = bytes.as_chunks::<8>();
        let [calls, last_used_s, earned] = fields else {
            return None;
        };
        let number = |field: &[u8; 8]| u64::from_le_bytes(*field);
        rest.is_empty().then(|| Self {
            calls: number(calls),
            last_used_s: number(last_used_s),
            earned: number(earned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A factor of 1 everywhere, in units of 10^-12.
    const ONE: u64 = 1_000_000_000_000;

    #[test]
    fn the_factor_is_the_product_of_reward_01() {
        let of = |calls: u64, last_used_s: u64| Standing {
            calls,
            last_used_s,
            earned: 0,
        };
        // 100 calls, 1 s, just used.
        assert_eq!(of(99, 10_000).factor(10_000, 1_000), ONE);
        // usage: a hundredth of it for the first call, twice at most.
        assert_eq!(of(0, 10_000).factor(10_000, 1_000), ONE / 100);
        assert_eq!(of(199, 10_000).factor(10_000, 1_000), 2 * ONE);
        assert_eq!(of(u64::MAX, 10_000).factor(10_000, 1_000), 2 * ONE);
        // speed: 2 less the seconds, a half at least.
        assert_eq!(of(99, 10_000).factor(10_000, 0), 2 * ONE);
        assert_eq!(of(99, 10_000).factor(10_000, 1_499), ONE * 501 / 1_000);
        assert_eq!(of(99, 10_000).factor(10_000, 90_000), ONE / 2);
        // recency: an hour, its end included.
        assert_eq!(of(99, 10_000).factor(13_600, 1_000), ONE);
        assert_eq!(of(99, 10_000).factor(13_601, 1_000), ONE * 8 / 10);
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Standing::default().after(7, 5).after(6, 1);
        assert_eq!((record.calls, record.last_used_s, record.earned), (2, 7, 6));
        assert_eq!(Standing::from_bytes(&record.to_bytes()), Some(record));
        assert_eq!(Standing::from_bytes(&record.to_bytes()[1..]), None);
        assert_eq!(Standing::from_bytes(&[0; 25]), None);
    }
}
