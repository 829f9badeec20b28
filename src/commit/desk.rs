//! A desk: where one task of the store is asked for work, and where calls wait for the answer.

use crate::commit::order::closed;
use crate::error::{Error, Result};
use crate::io::{Io, Next};
use crate::sync::{Mutex, Notify};

/// What is asked of one task, and how far it is with it.
#[derive(Default)]
pub(crate) struct Desk {
    asked: Mutex<Asked>,
    answered: Notify,
}

#[derive(Default)]
struct Asked {
    /// Why nothing will be answered any more.
    over: Option<Error>,
    /// What those who wait need most of.
    want: Want,
    /// Requests so far, and those that have been seen to.
    tickets: u64,
    done: u64,
    /// How often the task has ended its work.
    works: u64,
    failed: Option<Error>,
}

/// What an appender waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Want {
    /// A segment of at least this size; 0: no call waits for one.
    pub(crate) room: u64,
    /// For a batch that only takes away.
    pub(crate) erasing: bool,
}

impl Desk {
    /// Asks for work that no call waits for. `wake` wakes the task.
    pub(crate) fn ask(&self, wake: impl FnOnce() -> Result<()>) {
        self.asked.lock().tickets += 1;
        // Without a thread for it, the call that needs the work says so.
        let _ = wake();
    }

    /// Asks, and waits until the task has seen to it. A call that needs no segment, only that
    /// something is done, waits for the work under way alone.
    ///
    /// # Errors
    /// What went wrong with the work; `Closed` if the task stops; `Poisoned` if it panicked; `Io` if
    /// the system starts no thread for it.
    pub(crate) fn wait(
        &self,
        io: &Io,
        wake: impl FnOnce() -> Result<()>,
        want: Want,
    ) -> Result<()> {
        let (ticket, before) = {
            let mut asked = self.asked.lock();
            asked.want.room = asked.want.room.max(want.room);
            asked.want.erasing |= want.erasing;
            asked.tickets += 1;
            (asked.tickets, asked.works)
        };
        wake()?;
        io.wait_for(&self.answered, || {
            let asked = self.asked.lock();
            if let Some(error) = &asked.over {
                return Some(Err(error.clone()));
            }
            // A segment that is wanted is made in any case: who goes on without it gets it twice.
            if want.room == 0 && asked.works > before && asked.failed.is_none() {
                return Some(Ok(()));
            }
            let done = asked.done >= ticket;
            done.then(|| asked.failed.clone().map_or(Ok(()), Err))
        })
    }

    /// Whether another request has come while the task is at work, or the task is to stop.
    pub(crate) fn is_pressed(&self) -> bool {
        let asked = self.asked.lock();
        asked.tickets > asked.done + 1 || asked.want.room != 0 || asked.over.is_some()
    }

    /// Lets go of the task and of all that wait for it.
    pub(crate) fn stop(&self) {
        self.fail(&closed());
    }

    /// The same, with an error: the task does nothing any more.
    pub(crate) fn fail(&self, error: &Error) {
        self.asked.lock().over.get_or_insert_with(|| error.clone());
        self.answered.notify();
    }

    /// A step of the task: does `work` if it was asked for. True if there is more of it.
    pub(crate) fn serve(&self, work: impl FnOnce(Want) -> Result<bool>) -> Next {
        let (ticket, want) = {
            let mut asked = self.asked.lock();
            if asked.over.is_some() {
                return Next::Ended;
            }
            if asked.tickets == asked.done {
                return Next::Asleep;
            }
            (asked.tickets, std::mem::take(&mut asked.want))
        };
        let outcome = work(want);
        let mut asked = self.asked.lock();
        asked.done = ticket;
        asked.works += 1;
        asked.tickets += u64::from(matches!(outcome, Ok(true)));
        asked.failed = outcome.err();
        let idle = asked.tickets == asked.done && asked.over.is_none();
        drop(asked);
        self.answered.notify();
        if idle { Next::Asleep } else { Next::Again }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::{Desk, Want};
    use crate::error::Error;
    use crate::io::disk;

    #[test]
    fn whoever_waits_looks_again_after_the_work_under_way() {
        let (io, desk) = (disk::system(0o600), Arc::new(Desk::default()));
        let task = io.tasks.make("desk");
        let ((started, start), (go_on, may_go_on)) = (channel(), channel::<()>());
        let (looked, look) = channel();
        let served = Arc::clone(&desk);
        let step = move || {
            served.serve(|_| {
                let _ = started.send(());
                let _ = may_go_on.recv();
                Ok(false)
            })
        };
        let wake = || task.wake().map_err(|e| Error::io("wake", Path::new("desk"), e));
        desk.ask(wake);
        task.start(Box::new(step)).unwrap();
        std::thread::scope(|scope| {
            start.recv().ok();
            let (io, desk) = (&io, &desk);
            scope.spawn(move || looked.send(desk.wait(io, wake, Want::default()).is_ok()));
            while !desk.is_pressed() {
                std::thread::yield_now();
            }
            go_on.send(()).ok();
            start.recv().ok();
            let before_the_next = look.recv_timeout(Duration::from_secs(10));
            go_on.send(()).ok();
            desk.stop();
            let _ = task.wake();
            drop(go_on);
            assert_eq!(before_the_next, Ok(true));
        });
    }
}
