//! A chat that remembers: what was said before is there again after any restart.
//!
//! ```text
//! cargo run --example chat -- DIR
//! ```

use std::io::{BufRead, stdin};

use memlog::{NewEntry, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or("memlog-store".into());
    let store = Store::open(dir)?;
    let agent = store.agent("acme/support/t-7")?;

    for entry in agent.view()?.latest(50) {
        let entry = entry?;
        println!("{:>4} {}: {}", entry.seq(), entry.kind(), entry.text()?);
    }
    for line in stdin().lock().lines() {
        agent.append(NewEntry::user(&line?))?; // durable when it returns
        let context: Vec<_> = agent.view()?.latest(50).map(|e| e.map(|e| e.seq())).collect();
        let answer = format!("I remember {} things that were said.", context.len());
        println!("{answer}");
        agent.append(NewEntry::assistant(&answer))?;
    }
    store.close()?;
    Ok(())
}
