//! Rust as far as it is needed here: what is code, and its tokens.

/// The text with everything that is not code turned into spaces; lines stay where they are.
pub(crate) fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let len = match not_code(&text[at..], text[..at].chars().next_back()) {
            0 => {
                let len = text[at..].chars().next().unwrap().len_utf8();
                out.extend_from_slice(&bytes[at..at + len]);
                at += len;
                continue;
            }
            len => len,
        };
        let blank = |byte: &u8| if *byte == b'\n' { b'\n' } else { b' ' };
        out.extend(bytes[at..at + len].iter().map(blank));
        at += len;
    }
    String::from_utf8(out).unwrap()
}

/// How many bytes of `rest` are a comment, a string or a character.
fn not_code(rest: &str, before: Option<char>) -> usize {
    let after_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest);
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    for start in ["r", "br", "cr"] {
        let Some(behind) = rest.strip_prefix(start).filter(|_| !after_word) else { continue };
        let hashes = behind.len() - behind.trim_start_matches('#').len();
        if behind[hashes..].starts_with('"') {
            let open = start.len() + hashes + 1;
            let close = format!("\"{}", "#".repeat(hashes));
            return rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len());
        }
    }
    0
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character, or nothing if it is a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            rest[3..].find('\'').map_or(0, |end| 3 + end + 1)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

/// Words (with the `r#` of raw ones), `::`, and single other characters, with their lines.
pub(crate) fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut out = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let len = if is_word(c) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                c.len_utf8()
            };
            if !c.is_whitespace() {
                out.push((number + 1, &rest[..len]));
            }
            rest = &rest[len..];
        }
    }
    out
}
