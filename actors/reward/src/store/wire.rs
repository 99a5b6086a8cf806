//! Entries as bytes. Numbers are little-endian, accounts a tag, and for those of an owner 20 bytes of address.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format, 1 |
//! | 8 | time, seconds since 1970 |
//! | 4 | transfers |
//! | | of each: id (16), kind (1); 1 direct: debit, credit, amount (8); 2 pending: the same and seconds (4); 3 post: the pending's id (16), amount (8); 4 void: the pending's id (16) |
//! | 32 | SHA-256 of the hash of the entry before (zeros before the first) and all of this one before its hash |

use sha2::{Digest as _, Sha256};

use crate::core::{Account, Operation, Transfer, TransferId, WalletAddress};

pub(super) const HASH_LEN: usize = 32;
pub(super) type Hash = [u8; HASH_LEN];

const FORMAT: u8 = 1;
/// Id, kind and the shortest operation: a bound for what a count can stand for.
const TRANSFER_LEN_MIN: usize = 27;

const DIRECT: u8 = 1;
const PENDING: u8 = 2;
const POST: u8 = 3;
const VOID: u8 = 4;

const ISSUANCE: u8 = 0;
const BURNED: u8 = 1;
const VALIDATION_POOL: u8 = 2;
const REWARD_POOL: u8 = 3;
const TREASURY: u8 = 4;
const ESCROW: u8 = 5;
const STRIPE_GATEWAY: u8 = 6;
const WALLET: u8 = 7;
const ACCRUED: u8 = 8;

/// What was decided at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) at_s: u64,
    pub(super) transfers: Vec<Transfer>,
}

impl Entry {
    /// The bytes and the hash that they end with.
    pub(super) fn encode(&self, before: &Hash) -> (Vec<u8>, Hash) {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.at_s.to_le_bytes());
        bytes.extend((self.transfers.len() as u32).to_le_bytes());
        for transfer in &self.transfers {
            put_transfer(&mut bytes, transfer);
        }
        let hash = hash_after(before, &bytes);
        bytes.extend(hash);
        (bytes, hash)
    }

    /// # Errors
    /// What is wrong with the bytes.
    pub(super) fn decode(bytes: &[u8], before: &Hash) -> Result<(Self, Hash), &'static str> {
        let (mut rest, said) = bytes.split_last_chunk().ok_or("an entry is cut off")?;
        let hash = hash_after(before, rest);
        if hash != *said {
            return Err("an entry does not fit its hash");
        }
        let rest = &mut rest;
        let [FORMAT] = take(rest)? else {
            return Err("an entry is of a format that is not known");
        };
        let at_s = u64::from_le_bytes(take(rest)?);
        let count = u32::from_le_bytes(take(rest)?) as usize;
        if count > rest.len() / TRANSFER_LEN_MIN + 1 {
            return Err("an entry has fewer transfers than it says");
        }
        let transfers = (0..count).map(|_| take_transfer(rest));
        let transfers = transfers.collect::<Result<_, _>>()?;
        if !rest.is_empty() {
            return Err("an entry has more bytes than it says");
        }
        Ok((Self { at_s, transfers }, hash))
    }
}

fn hash_after(before: &Hash, bytes: &[u8]) -> Hash {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(bytes);
    hash.finalize().into()
}

fn put_transfer(bytes: &mut Vec<u8>, transfer: &Transfer) {
    bytes.extend(transfer.id.0.to_le_bytes());
    match transfer.operation {
        Operation::Direct {
            debit,
            credit,
            amount,
        } => {
            bytes.push(DIRECT);
            put_move(bytes, debit, credit, amount);
        }
        Operation::Pending {
            debit,
            credit,
            amount,
            timeout_s,
        } => {
            bytes.push(PENDING);
            put_move(bytes, debit, credit, amount);
            bytes.extend(timeout_s.to_le_bytes());
        }
        Operation::Post { pending, amount } => {
            bytes.push(POST);
            bytes.extend(pending.0.to_le_bytes());
            bytes.extend(amount.to_le_bytes());
        }
        Operation::Void { pending } => {
            bytes.push(VOID);
            bytes.extend(pending.0.to_le_bytes());
        }
    }
}

fn put_move(bytes: &mut Vec<u8>, debit: Account, credit: Account, amount: u64) {
    put_account(bytes, debit);
    put_account(bytes, credit);
    bytes.extend(amount.to_le_bytes());
}

fn put_account(bytes: &mut Vec<u8>, account: Account) {
    let owned = |tag: u8, of: WalletAddress, bytes: &mut Vec<u8>| {
        bytes.push(tag);
        bytes.extend(of.0);
    };
    let tag = match account {
        Account::Issuance => ISSUANCE,
        Account::Burned => BURNED,
        Account::ValidationPool => VALIDATION_POOL,
        Account::RewardPool => REWARD_POOL,
        Account::Treasury => TREASURY,
        Account::Escrow => ESCROW,
        Account::StripeGateway => STRIPE_GATEWAY,
        Account::Wallet(of) => return owned(WALLET, of, bytes),
        Account::Accrued(of) => return owned(ACCRUED, of, bytes),
    };
    bytes.push(tag);
}

