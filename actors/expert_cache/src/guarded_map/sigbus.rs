//! The process-wide SIGBUS handler: a fault inside a registered range becomes a page of zeros and a flag.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use libc::{c_int, c_void, sigaction, siginfo_t};

use super::ranges;

/// What the handler needs; set once, before the handler is in place, and only read by it.
struct Installed {
    previous: sigaction,
    page_size: usize,
}

static INSTALLED: OnceLock<Installed> = OnceLock::new();

/// Puts the handler in place; further calls do nothing.
///
/// # Errors
/// What the system answered when the page size or the signal's action could not be read or set.
pub fn install() -> io::Result<()> {
    static RESULT: OnceLock<Result<(), i32>> = OnceLock::new();
    (*RESULT.get_or_init(|| {
        install_once().map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
    }))
    .map_err(io::Error::from_raw_os_error)
}

fn install_once() -> io::Result<()> {
    let installed = Installed {
        previous: current_action()?,
        page_size: page_size()?,
    };
    INSTALLED.get_or_init(|| installed);
    // SAFETY: an all-zero sigaction is a valid value: no handler, empty mask, no flags.
    let mut action: sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    // ONSTACK as the standard library's own handler: a thread may fault at the end of its stack.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is fully initialised and its handler has the signature SA_SIGINFO asks for.
    check(unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) })
}

fn current_action() -> io::Result<sigaction> {
    let mut current = MaybeUninit::uninit();
    // SAFETY: with a null new action the call only writes the current one to `current`.
    check(unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), current.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so `current` was written.
    Ok(unsafe { current.assume_init() })
}

fn page_size() -> io::Result<usize> {
    // SAFETY: sysconf takes no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).map_err(|_| io::Error::last_os_error())
}

fn check(status: c_int) -> io::Result<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Runs in a signal handler: no allocation, no lock, no panic, errno kept.
extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    let Some(installed) = INSTALLED.get() else {
        return;
    };
    // SAFETY: the kernel passes a valid siginfo_t, and errno's location is always valid.
    let (code, errno) = unsafe { ((*info).si_code, *libc::__errno_location()) };
    // A positive code comes from the kernel and has an address; anything else was sent by a process.
    let fault = code > 0;
    // SAFETY: `info` is valid; the bytes of the address field can be read whatever sent the signal.
    let address = unsafe { (*info).si_addr() } as usize;
    let repaired =
        fault && ranges::mark_damaged(address) && map_zeros(address, installed.page_size);
    if !repaired {
        give_back(signal, installed, fault);
    }
    // SAFETY: errno's location is always valid.
    unsafe { *libc::__errno_location() = errno };
}

/// Puts a page of zeros where `address` lies, so that the reading thread goes on.
fn map_zeros(address: usize, page_size: usize) -> bool {
    let page = address & !(page_size - 1);
    // SAFETY: the page lies inside a registered range, a read-only map which the faulting thread keeps
    // alive, so MAP_FIXED replaces nothing but that map's own page; it stays readable.
    let mapped = unsafe {
        libc::mmap(
            page as *mut c_void,
            page_size,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

/// Ends this handler's reign. A fault happens again under the action that was there before as soon as the handler
/// returns. A signal that was sent is sent once more under the default action: the standard library's own handler
/// would swallow it, for it expects a fault that comes again.
fn give_back(signal: c_int, installed: &Installed, fault: bool) {
    // SAFETY: both actions are valid, one was read from the system and an all-zero one is SIG_DFL; sigaction and raise
    // are async-signal-safe.
    unsafe {
        if fault {
            libc::sigaction(signal, &installed.previous, ptr::null_mut());
        } else {
            libc::sigaction(
                signal,
                &MaybeUninit::zeroed().assume_init(),
                ptr::null_mut(),
            );
            libc::raise(signal);
        }
    }
}
