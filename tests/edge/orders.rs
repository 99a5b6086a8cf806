//! Orders of admins that a scripted node takes.

use std::collections::BTreeMap;

use blyan::edge::{
    AdoptReply, AdoptRequest, AdoptionPort, Replaced, RollbackPort, RollbackReply, RollbackRequest,
    RollbackState,
};
use blyan_protocol::{BoxFuture, ErrorCode, PublicError};

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
