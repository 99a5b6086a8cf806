//! How far the heap grows while something is read.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

// Of each thread: what others allocate meanwhile is not the reader's.
thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn grown(by: usize) {
    let now = NOW.get() + by as isize;
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

fn shrunk(by: usize) {
    NOW.set(NOW.get() - by as isize);
}

// SAFETY: every call is handed to the system's allocator unchanged; the counters touch no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        shrunk(layout.size());
        grown(len);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a reader may take whatever it reads.
const SLACK: usize = 1 << 20;

/// Reads `input`; the heap grows meanwhile by no more than `times` its length and a mebibyte.
pub(crate) fn bounded<'a, T>(input: &'a [u8], times: usize, read: impl FnOnce(&'a [u8]) -> T) -> T {
    let before = NOW.get();
    PEAK.set(before);
    let result = read(input);
    let (grown, len) = ((PEAK.get() - before) as usize, input.len());
    assert!(
        grown <= times * len + SLACK,
        "{len} bytes of input, the heap grew by {grown}"
    );
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "the heap grew by 2097152")]
    fn what_the_input_asks_for_is_counted() {
        bounded(b"ten bytes.", 1, |_| vec![1_u8; 2 << 20]);
    }
}
