//! The tables, in Markdown.

use std::fmt::Write;
use std::path::Path;

use super::Data;
use super::sections::{Column, Figure, Section};
use crate::engine::Name;
use crate::measure::median;

/// The lock file that this program was built with.
const LOCK: &str = include_str!("../../Cargo.lock");

pub fn all(data: &Data, sections: &[Section], plots: Option<&Path>) -> String {
    let mut text = String::new();
    for run in &data.runs {
        let _ = writeln!(text, "Machine: {}.\n\nSizes: {}.\n", run.machine, run.sizes);
    }
    let (least, most) = data.repetitions();
    let _ = match least == most {
        true => writeln!(text, "Repetitions: {least}, interleaved; medians.\n"),
        false => writeln!(text, "Repetitions: {least} to {most}, interleaved; medians.\n"),
    };
    let _ = writeln!(text, "Versions: {}.\n", versions().join(", "));
    for section in sections {
        let _ = writeln!(text, "### {}\n", section.title);
        one(data, section, &mut text);
        if let Some(dir) = plots {
            let _ =
                writeln!(text, "\n![{}]({}/{}.svg)", section.title, dir.display(), section.name);
        }
        text.push('\n');
    }
    losses(data, sections, &mut text);
    flushes(data, &mut text);
    let failures = data.failures();
    if !failures.is_empty() {
        text.push_str("\n### What failed\n\n");
        failures.iter().for_each(|failure| {
            let _ = writeln!(text, "- {failure}");
        });
    }
    text
}

fn one(data: &Data, section: &Section, text: &mut String) {
    let titles: Vec<_> = section.columns.iter().map(|column| column.title.as_str()).collect();
    let _ = writeln!(text, "| | {} |", titles.join(" | "));
    let _ = writeln!(text, "|---|{}", "---:|".repeat(titles.len()));
    for engine in Name::ALL {
        let cells: Vec<_> =
            section.columns.iter().map(|column| cell(data, column, engine)).collect();
        if cells.iter().any(|cell| cell != "-") {
            let name = engine.text();
            let name = if engine == Name::Memlog { format!("**{name}**") } else { name.into() };
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
    }
}

fn cell(data: &Data, column: &Column, engine: Name) -> String {
    let values: Vec<_> = column
        .figures
        .iter()
        .filter_map(|figure| value(data, column, *figure, engine))
        .map(number)
        .collect();
    if values.is_empty() { "-".to_owned() } else { values.join(" / ") }
}

/// A figure as it is shown.
pub fn value(data: &Data, column: &Column, figure: Figure, engine: Name) -> Option<f64> {
    data.figure(&column.work, engine, figure.name).map(|value| value * figure.scale)
}

/// Three digits that matter, and a gap between thousands.
pub fn number(value: f64) -> String {
    if value.is_nan() {
        return "?".to_owned();
    }
    if value < 1000.0 {
        let decimals = match value.abs() {
            v if v >= 100.0 => 0,
            v if v >= 10.0 => 1,
            _ => 2,
        };
        return format!("{value:.decimals$}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Every figure in which a peer is ahead of memlog.
fn losses(data: &Data, sections: &[Section], text: &mut String) {
    text.push_str("### Where memlog is not the first\n\n");
    let mut any = false;
    let columns = sections.iter().flat_map(|section| &section.columns);
    for (column, figure) in columns.flat_map(|c| c.figures.iter().map(move |f| (c, *f))) {
        let Some(ours) = value(data, column, figure, Name::Memlog) else { continue };
        let Some((engine, theirs)) = best(data, column, figure, ours) else { continue };
        any = true;
        let _ = writeln!(
            text,
            "- `{}`, {}: {} {}, memlog {}",
            column.work,
            figure.words,
            engine.text(),
            number(theirs),
            number(ours)
        );
    }
    if !any {
        text.push_str("Nowhere in this run.\n");
    }
    text.push('\n');
}

fn best(data: &Data, column: &Column, figure: Figure, ours: f64) -> Option<(Name, f64)> {
    let score = |value: f64| if figure.more { -value } else { value };
    let others = Name::ALL.into_iter().filter(|engine| *engine != Name::Memlog);
    others
        .filter_map(|engine| Some((engine, value(data, column, figure, engine)?)))
        .min_by(|a, b| score(a.1).total_cmp(&score(b.1)))
        .filter(|(_, theirs)| score(*theirs) < score(ours))
}

/// What the disk did meanwhile.
fn flushes(data: &Data, text: &mut String) {
    text.push_str(
        "### The disk meanwhile\n\nA bare write of 1 KiB with its flush, before and after each \
         measurement, in us (medians of 100):\n\n| | median | least | most |\n|---|---:|---:|---:|\n",
    );
    for work in data.works() {
        let all = data.flushes(work);
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        let most = all.iter().copied().fold(0.0, f64::max);
        let cells = [median(&all), least, most].map(number).join(" | ");
        let _ = writeln!(text, "| {work} | {cells} |");
    }
    text.push_str("\nA durable append of 1 thread at p50, over the bare flush around it:");
    for engine in Name::ALL {
        let work = "append-sync/1";
        if let (Some(p50), Some(flush)) =
            (data.figure(work, engine, "p50_us"), data.flush(work, engine))
        {
            let _ = write!(text, " {} {:.2},", engine.text(), p50 / flush);
        }
    }
    text.pop();
    text.push_str(".\n");
}

fn versions() -> Vec<String> {
    let version = |package: &str| {
        let at = LOCK.find(&format!("name = \"{package}\"\n"))?;
        LOCK[at..].split('"').nth(3).map(str::to_owned)
    };
    let known = Name::ALL.into_iter().filter_map(|engine| {
        let package = engine.package()?;
        Some(format!("{} ({package} {})", engine.text(), version(package)?))
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_gaps() {
        let cases = [(0.5, "0.50"), (12.34, "12.3"), (123.4, "123"), (1_234_567.0, "1,234,567")];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_lock_file_tells_versions() {
        assert!(
            versions().iter().any(|text| text.starts_with("redb (redb 4.")),
            "{:?}",
            versions()
        );
    }
}
