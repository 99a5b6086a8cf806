use super::error::GgufError;

/// Reads forward through bytes; every step is checked against what is left.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) const fn position(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    const fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub(super) fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        if len > self.left() {
            return Err(GgufError::Truncated {
                at: self.bytes.len(),
                what,
            });
        }
        let taken = &self.bytes[self.at..self.at + len as usize];
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufError> {
        let taken = self.take(N as u64, what)?;
        Ok(std::array::from_fn(|i| taken[i]))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, GgufError> {
        let len = self.u64(what)?;
        let at = self.at;
        std::str::from_utf8(self.take(len, what)?).map_err(|_| GgufError::Utf8 { at, what })
    }

    /// A count of entries that take at least `entry_len_min` bytes each, refused before anyone allocates for it.
    pub(super) fn count(
        &self,
        what: &'static str,
        count: u64,
        entry_len_min: u64,
        count_max: u64,
    ) -> Result<usize, GgufError> {
        let most = count_max.min(self.left() / entry_len_min);
        if count > most {
            return Err(GgufError::Count { what, count, most });
        }
        Ok(count as usize)
    }

    /// Everything from the next multiple of `alignment` on; nothing if the file ends before it.
    pub(super) fn aligned_rest(self, alignment: u64) -> &'a [u8] {
        let start = (self.at as u64)
            .checked_next_multiple_of(alignment)
            .and_then(|start| usize::try_from(start).ok());
        start
            .and_then(|start| self.bytes.get(start..))
            .unwrap_or_default()
    }
}
