//! libc's calls on files, as this binary defines them: the linker takes these for std's calls and for those of RocksDB.
//! Each asks [`double`] first. `every_call` fails if a call of RocksDB does not get here.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use libc::{FILE, mode_t, off_t, size_t, ssize_t};

use crate::double::{self, Kind, Verdict, judge};

/// The system's own calls, past the hooks.
pub mod real {
    use super::*;
    use std::ffi::CString;

    pub fn open_to_append(path: &Path) -> c_int {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        let flags = libc::O_CREAT | libc::O_APPEND | libc::O_WRONLY | libc::O_CLOEXEC;
        // SAFETY: the path is a string that ends with zero.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                path.as_ptr(),
                flags,
                0o600,
            )
        };
        assert!(fd >= 0, "the journal cannot be made");
        fd as c_int
    }

    pub fn append(fd: c_int, text: &str) {
        // SAFETY: the pointer and the length are those of `text`.
        let written = unsafe { libc::syscall(libc::SYS_write, fd, text.as_ptr(), text.len()) };
        assert_eq!(written, text.len() as i64, "the journal is cut");
    }

    /// Gives a file one more name; it may have that already.
    pub fn link(from: &Path, to: &Path) {
        let [from, to] = [from, to].map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
        let cwd = libc::AT_FDCWD;
        // SAFETY: both are strings that end with zero.
        unsafe { libc::syscall(libc::SYS_linkat, cwd, from.as_ptr(), cwd, to.as_ptr(), 0) };
    }

    pub fn path_of(fd: c_int) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()
    }

    pub fn ino_and_len(fd: c_int) -> Option<(u64, u64)> {
        // SAFETY: all zeros are a value of this plain struct.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` may be written to.
        (unsafe { libc::fstat(fd, &mut stat) } == 0).then_some((stat.st_ino, stat.st_size as u64))
    }

    pub fn kill_self() -> ! {
        // SAFETY: neither has a precondition; SIGKILL runs nothing more of the process.
        unsafe { libc::syscall(libc::SYS_kill, libc::getpid(), libc::SIGKILL) };
        loop {
            std::thread::park();
        }
    }
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: the address of this thread's errno is valid.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// # Safety
/// `path` is a string that ends with zero.
unsafe fn path_at(path: *const c_char) -> PathBuf {
    // SAFETY: as the caller says.
    OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()).into()
}

/// # Safety
/// `path` is a string that ends with zero.
unsafe fn path_below(dir: c_int, path: *const c_char) -> Option<PathBuf> {
    // SAFETY: as the caller says.
    let path = unsafe { path_at(path) };
    if path.is_absolute() || dir == libc::AT_FDCWD {
        return Some(path);
    }
    real::path_of(dir).map(|dir| dir.join(path))
}

/// A call that moves `len` bytes: `call` makes it with as many as it is told.
fn move_bytes(kind: Kind, fd: c_int, len: size_t, call: impl Fn(size_t) -> ssize_t) -> ssize_t {
    match judge(kind, || real::path_of(fd)) {
        Verdict::Pass | Verdict::Skip => call(len),
        Verdict::Fail(errno) => fail(errno) as ssize_t,
        Verdict::Half => call(len.div_ceil(2)),
        Verdict::HalfThenKill => {
            call(len / 2);
            real::kill_self()
        }
    }
}

/// A call that is made or not.
fn make(verdict: Verdict, call: impl FnOnce() -> c_int) -> c_int {
    match verdict {
        Verdict::Fail(errno) => fail(errno),
        Verdict::Skip => 0,
        Verdict::HalfThenKill => real::kill_self(),
        Verdict::Pass | Verdict::Half => call(),
    }
}

fn sync(fd: c_int, number: i64) -> c_int {
    let verdict = judge(Kind::Sync, || real::path_of(fd));
    make(verdict, || {
        // SAFETY: a descriptor is only a number to the system.
        double::sync(fd, || unsafe { libc::syscall(number, fd) } as c_int)
    })
}

/// Defines functions under their own names for the linker.
macro_rules! hooks {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $reply:ty $body:block)*) => {$(
        /// # Safety
        /// As the function of libc.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> $reply {
            #[allow(unused_unsafe, reason = "not every body makes a call of its own")]
            // SAFETY: the caller keeps libc's contract, and the body passes on what it got.
            unsafe {
                $body
            }
        }
    )*};
}

