//! Sixteen rows at a time.

use std::ops::{Deref, DerefMut};

use super::lanes::{LANES, LaneFloats, Lanes, SLICE};

const CACHE_LINE: usize = 64;

/// Sixteen rows that stand one after the other.
#[derive(Clone, Copy)]
pub struct Rows<'a, E> {
    /// `[16, len]`
    elements: &'a [E],
    len: usize,
}

impl<'a, E: Copy + Default> Rows<'a, E> {
    /// Rows of `matrix` `[_, len]` from `first` on, but none from `end` on: zeros in `spare` then take their place.
    #[inline(always)]
    pub fn new(
        matrix: &'a [E],
        len: usize,
        first: usize,
        end: usize,
        spare: &'a mut Vec<E>,
    ) -> Self {
        let count = (end - first).min(LANES);
        let mut elements = &matrix[first * len..][..count * len];
        if count < LANES {
            spare.clear();
            spare.extend_from_slice(elements);
            spare.resize(LANES * len, E::default());
            elements = spare;
        }
        Self { elements, len }
    }

    /// Elements `at` to `at + N` of each row.
    #[inline(always)]
    pub fn runs<const N: usize>(&self, at: usize) -> [&'a [E; N]; LANES] {
        self.some_runs(0, at)
    }

    /// Elements `at` to `at + N` of each of `R` rows from `first` on.
    #[inline(always)]
    pub fn some_runs<const N: usize, const R: usize>(
        &self,
        first: usize,
        at: usize,
    ) -> [&'a [E; N]; R] {
        assert!(first + R <= LANES, "there are sixteen rows");
        assert!(
            at <= self.len && N <= self.len - at,
            "a run lies in its row"
        );
        let start = self.elements.as_ptr().wrapping_add(first * self.len + at);
        // SAFETY: there are 16 rows of `len` elements, `new` saw to it, `first + row < 16`, and `at + N <= len`.
        let run = |row: usize| unsafe { &*start.wrapping_add(row * self.len).cast::<[E; N]>() };
        let mut runs = [run(0); R];
        for (row, place) in runs.iter_mut().enumerate() {
            *place = run(row);
        }
        runs
    }

    /// Asks for part `part` of as many as there are columns of what stands behind these rows, if anything does.
    #[inline(always)]
    pub fn prefetch_next<L: Lanes>(&self, lanes: L, part: usize) {
        let end = self.elements.as_ptr_range().end.cast::<u8>();
        let start = end.wrapping_add(part * LANES * size_of::<E>());
        for line in (0..LANES * size_of::<E>()).step_by(CACHE_LINE) {
            lanes.prefetch(start.wrapping_add(line));
        }
    }
}

impl Rows<'_, f32> {
    /// Overwrites `columns` with the columns.
    #[inline(always)]
    pub fn transpose<L: Lanes>(&self, lanes: L, columns: &mut [LaneFloats]) {
        let Some(last) = self.len.checked_sub(SLICE) else {
            return self.transpose_few(columns);
        };
        for at in (0..self.len).step_by(SLICE) {
            let at = at.min(last);
            let places: &mut [LaneFloats; SLICE] = columns[at..]
                .first_chunk_mut()
                .expect("there is a place for each column");
            *places = lanes.columns(self, at);
        }
    }

    fn transpose_few(&self, columns: &mut [LaneFloats]) {
        for (lane, row) in self.elements.chunks_exact(self.len).enumerate() {
            for (column, number) in columns.iter_mut().zip(row) {
                column.0[lane] = *number;
            }
        }
    }
}

/// A slice that is made on the stack if it has `N` elements at most: for those of a single token an allocation would
/// take noticeable time.
pub struct Buffer<E, const N: usize> {
    len: usize,
    stack: [E; N],
    heap: Vec<E>,
}

impl<E: Copy, const N: usize> Buffer<E, N> {
    #[inline(always)]
    pub fn new(element: E, len: usize) -> Self {
        Self {
            len,
            stack: [element; N],
            heap: if len > N {
                vec![element; len]
            } else {
                Vec::new()
            },
        }
    }
}

impl<E, const N: usize> Deref for Buffer<E, N> {
    type Target = [E];

    #[inline(always)]
    fn deref(&self) -> &[E] {
        if self.len > N {
            &self.heap
        } else {
            &self.stack[..self.len]
        }
    }
}

impl<E, const N: usize> DerefMut for Buffer<E, N> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [E] {
        if self.len > N {
            &mut self.heap
        } else {
            &mut self.stack[..self.len]
        }
    }
}

/// What is done for some tokens.
pub trait GroupWork<L: Lanes> {
    /// For the `T` tokens from `first`; returns `T`. It must be `#[inline(always)]`.
    fn group<const T: usize>(&mut self, lanes: L, first: usize) -> usize;
}

/// Calls `work.group::<T>(first token)` for groups of tokens that together are all `tokens`.
#[inline(always)]
pub fn for_groups<L: Lanes>(lanes: L, tokens: usize, work: &mut impl GroupWork<L>) {
    let mut at = 0;
    while at < tokens {
        let left = (tokens - at).min(L::TOKENS);
        at += match left {
            12.. => work.group::<12>(lanes, at),
            8.. => work.group::<8>(lanes, at),
            4.. => work.group::<4>(lanes, at),
            3 => work.group::<3>(lanes, at),
            2 => work.group::<2>(lanes, at),
            _ => work.group::<1>(lanes, at),
        };
    }
}

/// Writes a vector of outputs to where a row of them goes on; lanes beyond its end are left out.
#[inline(always)]
pub fn store_lanes(row: &mut [f32], numbers: &LaneFloats) {
    match row.first_chunk_mut() {
        Some(row) => *row = numbers.0,
        None => row.copy_from_slice(&numbers.0[..row.len()]),
    }
}
