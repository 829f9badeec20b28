//! What a purge leaves in the files of a store: no name, prefix, key, value or entry that is dead.
//!
//! Everything that a history puts in carries a mark of its own. After a purge every mark that is in a
//! file has to be one that the store still shows.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod history;
mod shapes;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use memlog::Store;
use memlog::sim::SimDisk;

/// What a mark begins with. A letter follows, for what bears the mark, and sixteen hexadecimal digits.
const MARK: &[u8] = b"~m";
const DIGITS: usize = 17;

type Marks = BTreeSet<String>;

fn mark(sort: char, number: u64) -> String {
    format!("~m{sort}{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The marks in some bytes. Of a mark that was cut short the whole ones are found.
fn marks_in(bytes: &[u8]) -> Marks {
    let mut found = Marks::new();
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == MARK[0]) {
        rest = &rest[at..];
        let digits = rest.get(MARK.len()..MARK.len() + DIGITS).unwrap_or_default();
        // An offset may look like the beginning of a mark.
        if rest.starts_with(MARK)
            && let [b'a'..=b'z', number @ ..] = digits
            && number.iter().all(u8::is_ascii_hexdigit)
        {
            found.insert(String::from_utf8_lossy(digits).into_owned());
        }
        rest = &rest[1..];
    }
    found
}

/// The marks that the store shows: in names, keys, values and entries.
fn shown(store: &Store) -> Marks {
    let mut marks = Marks::new();
    for agent in store.agents("") {
        let agent = agent.unwrap();
        marks.extend(marks_in(agent.name().as_bytes()));
        let view = agent.view().unwrap();
        for entry in view.iter() {
            let entry = entry.unwrap();
            marks.extend(marks_in(entry.payload()));
            marks.extend(marks_in(entry.meta()));
        }
        for state in view.states("") {
            let state = state.unwrap();
            marks.extend(marks_in(state.key().as_bytes()));
            marks.extend(marks_in(state.value()));
        }
    }
    marks
}

/// Holds the files against what the store shows; `Err` has the files with marks of what is dead.
fn check<'f>(
    shown: &Marks,
    files: impl Iterator<Item = (&'f Path, Vec<u8>)>,
) -> Result<(), String> {
    let mut faults = Vec::new();
    for (path, bytes) in files {
        let dead: Vec<String> = marks_in(&bytes).difference(shown).cloned().collect();
        if let Some(first) = dead.first() {
            let needle = [MARK, first.as_bytes()].concat();
            let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap_or(0);
            let around = &bytes[at.saturating_sub(48)..bytes.len().min(at + 80)];
            let text = String::from_utf8_lossy(around).into_owned();
            faults.push(format!(
                "{} of {} bytes has {} marks of the dead, the first at {at}: {text:?}",
                path.display(),
                bytes.len(),
                dead.len(),
            ));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

fn check_sim(disk: &SimDisk, dir: &str, store: &Store) -> Result<(), String> {
    let files = disk.files();
    let ours = files.iter().filter(|file| file.starts_with(dir));
    check(&shown(store), ours.map(|file| (file.as_path(), disk.read_file(file).unwrap())))
}

fn check_dir(dir: &Path, store: &Store) -> Result<(), String> {
    let files: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    // The store's own threads may remove some meanwhile.
    let read = files.iter().filter_map(|file| Some((file.as_path(), fs::read(file).ok()?)));
    check(&shown(store), read)
}

#[test]
fn marks_are_found_wherever_they_lie() {
    for at in 0..40 {
        let mut bytes = vec![MARK[0]; 200];
        bytes[at..at + MARK.len() + DIGITS].copy_from_slice(mark('n', 7).as_bytes());
        let found = marks_in(&bytes);
        assert!(found.contains(&mark('n', 7)[MARK.len()..]), "{at}");
        let none = check(&Marks::new(), [(Path::new("f"), bytes.clone())].into_iter());
        assert!(none.is_err());
        assert_eq!(check(&found, [(Path::new("f"), bytes)].into_iter()), Ok(()));
    }
}
