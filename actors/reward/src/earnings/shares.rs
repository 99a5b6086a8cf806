//! One use, cut into what each party gets. The parts add up to the whole.

use std::collections::BTreeMap;

use super::Standing;
use crate::core::WalletAddress;

/// Burned of each payment (ECON-05), in thousandths.
const BURNED_PER_MILLE: u64 = 10;
/// The experts' part, in thousandths. The node has the rest, three tenths: it had the machine.
const EXPERTS_PER_MILLE: u64 = 690;

/// What a receipt says was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The request, which is credited once.
    pub request: [u8; 16],
    /// Its price, in 10^-6 BLY.
    pub amount: u64,
    /// Tokens that it was paid for.
    pub tokens: u64,
    /// Its end, seconds since 1970.
    pub ended_s: u64,
    /// From its admission to its end.
    pub response_ms: u64,
    /// The node that answered.
    pub node: WalletAddress,
    /// The experts that computed it, each once.
    pub experts: Vec<ExpertUse>,
}

/// An expert's part in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertUse {
    /// Its name on the chain.
    pub name: String,
    /// Who signed its block.
    pub miner: WalletAddress,
    /// Tokens that it computed.
    pub tokens: u64,
}

/// Who gets what of one use, in 10^-6 BLY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Taken out of the world.
    pub burned: u64,
    /// The node's, with what rounding left over.
    pub node: u64,
    /// Each miner's, over all experts of theirs.
    pub miners: BTreeMap<WalletAddress, u64>,
    /// Each expert's, in the order of the use.
    pub experts: Vec<u64>,
}

/// Cuts a use's amount: a hundredth is burned, 69 hundredths go to the experts by the tokens that they computed times the factor
/// of their standing (REWARD-01). Both are rounded down, and the node has what is left: a unit at least, and the experts' part where
/// no expert computed anything.
pub fn split(used: &Use, standing_of: impl Fn(&str) -> Standing) -> Shares {
    let part = |per_mille: u64| mul_div(used.amount, u128::from(per_mille), 1_000);
    let (burned, pool) = (part(BURNED_PER_MILLE), part(EXPERTS_PER_MILLE));
    let weight = |expert: &ExpertUse| {
        let factor = standing_of(&expert.name).factor(used.ended_s, used.response_ms);
        u128::from(expert.tokens) * u128::from(factor)
    };
    let weights: Vec<_> = used.experts.iter().map(weight).collect();
    let experts = portions(pool, &weights);
    let mut miners = BTreeMap::new();
    for (expert, amount) in used.experts.iter().zip(&experts) {
        *miners.entry(expert.miner).or_default() += amount;
    }
    let given: u64 = experts.iter().sum();
    Shares {
        burned,
        node: used.amount - burned - given,
        miners,
        experts,
    }
}

/// Cuts an amount by weights: to where each ends, rounded down, less where it begins. A token passes hundreds of experts and costs
/// tens of units; each rounded on its own would get nothing.
fn portions(amount: u64, weights: &[u128]) -> Vec<u64> {
    let ends = weights.iter().scan(0_u128, |sum, weight| {
        *sum = sum.saturating_add(*weight);
        Some(*sum)
    });
    let ends: Vec<_> = ends.collect();
    let whole = ends.last().copied().unwrap_or(0);
    if whole == 0 {
        return vec![0; weights.len()];
    }
    let mut begin = 0;
    ends.iter()
        .map(|end| {
            let end = mul_div(amount, *end, whole);
            end - std::mem::replace(&mut begin, end)
        })
        .collect()
}

/// `amount * by / of`, rounded down, for `by` of at most `of`; both are made smaller together where the product would not fit.
fn mul_div(amount: u64, by: u128, of: u128) -> u64 {
    let spare = of.leading_zeros().min(64);
    let shift = 64 - spare;
    let (by, of) = (by >> shift, (of >> shift).max(1));
    let part = u128::from(amount) * by / of;
    u64::try_from(part).unwrap_or(amount).min(amount)
}
