//! Keeping what is wanted and no more: limits by count and age, redaction, and forgetting.
//!
//! ```text
//! cargo run --example retention -- DIR
//! ```

use std::time::{Duration, SystemTime};

use memlog::{NewEntry, Options, Retention, Store};

fn show(store: &Store, name: &str, what: &str) -> memlog::Result<()> {
    let agent = store.agent(name)?;
    let (view, usage) = (agent.view()?, agent.usage()?);
    println!(
        "{what:<40} {name}: seqs {}..{}, {} B live, {} B dead",
        view.floor(),
        view.next_seq(),
        usage.live_bytes,
        usage.dead_bytes
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or("memlog-store".into());
    // Every agent keeps its latest 1,000 entries, unless it has a policy of its own.
    let store = Options::new().retention(Retention::new().max_entries(1000)).open(dir)?;
    let agent = store.agent("acme/user-9/diary")?;

    // Thirty days, an entry a day.
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let mut batch = store.batch();
    for ago in (0..30).rev() {
        let text = format!("what happened {ago} days ago");
        batch.append(&agent, NewEntry::user(&text).at(now - day * ago));
    }
    batch.commit()?;
    show(&store, agent.name(), "thirty days")?;

    agent.set_retention(Some(Retention::new().max_age(day * 7)))?;
    show(&store, agent.name(), "no older than a week")?;

    let last = agent.view()?.next_seq() - 1;
    agent.redact(last)?;
    let redacted = agent.view()?.get(last)?.is_some_and(|entry| entry.is_redacted());
    println!("the last entry is redacted: {redacted}");
    show(&store, agent.name(), "without what was redacted")?;

    agent.truncate_before(last)?;
    show(&store, agent.name(), "after a summary took the rest's place")?;

    store.forget_prefix("acme/user-9/")?;
    show(&store, agent.name(), "after the user asked to be forgotten")?;
    println!("agents left: {}", store.agents("acme/user-9/").count());
    store.close()?;
    Ok(())
}
