//! The table in the document.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::Result;
use crate::fault::Fault;
use crate::run::Outcome;

/// The document with the table.
pub(crate) const DOCUMENT: &str = "docs/testing.md";
const BEGIN: &str = "<!-- the faults: written by memlog-planted -->\n";
const END: &str = "<!-- the end of the faults -->";
const HEAD: &str =
    "| fault | what the engine does | in | seen by | after |\n|---|---|---|---|---|\n";

/// The row of a fault.
pub(crate) fn row(fault: &Fault, outcome: &Outcome) -> String {
    let (seen, after) = match outcome {
        Outcome::Survived => ("**NOT SEEN**".to_owned(), String::new()),
        Outcome::Seen(all) => {
            let each = all.iter().map(|seen| match seen.test.strip_prefix('(') {
                Some(_) => format!("`{}` {}", seen.layer, seen.test),
                None => format!("`{}`: `{}`", seen.layer, seen.test),
            });
            let after = all.first().map_or(0.0, |seen| seen.seconds);
            (each.collect::<Vec<_>>().join(", "), format!("{after:.1} s"))
        }
    };
    let file = fault.file().trim_start_matches("src/");
    format!("| `{}` | {} | `{file}` | {seen} | {after} |", fault.id, fault.sentence)
}

/// The rows of the document, by their faults.
pub(crate) fn rows(document: &str) -> Result<Vec<(String, String)>> {
    let (_, table, _) = parts(document)?;
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let id = |row: &str| row.split('`').nth(1).unwrap_or_default().to_owned();
    Ok(rows.map(|row| (id(row), row.to_owned())).collect())
}

fn parts(document: &str) -> Result<(&str, &str, &str)> {
    let lacks = || format!("{DOCUMENT} has no place for the table");
    let (before, rest) = document.split_once(BEGIN).ok_or_else(lacks)?;
    let (table, behind) = rest.split_once(END).ok_or_else(lacks)?;
    Ok((before, table, behind))
}

/// Writes the row of what was run; those of other faults stay, and those of no fault go.
pub(crate) fn write(root: &Path, faults: &[Fault], run: &Fault, outcome: &Outcome) -> Result<()> {
    let path = root.join(DOCUMENT);
    let document = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut known: BTreeMap<String, String> = rows(&document)?.into_iter().collect();
    known.insert(run.id.clone(), row(run, outcome));
    let (before, _, behind) = parts(&document)?;
    let mut table = String::from(HEAD);
    for row in faults.iter().filter_map(|fault| known.get(&fault.id)) {
        table += row;
        table.push('\n');
    }
    fs::write(&path, format!("{before}{BEGIN}\n{table}\n{END}{behind}"))
        .map_err(|e| format!("{}: {e}", path.display()))
}
