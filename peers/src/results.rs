//! The file of results: a line for each measurement, and one for each run's machine and sizes.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Res;
use crate::engine::Name;
use crate::workload::Figures;

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    Run(Run),
    Measured(Measured),
}

/// Where and how large.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub machine: String,
    pub sizes: String,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub engine: Name,
    /// The workload with its variant, as tables name it.
    pub work: String,
    /// A bare write and flush before and after, in microseconds.
    pub flush_us: [f64; 2],
    /// What came out, or why nothing did.
    pub outcome: Result<Figures, String>,
}

/// Adds a line.
pub fn add(path: &Path, line: &Line) -> Res<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    Ok(file.write_all(text.as_bytes())?)
}

/// All lines.
pub fn read(path: &Path) -> Res<Vec<Line>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
