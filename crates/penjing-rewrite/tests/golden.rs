//! Golden Markdown: prose, a model before, the same after raising, and the trace, in the text form.
//!
//! `PENJING_BLESS=1` writes what comes out into the files, for a person to read and judge. Blessed or not, every case must compute
//! the same before and after.

#![allow(clippy::unwrap_used)]

mod common;

use common::assert_same;
use penjing_ir::text::{parse, print};
use penjing_rewrite::{Trace, dead_code, raise};
use std::{fs, path::Path};

#[test]
fn golden_rewrites() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 4);
    for file in files {
        let old = fs::read_to_string(&file).unwrap();
        let new = rewritten(&old, &file);
        if std::env::var_os("PENJING_BLESS").is_some() {
            fs::write(&file, &new).unwrap();
        } else {
            for (i, (a, b)) in old.lines().zip(new.lines()).enumerate() {
                assert_eq!(a, b, "{}, line {}", file.display(), i + 1);
            }
            assert_eq!(old.len(), new.len(), "{}", file.display());
        }
    }
}

/// The file with every `after` and `trace` block as it comes out now.
fn rewritten(text: &str, file: &Path) -> String {
    let mut out = String::new();
    let mut block: Option<(String, String)> = None;
    let mut results = None;
    for line in text.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                block = Some((kind.to_string(), String::new()));
                out += line;
                out += "\n";
            }
            (None, None) => {
                out += line;
                out += "\n";
            }
            (Some((_, body)), None) => {
                body.push_str(line);
                body.push('\n');
            }
            (Some((kind, body)), Some(_)) => {
                let results: &(String, String) = match kind.as_str() {
                    "before" => results.insert(raised(body, file)),
                    _ => results.as_ref().unwrap(),
                };
                out += match kind.as_str() {
                    "before" => body,
                    "after" => &results.0,
                    "trace" => &results.1,
                    other => panic!("{}: unknown block `{other}`", file.display()),
                };
                out += "```\n";
                block = None;
            }
        }
    }
    out
}

fn raised(text: &str, file: &Path) -> (String, String) {
    let before = parse(text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let (mut after, mut trace) = (before.clone(), Trace::new());
    raise(&mut after, &mut trace).unwrap();
    dead_code(&mut after).unwrap();
    assert_same(&before, &after);
    (print(&after), trace.to_string())
}
