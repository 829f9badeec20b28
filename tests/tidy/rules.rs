//! The rules, each a function from a source file to what is wrong with it.

use super::lexer::tokens;
use super::{FACE, FLOORS, SIBLINGS, STRANGERS, Source};

/// Every path in the code, with its line: of `use` trees each branch, whole from the crate's root.
fn paths(source: &Source) -> Vec<(usize, Vec<String>)> {
    let tokens = tokens(&source.code);
    let mut out = Vec::new();
    let mut inner: Vec<Option<String>> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (line, token) = tokens[at];
        let word = |i: usize| tokens.get(i).map_or("", |(_, token)| *token);
        match token {
            "{" => inner.push(None),
            "}" => {
                inner.pop();
            }
            "mod" if word(at + 2) == "{" => {
                inner.push(Some(word(at + 1).to_owned()));
                at += 3;
                continue;
            }
            _ => {}
        }
        let begins = is_name(token) && (word(at + 1) == "::" || word(at.wrapping_sub(1)) == "use");
        if begins && word(at.wrapping_sub(1)) != "::" {
            let mut module = source.module();
            module.extend(inner.iter().flatten().cloned());
            let (branches, next) = tree(&tokens, at);
            out.extend(branches.into_iter().map(|path| (line, absolute(path, module.clone()))));
            at = next;
            continue;
        }
        at += 1;
    }
    out
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The branches of the path or `use` tree that begins at `at`, and where it ends.
fn tree(tokens: &[(usize, &str)], mut at: usize) -> (Vec<Vec<String>>, usize) {
    let word = |i: usize| tokens.get(i).map_or("", |(_, token)| *token);
    let mut stem = Vec::new();
    loop {
        if word(at) == "{" {
            let mut branches = Vec::new();
            at += 1;
            while at < tokens.len() && word(at) != "}" {
                if !is_name(word(at)) && word(at) != "{" {
                    at += 1;
                    continue;
                }
                let (found, next) = tree(tokens, at);
                branches.extend(found.into_iter().map(|path| [stem.clone(), path].concat()));
                at = next;
                if word(at) == "as" {
                    at += 2;
                }
            }
            return (branches, at + 1);
        }
        if !is_name(word(at)) {
            return (vec![stem], at);
        }
        stem.push(word(at).to_owned());
        if word(at + 1) != "::" {
            return (vec![stem], at + 1);
        }
        at += 2;
    }
}

/// Resolves `self`, `super` and `crate`; other paths stay as they are.
fn absolute(path: Vec<String>, mut module: Vec<String>) -> Vec<String> {
    let mut rest = path.as_slice();
    match path[0].as_str() {
        "crate" => module.clear(),
        "self" | "super" => {}
        _ => return path,
    }
    while let Some((first, behind)) = rest.split_first() {
        match first.as_str() {
            "super" => {
                module.pop();
            }
            "self" | "crate" => {}
            _ => break,
        }
        rest = behind;
    }
    let mut out = vec!["crate".to_owned()];
    out.append(&mut module);
    out.extend_from_slice(rest);
    out
}

pub(crate) fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

/// Whether one module of the crate may import another.
fn may_import(from: &str, to: &str) -> bool {
    let (Some(here), Some(there)) = (floor(from), floor(to)) else { return false };
    if STRANGERS.contains(&(from, to)) {
        return false;
    }
    from == to || there < here || (here == FACE && there == FACE) || SIBLINGS.contains(&(from, to))
}

/// The imports against the floors: line, and the module that ought not to be known.
pub(crate) fn against_floors(source: &Source) -> Vec<(usize, String)> {
    let module = source.module();
    // The root of the crate only says what there is.
    let Some(from) = module.first() else { return Vec::new() };
    let mut found = Vec::new();
    for (line, path) in paths(source) {
        if path[0] != "crate" {
            continue;
        }
        let Some(to) = path.get(1) else { continue };
        // What is no module is an item of the crate's root: the public face.
        let may =
            if floor(to).is_some() { may_import(from, to) } else { floor(from) == Some(FACE) };
        if !may {
            found.push((line, to.to_owned()));
        }
    }
    found
}

