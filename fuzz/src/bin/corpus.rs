//! Writes the seeds of all targets into `corpus/`, made of small real stores that have every kind of
//! structure between them.

use std::fs;
use std::path::Path;

use memlog_cli::internals::export;
use memlog_fuzz::directory::Directory;
use memlog_fuzz::store::{DIR, make, options};
use memlog_fuzz::{CHECKED, ENDS};

fn put(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

const LINES: &str = r#"{"agent":"a","role":"user","content":"hello","ts":1700000000000}
{"agent":"a","role":"tool_result","content":"ok","weight":12,"joined":true,"x":[1e400,{"y":null}]}
{"agent":"b/c","role":"developer","content_base64":"/wA=","memlog.meta":"{ }"}
{"agent":"b/c","role":"kind:300","content":"\ud83d\ude00","memlog.meta_base64":"/w=="}
{"agent":"a","seq":3,"role":"assistant","ts":1700000000001,"redacted":true}
{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}],"refusal":null}
{"role":"tool","tool_call_id":"c1","content":[{"type":"text","text":"yes"}],"ts":"2024-05-15T15:00:00Z"}
{"agent":"b","role":"assistant","content":[{"type":"tool_use","id":"t1","name":"f","input":{}}],"ts":1715785200.5}
{"agent":"b","role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":"no"}],"ts":"99ms"}
{"agent":"c","system":"s","messages":[{"role":"user","content":"hi"},{"role":"assistant","refusal":"no"}],"tools":[]}
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for end in ENDS {
        let disk = make(end, &mut |_| {})?;
        let directory = Directory::of(&disk, DIR);
        for (file, bytes) in directory.contents() {
            let there = disk.read_file(format!("{DIR}/{}", file.name()));
            assert!(there == Some(bytes), "the checks of {} are made right as others", file.name());
        }
        let name = format!("{end:?}");
        put("open_bytes", &name, &directory.write())?;
        for file in &directory.files {
            let one = Directory { flags: CHECKED, files: vec![file.clone()] }.write();
            let name = format!("{name}-{}", file.name());
            if file.is_segment() {
                put("frame", &name, &one)?;
            }
            if file.is_segment() && is_sealed(&file.contents()) {
                put("footer", &name, &one)?;
            }
            if file.name() == "MANIFEST" {
                put("manifest", &name, &[vec![CHECKED], file.contents()].concat())?;
            }
        }
        let store = options().open_on(&disk, DIR)?;
        put("import", &name, &export(&store)?)?;
    }
    put("import", "lines", LINES.as_bytes())?;
    // What the others read of their inputs is whatever the bytes come to.
    let mut byte = 7u8;
    for (number, len) in [16usize, 64, 256, 1024].into_iter().enumerate() {
        let bytes: Vec<u8> = (0..len)
            .map(|at| {
                byte = byte.wrapping_mul(77).wrapping_add(at as u8 | 1);
                byte
            })
            .collect();
        for target in ["operations", "damaged_bytes"] {
            put(target, &format!("some-{number}"), &bytes)?;
        }
    }
    Ok(())
}

/// Whether a segment file is sealed.
fn is_sealed(bytes: &[u8]) -> bool {
    bytes.last_chunk::<256>().is_some_and(|trailer| trailer.starts_with(b"memlogFT"))
}
