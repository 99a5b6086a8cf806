//! Who is paid for an answer, and when. Whole 10^-6 BLY; no float anywhere.

mod payout;
mod shares;
mod standing;

use sha2::{Digest as _, Sha256};

use crate::core::{Account, Operation, Transfer, TransferId, WalletAddress};

pub use payout::{Budget, PAYOUT_MIN, PAYOUTS_PER_DAY_MAX, Payouts, plan_payouts};
pub use shares::{ExpertUse, Shares, Use, split};
pub use standing::Standing;

/// What crediting a use does to the ledger: burned, accrued to the node, accrued to each miner. The ids come from the
/// request, so that a use that is credited again is found to be.
pub(crate) fn transfers_of(used: &Use, shares: &Shares) -> Vec<Transfer> {
    let parts = [
        (Account::Burned, shares.burned),
        (Account::Accrued(used.node), shares.node),
    ];
    // A node that mined experts has two credits of one use.
    let miners = shares
        .miners
        .iter()
        .map(|(miner, amount)| (Account::Accrued(*miner), *amount));
    let parts = (0_u32..).zip(parts.into_iter().chain(miners));
    let parts = parts.filter(|(_, (_, amount))| *amount > 0);
    parts
        .map(|(number, (credit, amount))| Transfer {
            id: id_of(used, number),
            operation: Operation::Direct {
                debit: Account::Issuance,
                credit,
                amount,
            },
        })
        .collect()
}

/// The node's part is the one that every use worth a unit has.
pub(crate) fn marker_of(used: &Use) -> TransferId {
    id_of(used, NODE_PART)
}

/// Place of the node in [`transfers_of`].
const NODE_PART: u32 = 1;

fn id_of(used: &Use, part: u32) -> TransferId {
    derived(&[b"blyan use", &used.request, &part.to_le_bytes()])
}

/// A payout's id: its owner, and the number of the entry that it stands in.
pub(crate) fn payout_id(owner: WalletAddress, entry: u64) -> TransferId {
    derived(&[b"blyan payout", &owner.0, &entry.to_le_bytes()])
}

fn derived(parts: &[&[u8]]) -> TransferId {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    let hash: [u8; 32] = hash.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    TransferId(u128::from_le_bytes(id))
}
