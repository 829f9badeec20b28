//! A desk: where one thread of the store is asked for work, and whoever asked waits for the answer.

use crate::commit::order::closed;
use crate::error::{Error, Result};
use crate::sync::{Condvar, Mutex};

/// What is asked of one thread, and how far it is with it.
#[derive(Default)]
pub(crate) struct Desk {
    asked: Mutex<Asked>,
    wanted: Condvar,
    answered: Condvar,
}

#[derive(Default)]
struct Asked {
    stop: bool,
    /// What those who wait need most of.
    want: Want,
    /// Requests so far, and those that have been seen to.
    tickets: u64,
    done: u64,
    /// How often the thread has ended its work.
    works: u64,
    failed: Option<Error>,
}

/// What an appender waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Want {
    /// A segment of at least this size; 0: nobody waits for one.
    pub(crate) room: u64,
    /// For a batch that only takes away.
    pub(crate) erasing: bool,
}

impl Desk {
    /// Asks for work that nobody waits for.
    pub(crate) fn ask(&self) {
        self.asked.lock().tickets += 1;
        self.wanted.notify_one();
    }

    /// Asks, and waits until the thread has seen to it. Who needs no segment, but that something is
    /// done, waits for the work under way only.
    ///
    /// # Errors
    /// What went wrong with the work; `Closed` if the thread stops.
    pub(crate) fn wait(&self, want: Want) -> Result<()> {
        let mut asked = self.asked.lock();
        asked.want.room = asked.want.room.max(want.room);
        asked.want.erasing |= want.erasing;
        asked.tickets += 1;
        let (ticket, before) = (asked.tickets, asked.works);
        self.wanted.notify_one();
        while asked.done < ticket && !asked.stop {
            // A segment that is wanted is made in any case: who goes on without it gets it twice.
            if want.room == 0 && asked.works > before && asked.failed.is_none() {
                return Ok(());
            }
            self.answered.wait(&mut asked);
        }
        if asked.stop {
            return Err(closed());
        }
        asked.failed.clone().map_or(Ok(()), Err)
    }

    /// Whether somebody has come while the thread is at work, or it is to stop.
    pub(crate) fn is_pressed(&self) -> bool {
        let asked = self.asked.lock();
        asked.tickets > asked.done + 1 || asked.want.room != 0 || asked.stop
    }

    /// Lets go of everybody: the thread, and those who wait for it.
    pub(crate) fn stop(&self) {
        self.asked.lock().stop = true;
        self.wanted.notify_one();
        self.answered.notify_all();
    }

    /// The thread's life: does `work` whenever it is asked, and again while that says that there is
    /// more.
    pub(crate) fn serve(&self, mut work: impl FnMut(Want) -> Result<bool>) {
        loop {
            let (ticket, want) = {
                let mut asked = self.asked.lock();
                while asked.tickets == asked.done && !asked.stop {
                    self.wanted.wait(&mut asked);
                }
                if asked.stop {
                    return;
                }
                (asked.tickets, std::mem::take(&mut asked.want))
            };
            let outcome = work(want);
            let mut asked = self.asked.lock();
            asked.done = ticket;
            asked.works += 1;
            asked.tickets += u64::from(matches!(outcome, Ok(true)));
            asked.failed = outcome.err();
            self.answered.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::{Desk, Want};

    #[test]
    fn whoever_waits_looks_again_after_the_work_under_way() {
        let desk = &Desk::default();
        let ((started, start), (go_on, may_go_on)) = (channel(), channel::<()>());
        let (looked, look) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                desk.serve(|_| {
                    let _ = started.send(());
                    let _ = may_go_on.recv();
                    Ok(false)
                });
            });
            desk.ask();
            start.recv().ok();
            scope.spawn(move || looked.send(desk.wait(Want::default()).is_ok()));
            while !desk.is_pressed() {
                std::thread::yield_now();
            }
            go_on.send(()).ok();
            start.recv().ok();
            let before_the_next = look.recv_timeout(Duration::from_secs(10));
            go_on.send(()).ok();
            desk.stop();
            drop(go_on);
            assert_eq!(before_the_next, Ok(true));
        });
    }
}
