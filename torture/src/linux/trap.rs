//! System calls that fail on demand: the calls themselves, of the program as it is built, and not
//! the functions around them, past which the engine calls the system directly.
//!
//! A seccomp filter turns each call that is of interest into a signal. Its handler counts, and
//! makes the call, fails it, cuts it short, or ends the process. The filter lets through what is
//! called from `libc::syscall`, by which alone the handler calls the system.
#![expect(unsafe_code, reason = "signals and filters of system calls have no other interface")]

use std::fs::File;
use std::mem;
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crate::linux::trail::{Call, PATH, now};

/// What is done to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// EIO
    Io,
    /// ENOSPC
    Full,
    /// ENOMEM of maps, EMFILE of opens, EIO of all else
    Scarce,
    /// EINTR, which is to be tried again
    Interrupted,
    /// Half of a write, or of a read; other calls are made
    Short,
    /// kill -9 before the call
    Kill,
    /// kill -9 after half of a write, or behind any other call
    KillBehind,
}

/// The calls of interest, with a name for reports.
pub const CALLS: &[(i64, &str)] = &[
    (libc::SYS_pwritev, "pwritev"),
    (libc::SYS_pwrite64, "pwrite"),
    (libc::SYS_pread64, "pread"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fallocate, "fallocate"),
    (libc::SYS_mmap, "mmap"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_renameat, "renameat"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_getdents64, "getdents"),
    (libc::SYS_flock, "flock"),
    (libc::SYS_ioctl, "ioctl"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, "link"),
];

static CALLED: AtomicU64 = AtomicU64::new(0);
static AT: AtomicU64 = AtomicU64::new(u64::MAX);
static STICKY: AtomicBool = AtomicBool::new(false);
static FAULT: AtomicU64 = AtomicU64::new(0);
static HIT: AtomicI64 = AtomicI64::new(-1);
/// The file that gets a record of each call; -1: none.
static RECORDS: AtomicI64 = AtomicI64::new(-1);

/// Fails the call of that number, counted from 1, and with `sticky` all that follow.
pub fn arm(at: u64, fault: Fault, sticky: bool) {
    FAULT.store(fault as u64, Ordering::SeqCst);
    STICKY.store(sticky, Ordering::SeqCst);
    AT.store(at, Ordering::SeqCst);
}

/// No call fails any more.
pub fn disarm() {
    AT.store(u64::MAX, Ordering::SeqCst);
}

/// How many calls there were, and the first that was hit.
pub fn report() -> (u64, &'static str) {
    let hit = HIT.load(Ordering::SeqCst);
    let name = CALLS.iter().find(|(number, _)| *number == hit).map_or("none", |(_, name)| name);
    (CALLED.load(Ordering::SeqCst), name)
}

/// Writes down every call from now on.
pub fn record(file: File) {
    RECORDS.store(file.into_raw_fd().into(), Ordering::SeqCst);
}

/// Installs handler and filter, for good, in this thread and those that it starts.
pub fn install() {
    // SAFETY: an all-zero sigaction is a valid one; the handler has the signature that SA_SIGINFO
    // asks for, and does only what a handler may.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_call as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        assert_eq!(libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()), 0);
    }
    let filter = filter();
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap(),
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: both calls take what they are documented to; the program lives until they return,
    // and the kernel copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        let done = libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program);
        assert_eq!(done, 0, "no seccomp here: {}", std::io::Error::last_os_error());
    }
}

