//! Feature words: what a file needs of its reader beyond the version.

/// The features that are drawn, by their bits. None of them is built yet.
const NAMES: [&str; 10] = [
    "state versions",
    "branches",
    "marks",
    "idempotency keys",
    "cursors",
    "annexes",
    "the archive",
    "pieces of blocks",
    "compressed blocks",
    "sealed payloads",
];

/// The incompatible features that this crate reads.
pub(crate) const KNOWN: u64 = 0;

/// The compatible feature of a manifest that says what a repair could not bring over.
pub(crate) const HOLES: u64 = 1;

/// The bits of a file's incompatible word that this crate does not read; 0: it reads the file.
pub(crate) fn lacking(incompatible: u64) -> u64 {
    incompatible & !KNOWN
}

/// The features that the bits name.
pub(crate) fn names(bits: u64) -> String {
    let name = |bit: u32| {
        let known = usize::try_from(bit).ok().and_then(|bit| NAMES.get(bit));
        known.map_or_else(|| format!("bit {bit}"), |name| (*name).to_owned())
    };
    let set: Vec<String> = (0..64).filter(|bit| bits >> bit & 1 != 0).map(name).collect();
    set.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_names() {
        assert_eq!(names(0), "");
        assert_eq!(names(0b110), "branches, marks");
        assert_eq!(names(1 | 1 << 63), "state versions, bit 63");
        assert_eq!((lacking(0), lacking(1 << 40)), (0, 1 << 40));
    }

    /// The document names them in the same order.
    #[test]
    fn the_features_are_as_documented() {
        let document = include_str!("../../docs/format.md");
        let words = [
            "VERSIONS", "BRANCHES", "MARKS", "KEYS", "CURSORS", "ANNEXES", "ARCHIVE", "PIECES",
            "BLOCKS", "SEALED",
        ];
        assert_eq!(words.len(), NAMES.len());
        for (bit, word) in words.iter().enumerate() {
            assert!(document.contains(&format!("\n| {bit} | {word} | ")), "{word}");
        }
    }
}
