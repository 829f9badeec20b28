//! Tables and plots of what was measured: medians of the repetitions.

mod plot;
mod sections;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use crate::Res;
use crate::engine::Name;
use crate::measure::median;
use crate::results::{self, Line, Measured};

/// Everything that was measured, by workload and engine.
pub struct Data {
    measured: BTreeMap<(String, Name), Vec<Measured>>,
    runs: Vec<results::Run>,
}

impl Data {
    fn read(path: &Path) -> Res<Data> {
        let mut data = Data { measured: BTreeMap::new(), runs: vec![] };
        for line in results::read(path)? {
            match line {
                Line::Run(run) if !data.runs.contains(&run) => data.runs.push(run),
                Line::Run(_) => {}
                Line::Measured(one) => {
                    let place = (one.work.clone(), one.engine);
                    data.measured.entry(place).or_default().push(one);
                }
            }
        }
        Ok(data)
    }

    /// The median of a figure; none if it was never measured.
    pub fn figure(&self, work: &str, engine: Name, name: &str) -> Option<f64> {
        let all = self.measured.get(&(work.to_owned(), engine))?;
        let values = all.iter().filter_map(|one| one.outcome.as_ref().ok()?.get(name).copied());
        let values: Vec<_> = values.collect();
        (!values.is_empty()).then(|| median(&values))
    }

    /// The median of the bare flushes around an engine's measurements.
    pub fn flush(&self, work: &str, engine: Name) -> Option<f64> {
        let all = self.measured.get(&(work.to_owned(), engine))?;
        Some(median(&all.iter().flat_map(|one| one.flush_us).collect::<Vec<_>>()))
    }

    /// Workloads that were measured.
    fn works(&self) -> Vec<&str> {
        let mut works: Vec<_> = self.measured.keys().map(|(work, _)| work.as_str()).collect();
        works.dedup();
        works
    }

    /// All bare flushes around a workload.
    fn flushes(&self, work: &str) -> Vec<f64> {
        let ours = self.measured.iter().filter(|((name, _), _)| name == work);
        ours.flat_map(|(_, all)| all.iter().flat_map(|one| one.flush_us)).collect()
    }

    /// What failed, and how.
    fn failures(&self) -> Vec<String> {
        let mut failures: Vec<_> = self
            .measured
            .values()
            .flatten()
            .filter_map(|one| {
                let error = one.outcome.as_ref().err()?;
                Some(format!("{} on {}: {error}", one.engine.text(), one.work))
            })
            .collect();
        failures.dedup();
        failures
    }

    /// Repetitions: the fewest and the most.
    fn repetitions(&self) -> (usize, usize) {
        let counts = || self.measured.values().map(Vec::len);
        (counts().min().unwrap_or(0), counts().max().unwrap_or(0))
    }
}

const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// Prints the tables, writes the plots, and puts the tables into a document if one is named.
pub fn report(results: &Path, plots: &Path, docs: Option<&Path>) -> Res<()> {
    let data = Data::read(results)?;
    let sections = sections::sections(&data);
    std::fs::create_dir_all(plots)?;
    for section in &sections {
        plot::write(&data, section, plots)?;
    }
    let link = docs.and_then(Path::parent).and_then(|dir| plots.strip_prefix(dir).ok());
    let tables = table::all(&data, &sections, link);
    println!("{tables}");
    if let Some(path) = docs {
        let text = std::fs::read_to_string(path)?;
        let (Some(from), Some(to)) = (text.find(BEGIN), text.find(END)) else {
            return Err(format!("{}: has no markers {BEGIN} and {END}", path.display()).into());
        };
        let new = format!("{}{BEGIN}\n{tables}\n{}", &text[..from], &text[to..]);
        std::fs::write(path, new)?;
    }
    Ok(())
}
