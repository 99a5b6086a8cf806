//! What each expert has done since the node was started.

use std::collections::BTreeMap;

use blyan_formats::TensorName;
use parking_lot::Mutex;

/// Totals of one expert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertUsage {
    /// Tokens that it computed, prompts included.
    pub tokens: u64,
    /// Requests that it took part in and that have ended.
    pub requests: u64,
}

/// The totals of all experts that were ever used.
#[derive(Debug, Default)]
pub struct UsageBook(Mutex<BTreeMap<TensorName, ExpertUsage>>);

impl UsageBook {
    /// Tokens of a step that counts.
    pub(crate) fn count_tokens(&self, experts: &BTreeMap<TensorName, u64>) {
        let mut book = self.0.lock();
        for (name, tokens) in experts {
            book.entry(*name).or_default().tokens += tokens;
        }
    }

    /// A request that has ended.
    pub(crate) fn count_request<'a>(&self, experts: impl Iterator<Item = &'a TensorName>) {
        let mut book = self.0.lock();
        for name in experts {
            book.entry(*name).or_default().requests += 1;
        }
    }

    /// Nothing for an expert that was never used.
    #[must_use]
    pub fn of(&self, name: &TensorName) -> ExpertUsage {
        self.0.lock().get(name).copied().unwrap_or_default()
    }

    /// The `limit` experts with the most tokens, most first, of equals in the order of their names.
    #[must_use]
    pub fn top(&self, limit: usize) -> Vec<(TensorName, ExpertUsage)> {
        let mut all: Vec<_> = self
            .0
            .lock()
            .iter()
            .map(|(name, usage)| (*name, *usage))
            .collect();
        all.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.tokens));
        all.truncate(limit);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_come_first() {
        let book = UsageBook::default();
        let [a, b, c] = [0, 1, 2].map(|expert| TensorName::expert_of(3, expert));
        book.count_tokens(&BTreeMap::from([(a, 5), (b, 7), (c, 5)]));
        book.count_tokens(&BTreeMap::from([(a, 1)]));
        book.count_request([a, b].iter());
        assert_eq!(
            book.of(&a),
            ExpertUsage {
                tokens: 6,
                requests: 1
            }
        );
        let top: Vec<_> = book.top(2).into_iter().map(|(name, _)| name).collect();
        assert_eq!(top, [b, a]);
        assert_eq!(
            book.of(&TensorName::expert_of(9, 9)),
            ExpertUsage::default()
        );
    }
}
