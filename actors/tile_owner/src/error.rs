/// What the core refuses, by name. All of it is the caller's fault: nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// An array has another length than the shape asks for.
    #[error("{what} has {found} values, not {expected}")]
    WrongLength {
        /// Which array.
        what: &'static str,
        /// What the shape asks for.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// A batch without a token, or a shape without a weight.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A setting lies outside its range.
    #[error("{name} must be {range}")]
    Setting {
        /// Which setting.
        name: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// A value is not a number.
    #[error("value {index} is not a number")]
    NotANumber {
        /// Its place in the tile.
        index: usize,
    },
    /// A value is infinite.
    #[error("value {index} is infinite")]
    Infinite {
        /// Its place in the tile.
        index: usize,
    },
    /// A value is beyond the range in which sums are exact.
    #[error("value {index} is larger than 1024")]
    TooLarge {
        /// Its place in the tile.
        index: usize,
    },
    /// The delta was computed on another version of the tile.
    #[error("the delta is for version {found}, the tile is at {expected}")]
    WrongBase {
        /// The tile's version.
        expected: u64,
        /// The delta's.
        found: u64,
    },
    /// The delta was counted before.
    #[error("the delta was counted before")]
    Replayed,
    /// The round has as many deltas as fit.
    #[error("the round has as many deltas as fit")]
    RoundFull,
    /// A value's place is outside the tile, or not behind the place before.
    #[error("place {index} is outside the tile or out of order")]
    Misplaced {
        /// The place.
        index: usize,
    },
    /// Bytes that are not a delta.
    #[error("this is not a delta: {0}")]
    Malformed(&'static str),
    /// A delta of a format that this code does not know.
    #[error("deltas of version {found} are not known")]
    Version {
        /// The delta's version.
        found: u8,
    },
}
