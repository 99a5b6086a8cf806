use std::time::Duration;

use actix::{Actor, Context, Handler, Message};
use blyan_supervisors::ChildRef;

use crate::actor::{Apply, GetBalance, GetSupply, RewardActor};
use crate::core::{Account, Balance, Ledger, Receipt, Transfer};
use crate::{LedgerError, Refusal};

/// Totals of the ledger, in 10^-6 BLY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Ever issued; what is only held is not in it.
    pub issued: u128,
    /// Ever burned.
    pub burned: u128,
    /// Transfers that have their result for ever.
    pub transfers: usize,
}

impl Supply {
    pub(crate) fn of(ledger: &Ledger) -> Self {
        Self {
            issued: ledger.balance(Account::Issuance).debits_posted,
            burned: ledger.balance(Account::Burned).credits_posted,
            transfers: ledger.decided_count(),
        }
    }
}

/// What other parts call. It outlives restarts of the actor; while the actor is down every call is refused at once with
/// [`LedgerError::Call`]. After a lost or late answer the same transfers may be asked for again: they happen once.
#[derive(Clone)]
pub struct LedgerHandle {
    child: ChildRef<RewardActor>,
    reply_timeout: Duration,
}

impl LedgerHandle {
    /// The handle of a child made by [`RewardActor::spec`].
    pub const fn new(child: ChildRef<RewardActor>, reply_timeout: Duration) -> Self {
        Self {
            child,
            reply_timeout,
        }
    }

    /// Decides transfers in order, each on its own; returns once what was decided is durable.
    ///
    /// # Errors
    /// [`LedgerError`]; each transfer has its own [`Refusal`].
    pub async fn apply(
        &self,
        transfers: Vec<Transfer>,
    ) -> Result<Vec<Result<Receipt, Refusal>>, LedgerError> {
        self.ask(Apply(transfers)).await
    }

    /// An account's sums; zeros when nothing ever went through it.
    ///
    /// # Errors
    /// [`LedgerError::Call`].
    pub async fn balance(&self, account: Account) -> Result<Balance, LedgerError> {
        self.ask(GetBalance(account)).await
    }

    /// The ledger's totals.
    ///
    /// # Errors
    /// [`LedgerError::Call`].
    pub async fn supply(&self) -> Result<Supply, LedgerError> {
        self.ask(GetSupply).await
    }

    async fn ask<M, T>(&self, message: M) -> Result<T, LedgerError>
    where
        RewardActor: Handler<M> + Actor<Context = Context<RewardActor>>,
        M: Message<Result = Result<T, LedgerError>> + Send + 'static,
        T: Send + 'static,
    {
        self.child.call(message, self.reply_timeout).await?
    }
}
