//! The copy of the tree with the faults in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::fault::{Edit, Fault};

/// The switch, added to the end of the library.
const SWITCH: &str = r#"
/// Whether a planted fault is switched on.
#[doc(hidden)]
#[macro_export]
macro_rules! planted {
    ($id:literal) => {{
        static ON: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
            std::env::var_os("MEMLOG_PLANTED").is_some_and(|id| id == $id)
        });
        *ON
    }};
}
"#;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Copies what belongs to the repository, with the faults. A file that is as it was last time
/// is left alone, so that little is built again.
pub(crate) fn copy(root: &Path, to: &Path, faults: &[Fault]) -> Result<()> {
    let mut edits: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for fault in faults {
        for edit in &fault.edits {
            edits.entry(&edit.file).or_default().push((fault, edit));
        }
    }
    for name in files(root)? {
        let from = root.join(&name);
        let Ok(mut bytes) = fs::read(&from) else { continue };
        if let Some(edits) = edits.get(name.as_str()) {
            let text = String::from_utf8(bytes).map_err(|e| format!("{name}: {e}"))?;
            bytes = edited(text, edits)?.into_bytes();
        }
        if name == "src/lib.rs" {
            bytes.extend_from_slice(SWITCH.as_bytes());
        }
        let target = to.join(&name);
        if fs::read(&target).is_ok_and(|old| old == bytes) {
            continue;
        }
        let made = target.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(&target, &bytes))
            .map_err(|e| format!("{}: {e}", target.display()))?;
    }
    Ok(())
}

/// The files of the repository, those that are not committed yet with them.
fn files(root: &Path) -> Result<Vec<String>> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let out = Command::new("git").args(args).current_dir(root).output();
    let out = out.map_err(|e| format!("git: {e}"))?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    let names = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// A text with edits, from the end on, so that places stay where they are. Several faults may have
/// the same place.
fn edited(mut text: String, edits: &[(&Fault, &Edit)]) -> Result<String> {
    let mut placed: BTreeMap<(usize, usize), Vec<_>> = BTreeMap::new();
    for (fault, edit) in edits {
        let place = edit.place(&text).map_err(|e| format!("{}: {e}", fault.id))?;
        placed.entry((place.start, place.end)).or_default().push((fault.id.as_str(), *edit));
    }
    for ((start, end), edits) in placed.into_iter().rev() {
        let found = text.get(start..end).unwrap_or_default();
        let switched = switched(&edits, found);
        text.replace_range(start..end, &switched);
    }
    Ok(text)
}

/// What stands in the copy in the place of `found`: all that may be there, and a switch.
fn switched(edits: &[(&str, &Edit)], found: &str) -> String {
    let mut out = String::new();
    for (id, edit) in edits {
        // The switch is the library's.
        let home = if edit.file.starts_with("cli/") { "memlog" } else { "crate" };
        out += &format!("if {home}::planted!(\"{id}\") {{\n{}\n}} else ", edit.put);
    }
    out += &format!("{{\n{found}\n}}");
    if found.ends_with([';', '}']) { out } else { format!("({out})") }
}
