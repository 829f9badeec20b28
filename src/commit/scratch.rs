//! The memory of batches in the making, which is used again.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use crate::commit::prepared::Prepared;

thread_local! {
    /// What the last batch that was made on this thread left. Of the thread and not of the store: to
    /// hand it from thread to thread takes a lock, twice for each append.
    static LEFT: Cell<Option<Box<Prepared>>> = const { Cell::new(None) };
}

/// A batch in the making. Its memory goes back when it is dropped.
pub(crate) struct Scratch(Option<Box<Prepared>>);

impl Scratch {
    pub(crate) fn take() -> Self {
        // A thread that is about to end has none.
        let left = LEFT.try_with(Cell::take).ok().flatten();
        Scratch(Some(left.unwrap_or_else(|| Box::new(Prepared::new()))))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(mut batch) = self.0.take() {
            batch.reset();
            let _ = LEFT.try_with(|left| left.set(Some(batch)));
        }
    }
}

impl Deref for Scratch {
    type Target = Prepared;

    fn deref(&self) -> &Prepared {
        self.0.as_ref().unwrap_or_else(|| unreachable!("taken by the drop only"))
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Prepared {
        self.0.as_mut().unwrap_or_else(|| unreachable!("taken by the drop only"))
    }
}
