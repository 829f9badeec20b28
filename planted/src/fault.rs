//! The faults, and the files that they are kept in.

use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::Result;
use crate::layers::{self, Layer};

/// A deliberate fault.
pub(crate) struct Fault {
    pub(crate) id: String,
    /// What the engine does with it that it must not do.
    pub(crate) sentence: String,
    /// The layers that are expected to see it, each with the test that is enough.
    pub(crate) expected: Vec<Expected>,
    pub(crate) edits: Vec<Edit>,
}

/// A layer that is expected to see a fault, and a filter for its tests; empty: all of them.
pub(crate) struct Expected {
    pub(crate) layer: &'static Layer,
    pub(crate) filter: String,
}

/// A piece of a source file, and what is in its place where the fault is. Of what is found only that
/// between « and » is edited, if there are any.
pub(crate) struct Edit {
    pub(crate) file: String,
    pub(crate) find: String,
    pub(crate) put: String,
}

impl Fault {
    /// The file that it is in.
    pub(crate) fn file(&self) -> &str {
        self.edits.first().map_or("", |edit| &edit.file)
    }
}

/// All faults, in the order of their files' names.
pub(crate) fn all(root: &Path) -> Result<Vec<Fault>> {
    let folder = root.join("planted/faults");
    let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut faults: Vec<Fault> = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let read = parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        faults.extend(read);
    }
    for (at, fault) in faults.iter().enumerate() {
        if faults.iter().skip(at + 1).any(|other| other.id == fault.id) {
            return Err(format!("there are two faults {}", fault.id));
        }
    }
    Ok(faults)
}

/// Reads a file of faults: `fault:` and an id, a sentence, `layer:` and `file:` lines, and edits
/// as lines between `find:`, `put:` and `end:`. Lines that begin with `#` are for people.
fn parse(text: &str) -> Result<Vec<Fault>> {
    let mut faults: Vec<Fault> = Vec::new();
    let mut file = String::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        let line = line.trim();
        if let Some(id) = line.strip_prefix("fault:") {
            let id = id.trim().to_owned();
            let (sentence, expected, edits) = (String::new(), Vec::new(), Vec::new());
            faults.push(Fault { id, sentence, expected, edits });
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fault = faults.last_mut().ok_or_else(|| wrong("no fault has begun"))?;
        if let Some(layer) = line.strip_prefix("layer:") {
            let (name, filter) = layer.trim().split_once(' ').unwrap_or((layer.trim(), ""));
            let layer = layers::named(name).ok_or_else(|| wrong("there is no such layer"))?;
            fault.expected.push(Expected { layer, filter: filter.trim().to_owned() });
        } else if let Some(name) = line.strip_prefix("file:") {
            name.trim().clone_into(&mut file);
        } else if line == "find:" {
            let mut until = |end: &str| {
                let lines = lines.by_ref().map(|(_, line)| line);
                lines.take_while(|line| line.trim() != end).collect::<Vec<_>>().join("\n")
            };
            let (find, put) = (until("put:"), until("end:"));
            fault.edits.push(Edit { file: file.clone(), find, put });
        } else if fault.sentence.is_empty() {
            line.clone_into(&mut fault.sentence);
        } else {
            return Err(wrong("it is neither a sentence nor an edit"));
        }
    }
    let is_whole = |fault: &&Fault| !fault.sentence.is_empty() && !fault.edits.is_empty();
    match faults.iter().find(|fault| !is_whole(fault)) {
        Some(fault) => Err(format!("{} has no sentence or no edit", fault.id)),
        None => Ok(faults),
    }
}

impl Edit {
    /// Where it applies in the text of its file.
    ///
    /// # Errors
    /// If it does so nowhere, or in several places.
    pub(crate) fn place(&self, text: &str) -> Result<Range<usize>> {
        let (before, rest) = self.find.split_once('«').unwrap_or(("", &self.find));
        let (edited, behind) = rest.split_once('»').unwrap_or((rest, ""));
        let all = places(text, &format!("{before}{edited}{behind}"));
        let within = |place: &Range<usize>| {
            let inner = places(text.get(place.clone()).unwrap_or_default(), edited);
            inner.first().map(|at| place.start + at.start..place.start + at.end)
        };
        match all.as_slice() {
            [place] => within(place).ok_or_else(|| format!("{}: no such place", self.file)),
            _ => Err(format!("{} times in {}: {}", all.len(), self.file, self.find.trim())),
        }
    }
}

/// Where the words of `find` stand one behind the other in `text`, however they are spaced.
fn places(text: &str, find: &str) -> Vec<Range<usize>> {
    let words: Vec<&str> = find.split_whitespace().collect();
    let Some(first) = words.first() else { return Vec::new() };
    let whole = |(start, _): (usize, &str)| {
        let mut end = start;
        for (number, word) in words.iter().enumerate() {
            let rest = text.get(end..)?;
            let spaced = rest.trim_start();
            if number > 0 && spaced.len() == rest.len() {
                return None;
            }
            end = text.len() - spaced.strip_prefix(word)?.len();
        }
        Some(start..end)
    };
    text.match_indices(first).filter_map(whole).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{table, tree};

    #[test]
    fn every_fault_applies_to_one_place_and_no_two_to_parts_of_the_same() {
        let root = tree::root();
        let faults = all(&root).unwrap();
        assert!(faults.len() >= 50, "{} faults", faults.len());
        let mut taken: BTreeMap<&str, Vec<(Range<usize>, &str)>> = BTreeMap::new();
        let mut wrong = Vec::new();
        for fault in &faults {
            for edit in &fault.edits {
                let is_planted = ["src/", "cli/src/"].iter().any(|dir| edit.file.starts_with(dir));
                assert!(is_planted, "{}: {}", fault.id, edit.file);
                let text = fs::read_to_string(root.join(&edit.file)).unwrap();
                let place = match edit.place(&text) {
                    Ok(place) => place,
                    Err(error) => {
                        wrong.push(format!("{}: {error}", fault.id));
                        continue;
                    }
                };
                let others = taken.entry(&edit.file).or_default();
                for (other, id) in others.iter() {
                    let apart = place.end <= other.start || other.end <= place.start;
                    if !apart && place != *other {
                        wrong.push(format!("{} and {id} edit parts of the same place", fault.id));
                    }
                }
                others.push((place, &fault.id));
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    #[test]
    fn the_document_has_a_row_for_every_fault_and_each_was_seen() {
        let root = tree::root();
        let faults = all(&root).unwrap();
        let text = fs::read_to_string(root.join(table::DOCUMENT)).unwrap();
        let rows = table::rows(&text).unwrap();
        let ids: Vec<&str> = rows.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, faults.iter().map(|fault| fault.id.as_str()).collect::<Vec<_>>());
        let unseen: Vec<_> = rows.iter().filter(|(_, row)| row.contains("NOT SEEN")).collect();
        assert!(unseen.is_empty(), "{unseen:?}");
    }

    #[test]
    fn words_are_found_however_they_are_spaced() {
        let text = "a b\n   c; ab c; a b c;";
        assert_eq!(places(text, "a b c;"), [0..9, 16..22]);
        assert_eq!(places(text, " b\n c; "), [2..9, 11..15, 18..22]);
        assert_eq!(places(text, "x"), []);
    }
}
