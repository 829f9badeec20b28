//! `memlog export`: the store as JSONL.

use std::io::{BufWriter, Write};
use std::path::Path;

use indicatif::ProgressBar;
use memlog::Store;

use crate::args::{ExportArgs, Globals};
use crate::failure::{Failure, code};
use crate::line;
use crate::open::{Access, hides, open, utf8, walk};
use crate::output::{self, plural};
use crate::say;

pub(crate) fn run(globals: &Globals, args: &ExportArgs) -> Result<(), Failure> {
    let prefix = utf8("the prefix", &args.prefix)?;
    let store = open(globals, Access::Read)?;
    let bar = output::spinner("exporting");
    let mut export = Export { store: &store, prefix, bar: &bar, entries: 0, damaged: 0 };
    match &args.output {
        Some(path) if path.as_os_str() != "-" => export.write_file(path)?,
        _ => {
            let mut out = output::stdout();
            export.write(&mut out)?;
            out.flush()?;
        }
    }
    bar.finish_and_clear();
    let lost = output::len(&store.recovery_report().damage);
    match export.damaged {
        0 if lost == 0 => Ok(()),
        // With --salvage: what no index leads to any more is in no timeline.
        0 => Err(Failure::new(
            code::DAMAGE,
            format!("{} damaged: something may be missing", plural(lost, "place", "places")),
        )
        .hint("`memlog verify` lists all damage")),
        n => Err(Failure::new(
            code::DAMAGE,
            format!("{} could not be read and left out", plural(n, "entry", "entries")),
        )
        .hint("`memlog verify` lists all damage")),
    }
}

struct Export<'a> {
    store: &'a Store,
    prefix: &'a str,
    bar: &'a ProgressBar,
    entries: u64,
    damaged: u64,
}

impl Export<'_> {
    /// Writes beside the file first, so that it is replaced whole or not at all.
    fn write_file(&mut self, path: &Path) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::io("write", path, &error);
        if path.exists() && !path.is_file() {
            let file = std::fs::File::options().write(true).open(path).map_err(failed)?;
            let mut out = BufWriter::new(file);
            self.write(&mut out)?;
            return out.flush().map_err(failed);
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let beside = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        let mut out = BufWriter::with_capacity(256 << 10, beside);
        self.write(&mut out)?;
        let beside = out.into_inner().map_err(|error| failed(error.into_error()))?;
        beside.as_file().sync_all().map_err(failed)?;
        beside.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    fn write(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for agent in self.store.agents(self.prefix) {
            let agent = agent?;
            if hides(self.prefix, agent.name()) {
                continue;
            }
            let view = agent.view()?;
            let range = view.floor()..view.next_seq();
            let (bar, entries, damaged) = (self.bar, &mut self.entries, &mut self.damaged);
            walk(
                &view,
                range,
                |entry| {
                    lines.clear();
                    line::write(&mut lines, agent.name(), entry);
                    out.write_all(&lines)?;
                    *entries += 1;
                    bar.set_position(*entries);
                    Ok(())
                },
                |_, error| {
                    *damaged += 1;
                    bar.suspend(|| say::went_on(error));
                    Ok(())
                },
            )?;
        }
        Ok(())
    }
}
