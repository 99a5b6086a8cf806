//! Bits, the highest of a byte first, and Rice codes: `n >> r` ones, a zero, the low `r` bits of `n`. Gaps between places
//! chosen at random are geometric, and for those a Rice code is within a few hundredths of a bit of the entropy.

use crate::error::TileError;

/// The largest `r`: a gap is below 2^16.
pub(crate) const RICE_MAX: u8 = 16;

/// The `r` that makes `numbers` shortest.
pub(crate) fn best_rice(numbers: impl Iterator<Item = u32> + Clone) -> u8 {
    let bits = |r: u8| -> u64 {
        let code = |n: u32| u64::from(n >> r) + 1 + u64::from(r);
        numbers.clone().map(code).sum()
    };
    (0..=RICE_MAX).min_by_key(|r| bits(*r)).unwrap_or(0)
}

/// Appends bits to bytes.
pub(crate) struct BitWriter<'a> {
    bytes: &'a mut Vec<u8>,
    free: u8,
}

impl<'a> BitWriter<'a> {
    /// Goes on behind `bytes`.
    pub fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes, free: 0 }
    }

    pub fn bit(&mut self, bit: bool) {
        if self.free == 0 {
            self.bytes.push(0);
            self.free = 8;
        }
        self.free -= 1;
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << self.free;
        }
    }

    pub fn rice(&mut self, number: u32, r: u8) {
        for _ in 0..number >> r {
            self.bit(true);
        }
        self.bit(false);
        for shift in (0..r).rev() {
            self.bit(number >> shift & 1 == 1);
        }
    }
}

/// Reads what [`BitWriter`] wrote.
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn bit(&mut self) -> Result<bool, TileError> {
        let byte = self.bytes.get(self.at / 8);
        let byte = byte.ok_or(TileError::Malformed("it ends too early"))?;
        let bit = byte >> (7 - self.at % 8) & 1 == 1;
        self.at += 1;
        Ok(bit)
    }

    /// A number that is at most `max`.
    pub fn rice(&mut self, r: u8, max: u32) -> Result<u32, TileError> {
        let mut number = 0;
        while self.bit()? {
            number += 1;
            if number > max >> r {
                return Err(TileError::Malformed("a number is too large"));
            }
        }
        for _ in 0..r {
            number = number << 1 | u32::from(self.bit()?);
        }
        if number > max {
            return Err(TileError::Malformed("a number is too large"));
        }
        Ok(number)
    }

    /// The bytes behind the last one that was begun; the rest of that one must be 0.
    pub fn finish(mut self) -> Result<&'a [u8], TileError> {
        while !self.at.is_multiple_of(8) {
            if self.bit()? {
                return Err(TileError::Malformed("padding is not 0"));
            }
        }
        Ok(&self.bytes[self.at / 8..])
    }
}
