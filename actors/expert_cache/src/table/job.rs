use std::sync::Arc;

use blyan_protocol::LeaseError;

use super::{Outcome, Resident, Table, Ticket};
use crate::CacheError;

/// A load on its way: dropped before it ended, by a panic or with the actor's mailbox, it wakes all who wait.
pub(crate) struct LoadJob {
    table: Arc<Table>,
    ticket: Arc<Ticket>,
}

impl LoadJob {
    pub(crate) fn new(table: Arc<Table>, ticket: Arc<Ticket>) -> Self {
        Self { table, ticket }
    }

    pub(crate) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// True when the ticket was given back before the load began: a new generation did so while the job was on its way
    /// to it. Who waited has asked again.
    pub(crate) fn is_over(&self) -> bool {
        self.ticket.outcome().is_some()
    }

    /// Publishes what was loaded, or why it was not.
    pub(crate) fn end(self, result: Result<Arc<Resident>, CacheError>) {
        let outcome = match result {
            Ok(resident) => Outcome::Loaded(resident),
            Err(error) => Outcome::Refused(self.refusal(error)),
        };
        self.table.end_load(&self.ticket, outcome);
    }

    fn refusal(&self, error: CacheError) -> LeaseError {
        self.table.mark_if_corrupt(&error);
        error.into_lease_error(self.ticket.name)
    }
}

impl Drop for LoadJob {
    fn drop(&mut self) {
        self.table.end_load(&self.ticket, Outcome::Abandoned);
    }
}