/// A trap for each call of interest that does not come from `libc::syscall`.
fn filter() -> Vec<libc::sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let ours = libc::syscall as *const () as u64;
    let (high, low) = ((ours >> 32) as u32, ours as u32);
    let end = low.checked_add(64).expect("libc::syscall lies across a multiple of 4 GiB");
    // seccomp_data: nr at 0, instruction_pointer at 8.
    let mut out = vec![
        line(LOAD, 0, 0, 12),
        line(EQUAL, 0, 4, high),
        line(LOAD, 0, 0, 8),
        line(AT_LEAST, 0, 2, low),
        line(AT_LEAST, 1, 0, end),
        line(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        line(LOAD, 0, 0, 0),
    ];
    for (number, _) in CALLS {
        out.push(line(EQUAL, 0, 1, *number as u32));
        out.push(line(RETURN, 0, 0, libc::SECCOMP_RET_TRAP));
    }
    out.push(line(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    out
}

/// Number and arguments of a call, and where its result goes.
#[cfg(target_arch = "x86_64")]
fn registers(context: &mut libc::ucontext_t) -> (i64, [i64; 6], &mut i64) {
    use libc::{REG_R8, REG_R9, REG_R10, REG_RAX, REG_RDI, REG_RDX, REG_RSI};
    let registers = &mut context.uc_mcontext.gregs;
    let arguments = [REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9]
        .map(|register| registers[register as usize]);
    let number = registers[REG_RAX as usize];
    (number, arguments, &mut registers[REG_RAX as usize])
}

extern "C" fn on_call(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    /// The siginfo of a SIGSYS, as linux/signal.h has it.
    #[repr(C)]
    struct Info {
        head: [i32; 4],
        call_address: *mut libc::c_void,
        number: i32,
        arch: u32,
    }
    // SAFETY: the kernel hands a siginfo of this signal and the context of this thread, which
    // nobody else uses until the handler returns.
    let (info, context) =
        unsafe { (&*info.cast::<Info>(), &mut *context.cast::<libc::ucontext_t>()) };
    let (_, arguments, result) = registers(context);
    *result = answer(i64::from(info.number), arguments);
}

/// Makes a call, or does to it what was asked for.
fn answer(number: i64, mut arguments: [i64; 6]) -> i64 {
    // Anonymous maps are memory, and no part of the store.
    if number == libc::SYS_mmap && arguments[4] as i32 == -1 {
        return call(number, arguments);
    }
    let count = CALLED.fetch_add(1, Ordering::SeqCst) + 1;
    let records = RECORDS.load(Ordering::SeqCst);
    if records >= 0 {
        return recorded(records, count, number, arguments);
    }
    let at = AT.load(Ordering::SeqCst);
    if count < at || (count > at && !STICKY.load(Ordering::SeqCst)) {
        return call(number, arguments);
    }
    let _ = HIT.compare_exchange(-1, number, Ordering::SeqCst, Ordering::SeqCst);
    let fault = FAULT.load(Ordering::SeqCst);
    let is = |other: Fault| fault == other as u64;
    if is(Fault::Io) {
        i64::from(-libc::EIO)
    } else if is(Fault::Full) {
        i64::from(-libc::ENOSPC)
    } else if is(Fault::Interrupted) {
        i64::from(-libc::EINTR)
    } else if is(Fault::Scarce) {
        i64::from(match number {
            libc::SYS_mmap => -libc::ENOMEM,
            libc::SYS_openat => -libc::EMFILE,
            _ => -libc::EIO,
        })
    } else if is(Fault::Short) {
        halve(number, &mut arguments);
        call(number, arguments)
    } else {
        if is(Fault::KillBehind) {
            halve(number, &mut arguments);
            call(number, arguments);
        }
        let own = i64::from(std::process::id());
        call(libc::SYS_kill, [own, i64::from(libc::SIGKILL), 0, 0, 0, 0])
    }
}

/// Makes a call and writes it down.
fn recorded(records: i64, count: u64, number: i64, arguments: [i64; 6]) -> i64 {
    let path = path_of(number, arguments);
    let from = now();
    let result = call(number, arguments);
    let thread = call(libc::SYS_gettid, [0; 6]);
    let record = Call { from, to: now(), thread, number, arguments, result, path }.encode();
    let (len, at) = (record.len() as i64, (count as i64 - 1) * record.len() as i64);
    call(libc::SYS_pwrite64, [records, record.as_ptr() as i64, len, at, 0, 0]);
    result
}

/// The end of the path that a call names; of two the second.
fn path_of(number: i64, arguments: [i64; 6]) -> [u8; PATH] {
    let mut out = [0; PATH];
    let at = match number {
        libc::SYS_openat | libc::SYS_unlinkat | libc::SYS_mkdirat => 1,
        libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_linkat => 3,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink | libc::SYS_mkdir => 0,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename | libc::SYS_link => 1,
        _ => return out,
    };
    // SAFETY: the program hands the system a string that ends with a zero, and waits for us.
    let path = unsafe { std::ffi::CStr::from_ptr(arguments[at] as *const libc::c_char) };
    let path = path.to_bytes();
    let end = &path[path.len().saturating_sub(PATH)..];
    out[..end.len()].copy_from_slice(end);
    out
}

/// Half of what a write or read would do. Of several slices the first half of them.
fn halve(number: i64, arguments: &mut [i64; 6]) {
    let halved = [libc::SYS_pwritev, libc::SYS_pwrite64, libc::SYS_pread64];
    if halved.contains(&number) && arguments[2] > 1 {
        arguments[2] /= 2;
    }
}

fn call(number: i64, [a, b, c, d, e, f]: [i64; 6]) -> i64 {
    // SAFETY: these are the arguments with which the program itself made the call (or fewer
    // bytes), or those of a kill. Errno is given back as it was: the program sees the result only.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let done = libc::syscall(number, a, b, c, d, e, f);
        let done = if done == -1 { -i64::from(*errno) } else { done };
        *errno = before;
        done
    }
}
