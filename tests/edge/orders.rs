//! Orders of admins that a scripted node takes.

use blyan::edge::{AdoptReply, AdoptRequest, AdoptionPort, Replaced};
use blyan_protocol::{BoxFuture, PublicError};

/// Adopts whatever it is told to, and says who told it in place of the model before.
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
