//! The ledger with what paying for use needs beside it: experts' standings, totals, the day's budget.

use std::collections::{BTreeMap, HashSet};
use std::ops::AddAssign;
use std::path::Path;

use crate::core::{Limits, Receipt, Transfer};
use crate::earnings::{
    Budget, Payouts, Standing, Use, marker_of, plan_payouts, split, transfers_of,
};
use crate::store::{LedgerStore, Note};
use crate::{LedgerError, Refusal};

/// Names of notes: an expert's is this and its own name.
const EXPERT: &[u8] = b"expert/";
const TOTALS: &[u8] = b"totals";
const BUDGET: &[u8] = b"budget";

/// All that was ever credited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Receipts that were worth something.
    pub receipts: u64,
    /// Tokens of theirs.
    pub tokens: u64,
}

/// What became of uses that were to be credited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credited {
    /// Credited now.
    pub new: u64,
    /// Credited before, or worth nothing.
    pub before: u64,
    /// Left for later: the supply cap or the year's limit leaves no room for them.
    pub postponed: u64,
}

impl AddAssign for Credited {
    fn add_assign(&mut self, more: Self) {
        self.new += more.new;
        self.before += more.before;
        self.postponed += more.postponed;
    }
}

/// Everything RewardActor holds; all of it durable when a call returns.
pub struct Books {
    store: LedgerStore,
    standings: BTreeMap<String, Standing>,
    totals: Totals,
    budget: Budget,
}

impl Books {
    /// Opens the ledger in a folder, which is made where there is none.
    ///
    /// # Errors
    /// As [`LedgerStore::open`].
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, LedgerError> {
        let store = LedgerStore::open(dir, limits)?;
        let notes = store.notes()?;
        let mut books = Self {
            store,
            standings: BTreeMap::new(),
            totals: Totals::default(),
            budget: Budget::default(),
        };
        for (name, bytes) in notes {
            let read = books.read_note(&name, &bytes);
            read.ok_or_else(|| LedgerError::Damaged {
                entry: 0,
                why: format!("the note {} is malformed", String::from_utf8_lossy(&name)),
            })?;
        }
        Ok(books)
    }

    fn read_note(&mut self, name: &[u8], bytes: &[u8]) -> Option<()> {
        if let Some(expert) = name.strip_prefix(EXPERT) {
            let expert = String::from_utf8(expert.to_vec()).ok()?;
            self.standings.insert(expert, Standing::from_bytes(bytes)?);
        } else if name == TOTALS {
            self.totals = Totals::from_bytes(bytes)?;
        } else if name == BUDGET {
            self.budget = Budget::from_bytes(bytes)?;
        } else {
            return None;
        }
        Some(())
    }

    /// The ledger.
    pub const fn store(&self) -> &LedgerStore {
        &self.store
    }

    /// Each expert that was ever paid for.
    pub const fn standings(&self) -> &BTreeMap<String, Standing> {
        &self.standings
    }

    /// All that was ever credited.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// As [`LedgerStore::commit`].
    ///
    /// # Errors
    /// As [`LedgerStore::commit`].
    pub fn commit(
        &mut self,
        now_s: u64,
        transfers: &[Transfer],
    ) -> Result<Vec<Result<Receipt, Refusal>>, LedgerError> {
        self.store.commit(now_s, transfers)
    }

    /// Credits each use that was not credited before, in turn and all in one entry: every part of it, or none.
    ///
    /// # Errors
    /// As [`LedgerStore::commit`].
    pub fn credit(&mut self, now_s: u64, uses: &[Use]) -> Result<Credited, LedgerError> {
        let mut plan = Plan {
            books: self,
            room: self.store.ledger().issuable(now_s),
            taken: HashSet::new(),
            standings: BTreeMap::new(),
            totals: self.totals,
            transfers: Vec::new(),
            credited: Credited::default(),
        };
        uses.iter().for_each(|used| plan.add(used));
        let Plan {
            standings,
            totals,
            transfers,
            credited,
            ..
        } = plan;
        let mut notes: Vec<Note> = vec![(TOTALS.into(), totals.to_bytes().into())];
        notes.extend(standings.iter().map(|(name, standing)| {
            let name = [EXPERT, name.as_bytes()].concat();
            (name, standing.to_bytes().into())
        }));
        self.commit_all(now_s, &transfers, &notes)?;
        self.totals = totals;
        self.standings.extend(standings);
        Ok(credited)
    }

    /// Commits what was planned so that nothing of it can be refused.
    fn commit_all(
        &mut self,
        now_s: u64,
        transfers: &[Transfer],
        notes: &[Note],
    ) -> Result<(), LedgerError> {
        let results = self.store.commit_with(now_s, transfers, notes)?;
        let refused = results.into_iter().find_map(Result::err);
        refused.map_or(Ok(()), |refusal| {
            Err(LedgerError::Damaged {
                entry: self.store.entries(),
                why: format!("a planned transfer was refused: {refusal}"),
            })
        })
    }

    /// Pays out what is due; see [`plan_payouts`].
    ///
    /// # Errors
    /// As [`LedgerStore::commit`].
    pub fn distribute(&mut self, now_s: u64) -> Result<Payouts, LedgerError> {
        let ledger = self.store.ledger();
        let payouts = plan_payouts(ledger, self.budget, now_s, self.store.entries());
        let note = (BUDGET.into(), payouts.budget.to_bytes().into());
        self.commit_all(now_s, &payouts.transfers, &[note])?;
        if !payouts.transfers.is_empty() {
            self.budget = payouts.budget;
        }
        Ok(payouts)
    }
}

/// An entry in the making. Nothing of the books is changed by it.
struct Plan<'a> {
    books: &'a Books,
    /// What may still be issued.
    room: u64,
    taken: HashSet<crate::TransferId>,
    standings: BTreeMap<String, Standing>,
    totals: Totals,
    transfers: Vec<Transfer>,
    credited: Credited,
}

impl Plan<'_> {
    fn add(&mut self, used: &Use) {
        let marker = marker_of(used);
        let is_known =
            self.books.store.ledger().has_decided(marker) || self.taken.contains(&marker);
        if used.amount == 0 || is_known {
            self.credited.before += 1;
            return;
        }
        let Some(room) = self.room.checked_sub(used.amount) else {
            self.credited.postponed += 1;
            return;
        };
        let shares = split(used, |name| self.standing(name));
        for (expert, earned) in used.experts.iter().zip(&shares.experts) {
            let after = self.standing(&expert.name).after(used.ended_s, *earned);
            self.standings.insert(expert.name.clone(), after);
        }
        self.transfers.extend(transfers_of(used, &shares));
        self.totals = self.totals.after(used);
        self.room = room;
        self.taken.insert(marker);
        self.credited.new += 1;
    }

    fn standing(&self, name: &str) -> Standing {
        let changed = self.standings.get(name);
        let found = changed.or_else(|| self.books.standings.get(name));
        found.copied().unwrap_or_default()
    }
}

impl Totals {
    const fn after(self, used: &Use) -> Self {
        Self {
            receipts: self.receipts + 1,
            tokens: self.tokens.saturating_add(used.tokens),
        }
    }

    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.receipts.to_le_bytes());
        bytes[8..].copy_from_slice(&self.tokens.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (fields, rest) = bytes.as_chunks::<8>();
        let [receipts, tokens] = fields else {
            return None;
        };
        rest.is_empty().then(|| Self {
            receipts: u64::from_le_bytes(*receipts),
            tokens: u64::from_le_bytes(*tokens),
        })
    }
}
