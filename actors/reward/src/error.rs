/// Why a transfer was refused. Nothing was moved.
///
/// In the order of the checks: a transfer that breaks several rules is refused by the first of
/// them. Shown by `tests/ladder.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// Zero is what a client sends that forgot to choose an id.
    #[error("the id is zero")]
    IdZero,
    /// A transfer moves something.
    #[error("the amount is zero")]
    AmountZero,
    /// Both sides are one account.
    #[error("an account cannot pay itself")]
    SameAccount,
    /// What is issued never goes back: the cap counts all that was ever issued.
    #[error("nothing is paid back into issuance")]
    IssuanceCredited,
    /// What is burned stays so.
    #[error("what is burned cannot be spent")]
    BurnedDebited,
    /// A pending transfer of no duration would never be pending.
    #[error("the time limit is zero")]
    TimeoutZero,
    /// The id belongs to a transfer with other fields.
    #[error("the id belongs to another transfer")]
    IdReused,
    /// No transfer has the id that is to be posted or voided.
    #[error("there is no such pending transfer")]
    PendingNotFound,
    /// The transfer to be posted or voided was refused, or never was a pending one.
    #[error("that transfer is not a pending one")]
    NotPending,
    /// The pending transfer was posted before.
    #[error("the pending transfer was posted")]
    AlreadyPosted,
    /// The pending transfer was voided before.
    #[error("the pending transfer was voided")]
    AlreadyVoided,
    /// The pending transfer ran out before.
    #[error("the pending transfer expired")]
    Expired,
    /// More is to be posted than is held.
    #[error("more is to be posted than is held")]
    ExceedsPending,
    /// More would be issued than may ever be.
    #[error("the supply cap would be passed")]
    SupplyCap,
    /// More would be issued than may be in this year.
    #[error("this year's issue limit would be passed")]
    YearlyLimit,
    /// The account has less than that, or what it has is held for others.
    #[error("the account has less available")]
    InsufficientFunds,
}
