//! The main job in small.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use memlog::*;

#[test]
fn append_close_reopen_load() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mem");
    for round in 0..3u64 {
        let store = Store::open(&path).unwrap();
        for a in 0..50 {
            let agent = store.agent(&format!("t/{a}")).unwrap();
            for i in 0..20u64 {
                let seq = agent.append(NewEntry::user(&format!("{a} {i}"))).unwrap();
                assert_eq!(seq, round * 20 + i + 1);
            }
        }
        let view = store.agent("t/7").unwrap().view().unwrap();
        assert_eq!(view.iter().count() as u64, (round + 1) * 20);
        assert_eq!(store.agents("t/").count(), 50);
        assert!(store.verify().unwrap().is_empty());
        store.close().unwrap();
    }
}

#[test]
fn seals_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mem");
    let store = Options::new().durability(Durability::Buffer).open(&path).unwrap();
    let text = "x".repeat(2000);
    for i in 0..20_000u64 {
        let agent = store.agent(&format!("t/{}", i % 100)).unwrap();
        agent.append(NewEntry::user(&text)).unwrap();
    }
    for a in 0..100 {
        let view = store.agent(&format!("t/{a}")).unwrap().view().unwrap();
        assert_eq!(
            view.iter().map(|e| e.unwrap().seq()).collect::<Vec<_>>(),
            (1..=200).collect::<Vec<_>>()
        );
    }
    assert!(store.verify().unwrap().is_empty());
    drop(store);
    let store = Options::new().open(&path).unwrap();
    for a in 0..100 {
        let view = store.agent(&format!("t/{a}")).unwrap().view().unwrap();
        assert_eq!(
            view.iter().map(|e| e.unwrap().seq()).collect::<Vec<_>>(),
            (1..=200).collect::<Vec<_>>()
        );
    }
    store.close().unwrap();
}
