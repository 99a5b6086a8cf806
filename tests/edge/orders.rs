//! Orders of admins that a scripted node takes.

use std::collections::BTreeMap;

use blyan::edge::{
    AdoptReply, AdoptRequest, AdoptionPort, EconomyPort, Replaced, RollbackPort, RollbackReply,
    RollbackRequest, RollbackState,
};
use blyan_protocol::{BoxFuture, ErrorCode, PublicError};
use blyan_reward::{Credited, Earner, Payouts, Supply, WalletAddress};

/// Adopts whatever it is told to, and says who told it in place of the model before; goes back to no snapshot but "1-0".
pub struct Orders;

impl AdoptionPort for Orders {
    fn adopt(
        &self,
        request: AdoptRequest,
        who: String,
    ) -> BoxFuture<'_, Result<AdoptReply, PublicError>> {
        let replaced = request.blocks.iter().map(|block| Replaced {
            name: request.reason.clone(),
            from: String::new(),
            to: block.to_string(),
        });
        let reply = AdoptReply {
            model_id: "after".to_owned(),
            model_id_before: who,
            replaced: replaced.collect(),
        };
        Box::pin(async move { Ok(reply) })
    }
}

impl RollbackPort for Orders {
    fn begin(
        &self,
        wanted: RollbackRequest,
        who: String,
    ) -> BoxFuture<'_, Result<RollbackReply, PublicError>> {
        let snapshot = wanted.snapshot.unwrap_or_default();
        let known = snapshot == "1-0";
        let reply = RollbackReply {
            id: "2-1-0".to_owned(),
            snapshot_ms: 1000 * wanted.timestamp.unwrap_or_default(),
            snapshot,
            heads: BTreeMap::new(),
            who,
            reason: wanted.reason,
            ordered_ms: 2,
            ended_ms: None,
            state: RollbackState::Ordered,
            failure: None,
        };
        let missing = PublicError::new(ErrorCode::NotFound, "No such snapshot.", "Name another.");
        Box::pin(async move { known.then_some(reply).ok_or(missing) })
    }

    fn last(&self) -> Result<Option<RollbackReply>, PublicError> {
        Ok(None)
    }
}

/// A ledger that is down, but for two who earned: 2 BLY, of which 1 is paid, and 1.
impl EconomyPort for Orders {
    fn supply(&self) -> BoxFuture<'_, Result<Supply, PublicError>> {
        Box::pin(async { Err(down()) })
    }

    fn earners(&self) -> BoxFuture<'_, Result<Vec<Earner>, PublicError>> {
        let earner = |number: u8, earned: u128| Earner {
            owner: WalletAddress([number; 20]),
            earned,
            paid: earned - 1_000_000,
        };
        Box::pin(async move { Ok(vec![earner(1, 2_000_000), earner(2, 1_000_000)]) })
    }

    fn balance(&self, of: WalletAddress) -> BoxFuture<'_, Result<u128, PublicError>> {
        Box::pin(async move { Ok(u128::from(of.0[0])) })
    }

    fn distribute(&self) -> BoxFuture<'_, Result<(Credited, Payouts), PublicError>> {
        Box::pin(async { Err(down()) })
    }

    fn earned_by_expert(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>, PublicError>> {
        Box::pin(async { Err(down()) })
    }
}

fn down() -> PublicError {
    PublicError::new(ErrorCode::Unavailable, "The ledger is down.", "Ask again.")
}
