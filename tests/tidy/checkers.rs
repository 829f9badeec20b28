//! The checkers themselves: they can fail.

use super::Source;
use super::lexer::blanked;
use super::rules::*;

fn floors(path: &str, text: &str) -> Vec<String> {
    against_floors(&Source::new(path, text)).into_iter().map(|(_, module)| module).collect()
}

#[test]
fn imports_from_above_are_seen_however_they_are_written() {
    let seen = [
        "use crate::commit::Engine;",
        "use crate::{types::Lsn, commit::Engine};",
        "use crate::{error::{Error, Result}, types, commit::{log::Log as Engine}};",
        "use super::super::commit::Engine;",
        "fn f() -> crate::commit::Engine { g() }",
        "mod tests { use super::super::super::commit::Engine; }",
        "mod outer { mod inner { use crate::commit; } }",
    ];
    for text in seen {
        assert_eq!(floors("src/segment/scan.rs", text), ["commit"], "{text}");
    }
}

#[test]
fn each_branch_of_a_tree_counts() {
    let text = "use crate::{error::{Error, Result}, commit::{self as engine, log::Log}};";
    assert_eq!(floors("src/segment/scan.rs", text), ["commit", "commit"]);
}

#[test]
fn imports_from_below_and_from_home_are_fine() {
    let text = "
        use crate::{error::Error, types::Lsn, format::{self, frame::{Link, FRAME_LEN}}};
        use super::writer::LogFile; use self::deeper::Thing; use std::sync::Arc;
        // use crate::commit::Engine;
        /* use crate::commit::Engine; /* nested */ */
        const TEXT: &str = \"crate::commit::Engine\"; const RAW: &str = r#\"crate::commit\"#;
        mod tests { use super::*; use super::super::Segment; }";
    assert_eq!(floors("src/segment/scan.rs", text), Vec::<String>::new());
    assert_eq!(floors("src/lib.rs", "mod commit; pub use commit::Engine;"), Vec::<String>::new());
}

#[test]
fn siblings_strangers_and_the_root_are_refused() {
    assert_eq!(floors("src/format/frame.rs", "use crate::io::Io;"), ["io"]);
    assert_eq!(
        floors("src/io/disk.rs", "use crate::error::Result; use crate::format;"),
        ["format"]
    );
    assert_eq!(floors("src/catalog/mod.rs", "use crate::io::Io;"), ["io"]);
    assert_eq!(floors("src/commit/log.rs", "use crate::recovery::open;"), ["recovery"]);
    assert_eq!(floors("src/commit/log.rs", "use crate::Store;"), ["Store"]);
    assert_eq!(floors("src/types.rs", "use crate::error::Error;"), ["error"]);
    assert_eq!(floors("src/error.rs", "use crate::types::Lsn;"), Vec::<String>::new());
    assert_eq!(floors("src/view.rs", "use crate::{store::Store, agent};"), Vec::<String>::new());
}

#[test]
fn files_clocks_and_randomness_are_seen() {
    let seen = [
        "use std::fs::File;",
        "use std::{io, fs};",
        "let t = std::time::Instant::now();",
        "use std::time::{Duration, Instant};",
        "let t = SystemTime::now();",
        "std::thread::sleep(d);",
        "use std::thread; fn f() { thread::sleep(d) }",
        "use rand::Rng;",
        "let n = getrandom::u64();",
        "use std::hash::RandomState;",
    ];
    for text in seen {
        assert_eq!(impure(&Source::new("src/view.rs", text)).len(), 1, "{text}");
    }
    let fine = "use std::time::{Duration, SystemTime}; fn f(t: SystemTime) {} // Instant::now()";
    assert!(impure(&Source::new("src/view.rs", fine)).is_empty());
}

#[test]
fn random_hash_tables_are_seen() {
    let seen = |text| random_hashes(&Source::new("src/view.rs", text)).len();
    assert_eq!(seen("struct A { b: RwLock<HashMap<Box<str>, Vec<u64>>> }"), 1);
    assert_eq!(seen("let a: HashSet<u64> = HashSet::new();"), 2);
    assert_eq!(seen("struct A { b: HashMap<(u8, u8), fn(u8) -> u8> }"), 1);
    assert_eq!(seen("struct A { b: HashMap<K, V, BuildHasherDefault<H>> }"), 0);
    assert_eq!(seen("use std::collections::{BTreeMap, HashMap};"), 0);
}

#[test]
fn unsafe_and_leftovers_are_seen() {
    let source = Source::new("src/view.rs", "fn f() {\n unsafe { g() }\n todo!();\n dbg!(1);\n}");
    assert_eq!(words(&source, &["unsafe"]), [2]);
    assert_eq!(macros(&source, &["todo", "unimplemented", "dbg"]), [3, 4]);
    let fine = "// unsafe\n#![deny(unsafe_op_in_unsafe_fn)] let todo = \"todo!()\"; let c = '\"';";
    let source = Source::new("src/view.rs", fine);
    assert!(words(&source, &["unsafe"]).is_empty());
    assert!(macros(&source, &["todo", "dbg"]).is_empty());
}

#[test]
fn long_functions_are_measured() {
    let text = "trait T { fn none(&self); }\nfn long<'a>(x: &'a str) -> [u8; 2] {\n let c = '{';\n g(|| { 1 });\n}\nfn short() {}\n";
    let source = Source::new("src/view.rs", text);
    assert_eq!(long_functions(&source, 3), [(2, "long".to_owned(), 4)]);
    assert!(long_functions(&source, 4).is_empty());
}

#[test]
fn only_code_is_left() {
    let text = "a /* b */ \"c\\\"\" 'd' '\\'' 'e r#\"f\"# // g\nh b\"i\" 'static";
    let left: String = blanked(text).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(left, "a 'e h b 'static");
    assert_eq!(blanked(text).len(), text.len());
}
