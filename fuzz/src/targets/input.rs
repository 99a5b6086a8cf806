//! Choices out of an input's bytes; once they are used up every choice is 0.

pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// A number below `count`, which is at most 256.
    pub(super) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// Up to `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// `len` bytes, with zeros for those that are not there.
    pub(super) fn filled(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = self.take(len).to_vec();
        bytes.resize(len, 0);
        bytes
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// `count` numbers, some of them infinite or none at all.
    pub(super) fn floats(&mut self, count: usize) -> Vec<f32> {
        let bytes = self.filled(4 * count);
        let words = bytes.as_chunks().0;
        words.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.0
    }
}
