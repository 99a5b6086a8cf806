//! Key and value memory of sequences, counted against one bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapMut;

use crate::metrics;
use crate::step::StepError;

/// What one token occupies: `layers` times a key and a value of `heads * head_dim` fp32 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Transformer layers.
    pub layers: usize,
    /// Key/value heads.
    pub heads: usize,
    /// Numbers per head.
    pub head_dim: usize,
}

impl KvShape {
    /// Bytes of a slot for `context` tokens; `None` if that does not fit in memory's address space.
    #[must_use]
    pub fn slot_bytes(&self, context: usize) -> Option<usize> {
        [2, self.heads, context, self.head_dim, size_of::<f32>()]
            .into_iter()
            .try_fold(self.layers, usize::checked_mul)
    }
}

/// Bounds the bytes of all slots of a process that are alive at one time. A clone counts in the same pool.
#[derive(Clone, Debug)]
pub struct KvPool {
    shape: KvShape,
    bound_bytes: u64,
    used_bytes: Arc<AtomicU64>,
}

impl KvPool {
    /// An empty pool; memory is only mapped with each slot.
    #[must_use]
    pub fn new(shape: KvShape, bound_bytes: u64) -> Self {
        Self {
            shape,
            bound_bytes,
            used_bytes: Arc::default(),
        }
    }

    /// Bytes that living slots may occupy together.
    #[must_use]
    pub fn bound_bytes(&self) -> u64 {
        self.bound_bytes
    }

    /// Bytes of the living slots.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Acquire)
    }

    /// An empty slot for at most `context` tokens.
    ///
    /// # Errors
    /// [`StepError::Invalid`] for a context of nothing or beyond all memory, [`StepError::KvFull`] when the pool's
    /// bound leaves too little, [`StepError::Runtime`] when the system refuses the mapping.
    pub fn slot(&self, context: usize) -> Result<KvSlot, StepError> {
        let bytes = self.shape.slot_bytes(context).filter(|bytes| *bytes > 0);
        let bytes =
            bytes.ok_or_else(|| StepError::Invalid(format!("a memory of {context} tokens")))?;
        let reservation = self.reserve(bytes as u64)?;
        let map = MmapMut::map_anon(bytes)
            .map_err(|why| StepError::Runtime(format!("key/value memory: {why}")))?;
        Ok(KvSlot {
            map,
            shape: self.shape,
            context,
            len: 0,
            _reservation: reservation,
        })
    }

    fn reserve(&self, bytes: u64) -> Result<Reservation, StepError> {
        let add = |used: u64| {
            used.checked_add(bytes)
                .filter(|sum| *sum <= self.bound_bytes)
        };
        match self
            .used_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
        {
            Ok(_) => {
                // Added and taken away rather than set: replicas do this at the same time.
                metrics::kv_reserved(bytes);
                Ok(Reservation {
                    bytes,
                    used_bytes: Arc::clone(&self.used_bytes),
                })
            }
            Err(used) => Err(StepError::KvFull {
                needs_bytes: bytes,
                free_bytes: self.bound_bytes.saturating_sub(used),
            }),
        }
    }
}

/// Bytes of a pool, given back on drop.
#[derive(Debug)]
struct Reservation {
    bytes: u64,
    used_bytes: Arc<AtomicU64>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.used_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        metrics::kv_given_back(self.bytes);
    }
}

/// One sequence's keys and values: per layer a key and a value tensor, fp32 `[1, heads, context, head_dim]` (in which
/// the fast backend orders keys in its own way), one after the other in an anonymous map whose pages cost nothing until they are written. Positions below [`Self::len`] are
/// committed; what lies behind is scratch of the step under way or of one that failed.
#[derive(Debug)]
pub struct KvSlot {
    map: MmapMut,
    shape: KvShape,
    context: usize,
    len: usize,
    _reservation: Reservation,
}

impl KvSlot {
    /// Committed tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is committed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// The model's shape that this slot was made for.
    #[must_use]
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Forgets all but the first `len` tokens; a longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Commits `tokens` more, which a step has written; for engines.
    pub fn advance(&mut self, tokens: usize) {
        debug_assert!(self.len + tokens <= self.context);
        self.len = self.context.min(self.len + tokens);
    }

    /// The key and the value tensor of each layer in order, each `[1, heads, context, head_dim]`.
    pub fn tensors(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let len = self.map.len() / size_of::<f32>() / (2 * self.shape.layers);
        self.numbers().chunks_exact_mut(len)
    }

    /// All of [`Self::tensors`] as one.
    pub fn numbers(&mut self) -> &mut [f32] {
        // SAFETY: every pattern of bits is a number; the map begins at a page, so nothing is cut off.
        let (_, numbers, _) = unsafe { self.map.align_to_mut::<f32>() };
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape {
        layers: 2,
        heads: 3,
        head_dim: 4,
    };

    #[test]
    fn slots_are_counted_and_given_back() {
        let one = SHAPE.slot_bytes(10).unwrap() as u64;
        assert_eq!(one, 2 * 2 * 3 * 10 * 4 * 4);
        let pool = KvPool::new(SHAPE, 2 * one);
        let (first, second) = (pool.slot(10).unwrap(), pool.clone().slot(10).unwrap());
        assert_eq!(pool.used_bytes(), 2 * one);
        let refused = pool.slot(1).map(drop);
        assert_eq!(
            refused,
            Err(StepError::KvFull {
                needs_bytes: one / 10,
                free_bytes: 0
            })
        );
        drop(first);
        assert_eq!(pool.used_bytes(), one);
        drop((pool.slot(10).unwrap(), second));
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn impossible_contexts_are_refused() {
        let pool = KvPool::new(SHAPE, u64::MAX);
        assert!(matches!(pool.slot(0), Err(StepError::Invalid(_))));
        assert!(matches!(
            pool.slot(usize::MAX / 2),
            Err(StepError::Invalid(_))
        ));
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn length_never_passes_the_context() {
        let mut slot = KvPool::new(SHAPE, u64::MAX).slot(10).unwrap();
        assert!(slot.is_empty());
        slot.advance(7);
        slot.truncate(9);
        assert_eq!(slot.len(), 7);
        slot.truncate(3);
        assert_eq!(slot.len(), 3);
        assert_eq!(
            slot.tensors()
                .map(|tensor| tensor.len())
                .collect::<Vec<_>>(),
            vec![3 * 10 * 4; 4]
        );
    }
}
