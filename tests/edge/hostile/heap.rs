//! The heap, counted by the allocator of this test binary.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(by: usize) {
    PEAK.fetch_max(NOW.fetch_add(by, Ordering::SeqCst) + by, Ordering::SeqCst);
}

// SAFETY: every call is handed to the system's allocator unchanged; the counters touch no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    /// Counts the bytes that live before and after, as dhat does; the system moves large buffers without a copy.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        NOW.fetch_sub(layout.size(), Ordering::SeqCst);
        grown(len);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work`; how far the heap of the whole process grew meanwhile, in bytes.
pub fn growth_while<T>(work: impl FnOnce() -> T) -> (T, usize) {
    settle();
    let before = NOW.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let result = work();
    (result, PEAK.load(Ordering::SeqCst) - before)
}

/// Lets the server forget what came before, so that it is not taken for room that the next input may use.
fn settle() {
    let mut calm = 0;
    let mut last = NOW.load(Ordering::SeqCst);
    while calm < 5 {
        std::thread::park_timeout(Duration::from_millis(2));
        let now = NOW.load(Ordering::SeqCst);
        calm = if now == last { calm + 1 } else { 0 };
        last = now;
    }
}