/// What only the I/O floor may use: files, clocks, randomness.
pub(crate) fn impure(source: &Source) -> Vec<(usize, String)> {
    const WHOLE: &[&[&str]] = &[
        &["std", "fs"],
        &["std", "time", "Instant"],
        &["std", "thread", "sleep"],
        &["std", "hash", "RandomState"],
        &["std", "collections", "hash_map", "RandomState"],
        &["std", "hash", "DefaultHasher"],
        &["rand"],
        &["getrandom"],
        &["rustix"],
        &["memmap2"],
        &["Instant", "now"],
        &["SystemTime", "now"],
        &["std", "time", "SystemTime", "now"],
        &["thread", "sleep"],
        &["fs"],
    ];
    let starts = |path: &[String], whole: &[&str]| {
        path.len() >= whole.len() && path.iter().zip(whole).all(|(part, wanted)| part == wanted)
    };
    paths(source)
        .into_iter()
        .filter(|(_, path)| WHOLE.iter().any(|whole| starts(path, whole)))
        .map(|(line, path)| (line, path.join("::")))
        .collect()
}

/// Hash tables with the standard library's hasher, whose order differs from run to run.
pub(crate) fn random_hashes(source: &Source) -> Vec<usize> {
    let tokens = tokens(&source.code);
    let word = |i: usize| tokens.get(i).map_or("", |(_, token)| *token);
    let mut found = Vec::new();
    for (at, (line, token)) in tokens.iter().enumerate() {
        let wanted = match *token {
            "HashMap" => 3,
            "HashSet" => 2,
            _ => continue,
        };
        match (word(at + 1), word(at + 2)) {
            ("<", _) if arguments(&tokens[at + 1..]) < wanted => found.push(*line),
            ("::", "new" | "with_capacity" | "from") => found.push(*line),
            _ => {}
        }
    }
    found
}

/// How many generic arguments the list has that `tokens` begins with.
fn arguments(tokens: &[(usize, &str)]) -> usize {
    let (mut depth, mut commas) = (0, 0);
    let mut before = "";
    for (_, token) in tokens {
        match *token {
            "<" | "(" | "[" => depth += 1,
            ">" if before == "-" => {}
            ">" | ")" | "]" => depth -= 1,
            "," if depth == 1 => commas += 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        before = token;
    }
    commas + 1
}

/// The lines with one of these words as a token.
pub(crate) fn words(source: &Source, wanted: &[&str]) -> Vec<usize> {
    let tokens = tokens(&source.code);
    tokens.iter().filter(|(_, token)| wanted.contains(token)).map(|(line, _)| *line).collect()
}

/// The lines with one of these macros.
pub(crate) fn macros(source: &Source, wanted: &[&str]) -> Vec<usize> {
    let tokens = tokens(&source.code);
    let calls = tokens.windows(2).filter(|pair| wanted.contains(&pair[0].1) && pair[1].1 == "!");
    calls.map(|pair| pair[0].0).collect()
}

/// The functions longer than `most` lines: first line, name, length.
pub(crate) fn long_functions(source: &Source, most: usize) -> Vec<(usize, String, usize)> {
    let tokens = tokens(&source.code);
    let mut found = Vec::new();
    for (at, (first, token)) in tokens.iter().enumerate() {
        let Some((_, name)) = tokens.get(at + 1).filter(|(_, name)| is_name(name)) else {
            continue;
        };
        if *token != "fn" {
            continue;
        }
        let mut depth = 0;
        for (line, token) in &tokens[at..] {
            match *token {
                ";" if depth == 0 => break,
                "(" | "[" | "{" => depth += 1,
                ")" | "]" => depth -= 1,
                "}" => {
                    depth -= 1;
                    if depth == 0 {
                        let len = line - first + 1;
                        if len > most {
                            found.push((*first, (*name).to_owned(), len));
                        }
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found
}
