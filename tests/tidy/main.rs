//! The rules of the house that the compiler does not know: who may import whom, what only the I/O
//! floor may touch, and how long files and functions may get.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod checkers;
mod lexer;
mod rules;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lexer::blanked;
use rules::{against_floors, floor, impure, long_functions, macros, random_hashes, words};

/// The floors of the crate, as `docs/architecture.md` has them: a module imports only from lower
/// floors.
const FLOORS: &[(u8, &[&str])] = &[
    (7, &["store", "agent", "batch", "view", "verify", "repair", "holes"]),
    (6, &["compaction"]),
    (5, &["recovery", "snapshot"]),
    (4, &["commit", "retention"]),
    (3, &["catalog", "entry"]),
    (2, &["segment", "manifest"]),
    (1, &["format", "io"]),
    (0, &["error", "options", "types", "sync"]),
];

/// The face is one floor whose modules know each other.
const FACE: u8 = 7;

/// Imports within a floor that are sound: the small values that everybody speaks of.
const SIBLINGS: &[(&str, &str)] = &[("error", "types"), ("options", "types")];

/// Imports that the floors would allow, and that are forbidden all the same.
const STRANGERS: &[(&str, &str)] =
    &[("catalog", "io"), ("entry", "io"), ("retention", "io"), ("snapshot", "io")];

/// Imports against the floors that are known and to be mended: file and module. One that is gone
/// must leave this list.
const KNOWN: &[(&str, &str)] = &[];

/// The one file with `unsafe`.
const UNSAFE: &str = "src/io/map.rs";
/// Where there is code.
const EVERYTHING: &[&str] = &[
    "src",
    "cli/src",
    "cli/tests",
    "planted/src",
    "torture/src",
    "torture/tests",
    "peers/src",
    "tests",
    "benches",
    "examples",
];
const LONGEST_FILE: usize = 600;
const LONGEST_FUNCTION: usize = 70;

/// A source file, by its path from the root of the repository.
struct Source {
    path: String,
    text: String,
    /// The text with comments, strings and characters blanked out, line by line the same.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Source { path: path.to_owned(), text: text.to_owned(), code: blanked(text) }
    }

    /// The names of the modules from the root of the crate to this file.
    fn module(&self) -> Vec<String> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let parts = inner.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
        parts.map(str::to_owned).collect()
    }

    fn is_io(&self) -> bool {
        self.path.starts_with("src/io/")
    }
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in folders {
        gather(&root.join(folder), &mut found);
    }
    found.sort();
    let relative = |path: &Path| {
        let names = path.strip_prefix(root).unwrap().components();
        names.map(|name| name.as_os_str().to_str().unwrap()).collect::<Vec<_>>().join("/")
    };
    found
        .iter()
        .map(|path| Source::new(&relative(path), &fs::read_to_string(path).unwrap()))
        .collect()
}

fn gather(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            gather(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn assert_tidy(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn modules_import_only_from_lower_floors() {
    let (mut faults, mut met) = (Vec::new(), BTreeSet::new());
    for source in sources(&["src"]) {
        for (line, module) in against_floors(&source) {
            let known = KNOWN.iter().find(|(path, to)| *path == source.path && *to == module);
            match known {
                Some(exception) => drop(met.insert(exception)),
                None => faults.push(format!("{}:{line} must not know `{module}`", source.path)),
            }
        }
    }
    for gone in KNOWN.iter().filter(|exception| !met.contains(exception)) {
        faults
            .push(format!("{gone:?} is no exception any more: take it off KNOWN in tests/tidy.rs"));
    }
    assert_tidy(&faults);
}

#[test]
fn every_module_has_a_floor() {
    for source in sources(&["src"]) {
        if let Some(module) = source.module().first() {
            assert!(floor(module).is_some(), "{} is on no floor", source.path);
        }
    }
}

#[test]
fn the_document_has_the_same_floors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let document = fs::read_to_string(path).unwrap();
    let (_, behind) = document.split_once("| floor | modules |").unwrap();
    let rows = behind.lines().skip(2).take_while(|line| line.starts_with('|'));
    let documented: Vec<(u8, BTreeSet<&str>)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let modules = cells[2].split(',').map(|name| name.trim().trim_matches('`'));
            (cells[1].parse().unwrap(), modules.collect())
        })
        .collect();
    let mine = FLOORS.iter().map(|(floor, modules)| (*floor, modules.iter().copied().collect()));
    assert_eq!(documented, mine.collect::<Vec<_>>());
}

#[test]
fn unsafe_code_is_in_one_file() {
    let mut faults = Vec::new();
    for source in sources(&["src", "cli/src"]).iter().filter(|source| source.path != UNSAFE) {
        let lines = words(source, &["unsafe"]);
        faults.extend(lines.iter().map(|line| format!("{}:{line} unsafe", source.path)));
    }
    assert_tidy(&faults);
}

#[test]
fn files_clocks_and_randomness_stay_behind_the_io_floor() {
    let mut faults = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| !source.is_io()) {
        for (line, path) in impure(source) {
            faults.push(format!("{}:{line} {path} belongs into src/io", source.path));
        }
        let hashes = random_hashes(source);
        for line in &hashes {
            faults.push(format!("{}:{line} a hash table with a random order", source.path));
        }
    }
    assert_tidy(&faults);
}

#[test]
fn files_and_functions_are_short() {
    let mut faults = Vec::new();
    for source in sources(EVERYTHING) {
        let lines = source.text.lines().count();
        if lines > LONGEST_FILE {
            faults.push(format!("{} has {lines} lines, more than {LONGEST_FILE}", source.path));
        }
        let held = ["src/", "cli/src/", "planted/src/", "torture/src/", "peers/src/"];
        if !held.iter().any(|folder| source.path.starts_with(folder)) {
            continue;
        }
        for (line, name, len) in long_functions(&source, LONGEST_FUNCTION) {
            let what = format!("fn {name} has {len} lines, more than {LONGEST_FUNCTION}");
            faults.push(format!("{}:{line} {what}", source.path));
        }
    }
    assert_tidy(&faults);
}

#[test]
fn nothing_is_left_to_do() {
    let mut faults = Vec::new();
    for source in sources(EVERYTHING) {
        let lines = macros(&source, &["todo", "unimplemented", "dbg"]);
        faults.extend(lines.iter().map(|line| format!("{}:{line} left to do", source.path)));
    }
    assert_tidy(&faults);
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_readme_says_what_to_do_about_every_error() {
    let (code, readme) = (read("src/error.rs"), read("README.md"));
    let (_, behind) = code.split_once("pub enum ErrorKind {").unwrap();
    let (body, _) = behind.split_once("\n}").unwrap();
    let kinds = body.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let kinds: Vec<&str> = kinds.filter_map(|line| line.strip_suffix(',')).collect();
    assert!(kinds.len() >= 15, "{kinds:?}");
    for kind in kinds {
        assert!(readme.contains(&format!("\n| `{kind}` |")), "the README lacks {kind}");
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let (manifest, document) = (read("Cargo.toml"), read("docs/architecture.md"));
    let (_, behind) = manifest.split_once("\n[dependencies]\n").unwrap();
    let lines = behind.lines().take_while(|line| !line.starts_with('['));
    let names: Vec<&str> = lines.filter_map(|line| Some(line.split_once(" =")?.0)).collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(document.contains(&format!("\n| `{name}` |")), "no line on {name}");
    }
}
