//! The process that does one measurement: its job is its argument, its figures are its output.

use crate::Res;
use crate::workload::Job;

pub fn main(job: &str) -> Res<()> {
    let job: Job = serde_json::from_str(job)?;
    crate::disk::raise_limit_of_files();
    let figures = job.run()?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