hooks! {
    fn write(fd: c_int, from: *const c_void, len: size_t) -> ssize_t {
        move_bytes(Kind::Write, fd, len, |len| libc::syscall(libc::SYS_write, fd, from, len) as ssize_t)
    }
    fn pwrite(fd: c_int, from: *const c_void, len: size_t, at: off_t) -> ssize_t {
        move_bytes(Kind::Write, fd, len, |len| libc::syscall(libc::SYS_pwrite64, fd, from, len, at) as ssize_t)
    }
    fn pwrite64(fd: c_int, from: *const c_void, len: size_t, at: off_t) -> ssize_t { pwrite(fd, from, len, at) }
    fn read(fd: c_int, to: *mut c_void, len: size_t) -> ssize_t {
        move_bytes(Kind::Read, fd, len, |len| libc::syscall(libc::SYS_read, fd, to, len) as ssize_t)
    }
    fn pread(fd: c_int, to: *mut c_void, len: size_t, at: off_t) -> ssize_t {
        move_bytes(Kind::Read, fd, len, |len| libc::syscall(libc::SYS_pread64, fd, to, len, at) as ssize_t)
    }
    fn pread64(fd: c_int, to: *mut c_void, len: size_t, at: off_t) -> ssize_t { pread(fd, to, len, at) }
    fn fread_unlocked(to: *mut c_void, size: size_t, count: size_t, file: *mut FILE) -> size_t {
        match judge(Kind::Read, || real::path_of(libc::fileno(file))) {
            Verdict::Fail(errno) => { fail(errno); 0 }
            // A stream has no short reads but at its end.
            _ => libc::fread(to, size, count, file),
        }
    }
    fn fallocate(fd: c_int, mode: c_int, at: off_t, len: off_t) -> c_int {
        make(judge(Kind::Write, || real::path_of(fd)), || libc::syscall(libc::SYS_fallocate, fd, mode, at, len) as c_int)
    }
    fn ftruncate(fd: c_int, len: off_t) -> c_int {
        make(judge(Kind::Name, || real::path_of(fd)), || libc::syscall(libc::SYS_ftruncate, fd, len) as c_int)
    }
    fn ftruncate64(fd: c_int, len: off_t) -> c_int { ftruncate(fd, len) }
    fn fsync(fd: c_int) -> c_int { sync(fd, libc::SYS_fsync) }
    fn fdatasync(fd: c_int) -> c_int { sync(fd, libc::SYS_fdatasync) }
    fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        let verdict = if flags & libc::O_CREAT == 0 { Verdict::Pass } else { judge(Kind::Name, || Some(path_at(path))) };
        make(verdict, || libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) as c_int)
    }
    fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int { open(path, flags, mode) }
    fn rename(from: *const c_char, to: *const c_char) -> c_int {
        make(judge(Kind::Name, || Some(path_at(from))), || {
            double::losing(&path_at(to));
            libc::syscall(libc::SYS_rename, from, to) as c_int
        })
    }
    fn link(from: *const c_char, to: *const c_char) -> c_int { linkat(libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) }
    fn linkat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: c_int) -> c_int {
        make(judge(Kind::Name, || path_below(to_dir, to)), || {
            libc::syscall(libc::SYS_linkat, from_dir, from, to_dir, to, flags) as c_int
        })
    }
    fn unlink(path: *const c_char) -> c_int { unlinkat(libc::AT_FDCWD, path, 0) }
    fn rmdir(path: *const c_char) -> c_int { unlinkat(libc::AT_FDCWD, path, libc::AT_REMOVEDIR) }
    fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
        make(judge(Kind::Name, || path_below(dir, path)), || {
            if let Some(path) = path_below(dir, path) {
                double::losing(&path);
            }
            libc::syscall(libc::SYS_unlinkat, dir, path, flags) as c_int
        })
    }
    fn statvfs(path: *const c_char, room: *mut libc::statvfs) -> c_int {
        let done = libc::statvfs64(path, room.cast());
        if done == 0 && double::is_full() {
            (*room).f_bavail = 0;
        }
        done
    }
    fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
        make(judge(Kind::Name, || Some(path_at(path))), || {
            let done = libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) as c_int;
            if done == 0 {
                double::made_dir(&path_at(path));
            }
            done
        })
    }
}
