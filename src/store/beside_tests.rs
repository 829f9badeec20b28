//! A reader that opens the store while a writer appends, in the middle of its look.

use std::path::Path;

use crate::batch::NewEntry;
use crate::io::sim::SimDisk;
use crate::options::Options;
use crate::store::gate::{Op, gated};
use crate::types::Maintenance;

const DIR: &str = "/mem";

#[test]
fn what_is_written_while_a_reader_looks_is_no_damage() {
    let disk = SimDisk::new(1);
    let writer = Options::new().maintenance(Maintenance::Manual).open_on(&disk, DIR).unwrap();
    let agent = writer.agent("a").unwrap();
    agent.append(NewEntry::user("first")).unwrap();
    let appended = agent.clone();
    // Between the walk through the frames and the search for what tells of more: frames that say
    // that those before them are durable.
    let io = gated(&disk, move |op, _| {
        if op == Op::Search {
            for _ in 0..3 {
                appended.append(NewEntry::user("more")).unwrap();
            }
        }
        Ok(())
    });
    for _ in 0..20 {
        let before = agent.view().unwrap().next_seq();
        let reading = Options::new().read_only(true);
        let reader = reading.open_with(io.clone(), Path::new(DIR)).unwrap();
        let view = reader.agent("a").unwrap().view().unwrap();
        assert!(view.next_seq() >= before);
        assert!(agent.view().unwrap().next_seq() > before, "it was appended to meanwhile");
        assert_eq!(view.iter().flatten().count() as u64, view.next_seq() - 1);
        assert!(reader.recovery_report().damage.is_empty());
    }
}
