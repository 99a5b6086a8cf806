//! The table of mapped address ranges, fixed in size and free of locks, so that a signal handler may read it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};

/// How many maps may live at once in the process.
pub const MAPS_MAX: usize = 16_384;

/// One range. `version` is odd while `start` and `len` are being changed (a sequence lock with one
/// writer, the owner of the slot); `owned` says whose turn it is to write.
struct Slot {
    owned: AtomicBool,
    version: AtomicU32,
    start: AtomicUsize,
    len: AtomicUsize,
    damaged: AtomicBool,
}

impl Slot {
    const fn new() -> Self {
        Self {
            owned: AtomicBool::new(false),
            version: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            damaged: AtomicBool::new(false),
        }
    }

    fn write(&self, start: usize, len: usize) {
        self.version.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// False also while the slot is being changed: the thread that faults inside a range keeps that
    /// range's own slot from changing, so the slot it looks for is always at rest.
    fn contains(&self, address: usize) -> bool {
        let before = self.version.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let len = self.len.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let after = self.version.load(Ordering::Relaxed);
        let at_rest = before == after && before.is_multiple_of(2);
        at_rest && address.wrapping_sub(start) < len
    }
}

static SLOTS: [Slot; MAPS_MAX] = [const { Slot::new() }; MAPS_MAX];

/// One past the highest slot that was ever used: the handler need not look further.
static SLOTS_USED: AtomicUsize = AtomicUsize::new(0);

/// A registered range; dropping it takes the range out of the table.
#[derive(Debug)]
pub struct Registration(usize);

impl Registration {
    /// Registers `len` bytes from `start`; `None` when the table is full.
    pub fn new(start: usize, len: usize) -> Option<Self> {
        let index = SLOTS
            .iter()
            .position(|slot| !slot.owned.swap(true, Ordering::AcqRel))?;
        SLOTS_USED.fetch_max(index + 1, Ordering::AcqRel);
        SLOTS[index].damaged.store(false, Ordering::Relaxed);
        SLOTS[index].write(start, len);
        Some(Self(index))
    }

    /// Whether a page of the range could not be read from its file.
    pub fn is_damaged(&self) -> bool {
        SLOTS[self.0].damaged.load(Ordering::Acquire)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let slot = &SLOTS[self.0];
        slot.write(0, 0);
        slot.owned.store(false, Ordering::Release);
    }
}

/// Marks the range around `address` as damaged; false if there is none. Safe in a signal handler.
pub fn mark_damaged(address: usize) -> bool {
    let used = SLOTS_USED.load(Ordering::Acquire);
    match SLOTS[..used].iter().find(|slot| slot.contains(address)) {
        Some(slot) => {
            slot.damaged.store(true, Ordering::Release);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Addresses that no map of this process has.
    const FAR: usize = usize::MAX / 2;

    #[test]
    fn only_the_range_around_the_address_is_damaged() {
        let (low, high) = (
            Registration::new(FAR, 4096).unwrap(),
            Registration::new(FAR + 4096, 4096).unwrap(),
        );
        assert!(mark_damaged(FAR + 4096));
        assert!(!low.is_damaged());
        assert!(high.is_damaged());
        assert!(mark_damaged(FAR + 4095));
        assert!(low.is_damaged());
        assert!(!mark_damaged(FAR + 8192));
    }

    #[test]
    fn a_range_that_was_dropped_is_found_no_more() {
        let at = FAR + (1 << 20);
        drop(Registration::new(at, 4096));
        assert!(!mark_damaged(at));
        let again = Registration::new(at, 4096).unwrap();
        assert!(
            !again.is_damaged(),
            "damage does not pass to the next owner of a slot"
        );
    }

    #[test]
    fn ranges_come_and_go_on_many_threads_without_being_mixed_up() {
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                scope.spawn(move || {
                    let base = FAR + (1 << 30) + thread * (1 << 24);
                    for round in 0..2_000 {
                        let len = 4096 * (1 + round % 3);
                        let range = Registration::new(base, len).unwrap();
                        assert!(!range.is_damaged());
                        assert!(!mark_damaged(base + len));
                        assert!(mark_damaged(base + len - 1));
                        assert!(range.is_damaged());
                    }
                });
            }
        });
    }
}
