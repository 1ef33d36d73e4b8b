//! `cargo xtask tidy`: the rules of ARCHITECTURE.md that the compiler does not check.
//!
//! One line on stdout for each violation, `path:line: what — why — what to do`; exit 0 when there is none, 1 when there is
//! one, 2 when the check cannot run.
#![allow(clippy::print_stdout, clippy::print_stderr)] // the violations are its output

mod arrows;
mod code;
mod sources;

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// A broken rule, where it is broken.
struct Violation {
    path: String,
    /// From 1.
    line: usize,
    what: String,
    why: &'static str,
    fix: &'static str,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments != ["tidy"] {
        eprintln!("usage: cargo xtask tidy");
        return ExitCode::from(2);
    }
    match tidy() {
        Ok(violations) if violations.is_empty() => ExitCode::SUCCESS,
        Ok(violations) => {
            for v in &violations {
                println!("{}:{}: {} — {} — {}", v.path, v.line, v.what, v.why, v.fix);
            }
            eprintln!("{} violations", violations.len());
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("cargo xtask tidy cannot run: {error}");
            ExitCode::from(2)
        }
    }
}

fn tidy() -> io::Result<Vec<Violation>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut violations = Vec::new();
    let paths = files_of(&root)?;
    violations.extend(sources::stale_exceptions(&paths));
    for path in paths {
        let Ok(text) = String::from_utf8(std::fs::read(root.join(&path))?) else { continue };
        violations.extend(sources::trailing_whitespace(&path, &text));
        if path.ends_with(".rs") {
            violations.extend(sources::rust_file(&path, &text));
        }
        if path.starts_with("crates/") && path.ends_with("/Cargo.toml") {
            violations.extend(arrows::manifest(&path, &text));
        }
    }
    Ok(violations)
}

/// Every file that git tracks or would track, by its path from the root with `/` between the parts; sorted.
fn files_of(root: &Path) -> io::Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let names = String::from_utf8(output.stdout).map_err(io::Error::other)?;
    let exists = |path: &&str| !path.is_empty() && PathBuf::from(root).join(path).is_file();
    let mut paths: Vec<String> = names.split('\0').filter(exists).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}