fn take_transfer(rest: &mut &[u8]) -> Result<Transfer, &'static str> {
    let id = take_id(rest)?;
    let [kind] = take(rest)?;
    let operation = match kind {
        DIRECT => Operation::Direct {
            debit: take_account(rest)?,
            credit: take_account(rest)?,
            amount: u64::from_le_bytes(take(rest)?),
        },
        PENDING => Operation::Pending {
            debit: take_account(rest)?,
            credit: take_account(rest)?,
            amount: u64::from_le_bytes(take(rest)?),
            timeout_s: u32::from_le_bytes(take(rest)?),
        },
        POST => Operation::Post {
            pending: take_id(rest)?,
            amount: u64::from_le_bytes(take(rest)?),
        },
        VOID => Operation::Void {
            pending: take_id(rest)?,
        },
        _ => return Err("a transfer is of a kind that is not known"),
    };
    Ok(Transfer { id, operation })
}

fn take_id(rest: &mut &[u8]) -> Result<TransferId, &'static str> {
    Ok(TransferId(u128::from_le_bytes(take(rest)?)))
}

fn take_account(rest: &mut &[u8]) -> Result<Account, &'static str> {
    let [tag] = take(rest)?;
    Ok(match tag {
        ISSUANCE => Account::Issuance,
        BURNED => Account::Burned,
        VALIDATION_POOL => Account::ValidationPool,
        REWARD_POOL => Account::RewardPool,
        TREASURY => Account::Treasury,
        ESCROW => Account::Escrow,
        STRIPE_GATEWAY => Account::StripeGateway,
        WALLET => Account::Wallet(WalletAddress(take(rest)?)),
        ACCRUED => Account::Accrued(WalletAddress(take(rest)?)),
        _ => return Err("an account is of a kind that is not known"),
    })
}

fn take<const LEN: usize>(rest: &mut &[u8]) -> Result<[u8; LEN], &'static str> {
    let (taken, left) = rest.split_first_chunk().ok_or("an entry is cut off")?;
    *rest = left;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn account(rng: &mut ChaCha8Rng) -> Account {
        match rng.random_range(0..9) {
            0 => Account::Issuance,
            1 => Account::Burned,
            2 => Account::ValidationPool,
            3 => Account::RewardPool,
            4 => Account::Treasury,
            5 => Account::Escrow,
            6 => Account::StripeGateway,
            7 => Account::Accrued(WalletAddress(rng.random())),
            _ => Account::Wallet(WalletAddress(rng.random())),
        }
    }

    fn transfer(rng: &mut ChaCha8Rng) -> Transfer {
        let (debit, credit, amount) = (account(rng), account(rng), rng.random());
        let pending = TransferId(rng.random());
        let operation = match rng.random_range(0..4) {
            0 => Operation::Direct {
                debit,
                credit,
                amount,
            },
            1 => Operation::Pending {
                debit,
                credit,
                amount,
                timeout_s: rng.random(),
            },
            2 => Operation::Post { pending, amount },
            _ => Operation::Void { pending },
        };
        Transfer {
            id: TransferId(rng.random()),
            operation,
        }
    }

    #[test]
    fn entries_are_read_as_they_were_written_and_no_changed_one_is() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for count in 0..40 {
            let entry = Entry {
                at_s: rng.random(),
                transfers: (0..count).map(|_| transfer(&mut rng)).collect(),
            };
            let before: Hash = rng.random();
            let (bytes, hash) = entry.encode(&before);
            assert_eq!(Entry::decode(&bytes, &before), Ok((entry, hash)));
            assert!(Entry::decode(&bytes, &rng.random()).is_err());
            assert!(Entry::decode(&bytes[..bytes.len() - 1], &before).is_err());
            let mut flipped = bytes;
            let at = rng.random_range(0..flipped.len());
            flipped[at] ^= 1 << rng.random_range(0..8);
            assert!(Entry::decode(&flipped, &before).is_err());
        }
    }

    #[test]
    fn bytes_with_a_good_hash_that_are_no_entry_are_refused_by_what_is_wrong() {
        let signed = |body: &[u8]| [body, &hash_after(&[0; HASH_LEN], body)].concat();
        let head = |count: u32| [&[FORMAT][..], &[0; 8], &count.to_le_bytes()].concat();
        let with = |rest: &[u8]| [&head(1)[..], &[7; 16], rest].concat();
        let refusal = |body: &[u8]| Entry::decode(&signed(body), &[0; HASH_LEN]).unwrap_err();
        assert_eq!(
            Entry::decode(&[0; 31], &[0; 32]),
            Err("an entry is cut off")
        );
        assert_eq!(refusal(&[]), "an entry is cut off");
        assert_eq!(refusal(&[2]), "an entry is of a format that is not known");
        assert_eq!(
            refusal(&head(2)),
            "an entry has fewer transfers than it says"
        );
        assert_eq!(refusal(&head(1)), "an entry is cut off");
        assert_eq!(
            refusal(&with(&[9])),
            "a transfer is of a kind that is not known"
        );
        assert_eq!(
            refusal(&with(&[DIRECT, 9])),
            "an account is of a kind that is not known"
        );
        assert_eq!(refusal(&with(&[VOID, 1])), "an entry is cut off");
        let long = [&head(0)[..], &[0]].concat();
        assert_eq!(refusal(&long), "an entry has more bytes than it says");
    }
}
