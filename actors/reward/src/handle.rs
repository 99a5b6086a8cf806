use std::cmp::Reverse;
use std::time::Duration;

use actix::{Actor, Context, Handler, Message};
use blyan_supervisors::ChildRef;

use crate::actor::{
    Apply, Credit, Distribute, GetBalance, GetSupply, ListEarners, ListExperts, RewardActor,
};
use crate::books::{Books, Credited, Totals};
use crate::core::{Account, Balance, Receipt, Transfer, WalletAddress};
use crate::earnings::{Payouts, Standing, Use};
use crate::{LedgerError, Refusal};

/// Totals of the ledger, in 10^-6 BLY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Ever issued, burned and accrued ones included.
    pub issued: u128,
    /// Ever burned.
    pub burned: u128,
    /// Issued, and not paid out yet.
    pub accrued: u128,
    /// What may ever be issued.
    pub cap: u64,
    /// Receipts credited and their tokens.
    pub totals: Totals,
}

impl Supply {
    pub(crate) fn of(books: &Books) -> Self {
        let ledger = books.store().ledger();
        let accrued = ledger
            .accounts()
            .filter(|(account, _)| matches!(account, Account::Accrued(_)));
        Self {
            issued: ledger.balance(Account::Issuance).debits_posted,
            burned: ledger.balance(Account::Burned).credits_posted,
            accrued: accrued.map(|(_, sums)| sums.available()).sum(),
            cap: ledger.limits().supply_max,
            totals: books.totals(),
        }
    }
}

/// What an address earned by use, in 10^-6 BLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earner {
    /// Whose.
    pub owner: WalletAddress,
    /// Ever.
    pub earned: u128,
    /// Of it, paid out to the wallet.
    pub paid: u128,
}

impl Earner {
    /// Everybody who ever earned, the highest first, equal ones by address.
    pub(crate) fn all(books: &Books) -> Vec<Self> {
        let accounts = books.store().ledger().accounts();
        let mut earners: Vec<_> = accounts
            .filter_map(|(account, sums)| match account {
                Account::Accrued(owner) => Some(Self {
                    owner,
                    earned: sums.credits_posted,
                    paid: sums.debits_posted,
                }),
                _ => None,
            })
            .collect();
        earners.sort_by_key(|earner| (Reverse(earner.earned), earner.owner));
        earners
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

    /// Credits uses, each once for ever; returns once that is durable.
    ///
    /// # Errors
    /// [`LedgerError`]: ask again with the same ones.
    pub async fn credit(&self, uses: Vec<Use>) -> Result<Credited, LedgerError> {
        self.ask(Credit(uses)).await
    }

    /// Pays out what is due now; returns once that is durable. Asked again, it finds nothing due.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn distribute(&self) -> Result<Payouts, LedgerError> {
        self.ask(Distribute).await
    }

    /// Everybody who ever earned, the highest first, equal ones by address.
    ///
    /// # Errors
    /// [`LedgerError::Call`].
    pub async fn earners(&self) -> Result<Vec<Earner>, LedgerError> {
        self.ask(ListEarners).await
    }

    /// Every expert that was ever paid for, by name.
    ///
    /// # Errors
    /// [`LedgerError::Call`].
    pub async fn experts(&self) -> Result<Vec<(String, Standing)>, LedgerError> {
        self.ask(ListExperts).await
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
