//! Wakers are somebody else's code, which runs on threads of the store: whatever it does, panics
//! included, the store goes on.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use memlog::{Commit, Durability, ErrorKind, NewEntry, Store};

const LONG: Duration = Duration::from_secs(20);

/// Calls a function when it is woken first.
struct Call<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send> Wake for Call<F> {
    fn wake(self: Arc<Self>) {
        let call = self.0.lock().unwrap().take();
        call.into_iter().for_each(|call| call());
    }
}

/// Polls a commit with a waker that makes that call. False if it had nothing to wait for.
fn waits(commit: &mut Commit, call: impl FnOnce() + Send + 'static) -> bool {
    let waker = Waker::from(Arc::new(Call(Mutex::new(Some(call)))));
    Pin::new(commit).poll(&mut Context::from_waker(&waker)).is_pending()
}

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("mem")).unwrap();
    (dir, store)
}

/// Submits entries until the disk is slower than the poll.
fn waiting(store: &Store, call: impl FnOnce() + Clone + Send + 'static) -> Commit {
    let agent = store.agent("submitted").unwrap();
    loop {
        let mut commit = store.batch().append(&agent, NewEntry::user("x")).submit();
        if waits(&mut commit, call.clone()) {
            return commit;
        }
    }
}

/// Whether a commit that is submitted now wakes the one who waits for it.
fn wakes(store: &Store) -> bool {
    let (woken, is_woken) = channel();
    let _commit = waiting(store, move || {
        let _ = woken.send(());
    });
    is_woken.recv_timeout(LONG).is_ok()
}

#[test]
fn a_waker_that_panics_stops_neither_the_log_nor_other_wakers() {
    let (_dir, store) = open();
    let (woken, is_woken) = channel();
    let panicking = waiting(&store, move || {
        let _ = woken.send(());
        panic!("a waker's");
    });
    is_woken.recv_timeout(LONG).unwrap();
    assert!(wakes(&store));
    panicking.wait().unwrap();
    store.close().unwrap();
}

/// Keeps the log thread in a waker until the sender goes, so that others must lead.
fn keep_log_thread(store: &Store) -> (Commit, std::sync::mpsc::Sender<()>) {
    let (inside, is_inside) = channel();
    let (go, gate) = channel::<()>();
    let gate: Arc<Mutex<Receiver<()>>> = Arc::new(Mutex::new(gate));
    let kept = waiting(store, move || {
        let _ = inside.send(());
        let _ = gate.lock().unwrap().recv_timeout(LONG);
    });
    is_inside.recv_timeout(LONG).unwrap();
    (kept, go)
}

#[test]
fn a_waker_may_commit() {
    let (_dir, store) = open();
    let (_kept, go) = keep_log_thread(&store);
    let agent = store.agent("a").unwrap();
    let other = store.agent("b").unwrap();
    let mut batch = store.batch();
    batch.append(&agent, NewEntry::user("w")).durability(Durability::Write);
    let mut commit = batch.submit();
    assert!(waits(&mut commit, move || drop(other.append(NewEntry::user("from a waker")))));
    // This flush takes the batch along, and wakes the one who waits for it.
    let (done, is_done) = channel();
    let third = store.agent("c").unwrap();
    let appending = std::thread::spawn(move || done.send(third.append(NewEntry::user("m"))));
    let outcome = is_done.recv_timeout(LONG / 4);
    drop(go);
    if outcome.is_err() {
        // Nothing of the store ends any more.
        std::mem::forget((store, agent, batch, commit, _kept));
        panic!("the leader waits for itself");
    }
    assert_eq!(outcome.unwrap().unwrap(), 1);
    appending.join().unwrap().unwrap();
    assert_eq!(store.agent("b").unwrap().view().unwrap().next_seq(), 2);
}

#[test]
fn a_waker_may_close_the_store() {
    let (_dir, store) = open();
    let (closed, is_closed) = channel();
    let clone = store.clone();
    let commit = waiting(&store, move || drop(closed.send(clone.close())));
    is_closed.recv_timeout(LONG).unwrap().unwrap();
    commit.wait().unwrap();
    assert_eq!(store.sync().unwrap_err().kind(), ErrorKind::Closed);
}

/// Holds back the thread that drops it last, for a moment: it must not be one that others wait for.
#[test]
fn the_last_handle_may_go_in_a_waker() {
    let (dir, store) = open();
    let (gone, is_gone) = channel();
    let (give, given) = channel::<(Store, Commit)>();
    let given = Arc::new(Mutex::new(given));
    let commit = waiting(&store, move || {
        let last = given.lock().unwrap().recv_timeout(LONG).unwrap();
        let since = Instant::now();
        drop(last);
        let _ = gone.send(since.elapsed());
    });
    give.send((store, commit)).unwrap();
    is_gone.recv_timeout(LONG).unwrap();
    // The store is closed in a while, and cleanly.
    let since = Instant::now();
    let store = loop {
        match Store::open(dir.path().join("mem")) {
            Ok(store) => break store,
            Err(error) if error.kind() == ErrorKind::InUse && since.elapsed() < LONG => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(store.recovery_report().frames_kept, 0);
    assert!(store.agent("submitted").unwrap().view().unwrap().next_seq() > 1);
}
