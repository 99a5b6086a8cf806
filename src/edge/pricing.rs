//! Costs: whole 10^-6 BLY, never a float.

use serde::{Serialize, Serializer};

use crate::config::PricingConfig;

/// An amount in 10^-6 BLY, written as a decimal string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MicroBly(pub u128);

impl Serialize for MicroBly {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl PricingConfig {
    /// What these tokens cost, rounded down once over the sum: parts never add up to more than the whole.
    pub fn cost(&self, input_tokens: u64, output_tokens: u64) -> MicroBly {
        let input = u128::from(input_tokens) * u128::from(self.input_per_1k);
        let output = u128::from(output_tokens) * u128::from(self.output_per_1k);
        MicroBly((input + output) / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: PricingConfig = PricingConfig {
        input_per_1k: 10_000,
        output_per_1k: 20_000,
    };

    #[test]
    fn the_default_prices_are_exact_per_token() {
        assert_eq!(DEFAULT.cost(0, 0), MicroBly(0));
        assert_eq!(DEFAULT.cost(1, 0), MicroBly(10));
        assert_eq!(DEFAULT.cost(0, 1), MicroBly(20));
        assert_eq!(DEFAULT.cost(1000, 1000), MicroBly(30_000));
    }

    #[test]
    fn fractions_are_dropped_once_over_the_sum() {
        let odd = PricingConfig {
            input_per_1k: 1,
            output_per_1k: 1,
        };
        assert_eq!(odd.cost(999, 0), MicroBly(0));
        assert_eq!(odd.cost(999, 1), MicroBly(1));
        assert_eq!(odd.cost(1500, 1499), MicroBly(2));
    }

    #[test]
    fn the_largest_request_at_the_largest_price_does_not_overflow() {
        let dear = PricingConfig {
            input_per_1k: u64::MAX,
            output_per_1k: u64::MAX,
        };
        let cost = dear.cost(u64::from(u32::MAX), u64::from(u32::MAX));
        assert_eq!(
            cost,
            MicroBly(2 * u128::from(u32::MAX) * u128::from(u64::MAX) / 1000)
        );
    }

    #[test]
    fn an_amount_is_a_decimal_string_in_json() {
        assert_eq!(serde_json::to_string(&MicroBly(230)).unwrap(), "\"230\"");
    }
}
