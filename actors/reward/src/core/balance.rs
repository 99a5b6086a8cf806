/// What went through an account, in 10^-6 BLY.
///
/// Sums of all time, so they only grow (what is pending aside): 2^64 transfers of the largest
/// amount fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Paid.
    pub debits_posted: u128,
    /// Received.
    pub credits_posted: u128,
    /// Held to be paid.
    pub debits_pending: u128,
    /// Held to be received.
    pub credits_pending: u128,
}

impl Balance {
    /// What may be spent now: received, less paid, less held. Zero for issuance, which has
    /// limits of its own.
    pub fn available(&self) -> u128 {
        self.credits_posted
            .saturating_sub(self.debits_posted + self.debits_pending)
    }
}
