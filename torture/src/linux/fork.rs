//! Forks of this process.
#![expect(unsafe_code, reason = "there is no safe fork")]

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// A fork. It is waited for, or lives on.
pub struct Fork(Pid);

/// Runs something in a fork, which then ends: with 0, or with 1 if it panicked.
pub fn fork(what: impl FnOnce()) -> Fork {
    // SAFETY: the fork has the calling thread only, and whatever other threads had locked stays
    // locked there. That it runs into such locks is what is tested, and whoever waits bounds it.
    let id = unsafe { libc::fork() };
    if id != 0 {
        return Fork(Pid::from_raw(id).expect("no fork"));
    }
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(what));
    // SAFETY: ends the process at once, without what the parent has registered for its own end.
    unsafe { libc::_exit(i32::from(outcome.is_err())) }
}

impl Fork {
    pub fn id(&self) -> i32 {
        self.0.as_raw_pid()
    }

    /// Its exit code, unless it does not end in time: then it is killed.
    pub fn wait(self, most: Duration) -> Option<i32> {
        let end = Instant::now() + most;
        while Instant::now() < end {
            if let Some((_, status)) = waitpid(Some(self.0), WaitOptions::NOHANG).unwrap() {
                return status.exit_status();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        kill_process(self.0, Signal::KILL).unwrap();
        waitpid(Some(self.0), WaitOptions::empty()).unwrap();
        None
    }
}
