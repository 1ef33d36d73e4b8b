//! Checks of single files: where `unsafe` stands, how long a file is, how it begins, what it must not contain.

use crate::{
    Violation,
    code::{code_of, line_of, words},
};

/// Where `unsafe` may stand (ARCHITECTURE.md, invariant I5): a crate's folder or a file.
const UNSAFE_ALLOWED: [&str; 3] =
    ["crates/penjing-kernels/", "crates/penjing-tensor/src/map_file.rs", "bench/avx2-only/"];

const MAX_LINES: usize = 800;

/// Files that may be longer, each with its reason: tables that read worse in pieces.
const LONG_FILES: [(&str, &str); 0] = [];

/// Macros that mean unfinished work or a forgotten trace.
const FORBIDDEN_MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Everything that is checked in one Rust file.
pub(crate) fn rust_file(path: &str, text: &str) -> Vec<Violation> {
    let code = code_of(text);
    let mut violations = Vec::new();
    let mut add = |line: usize, what: String, why: &'static str, fix: &'static str| {
        violations.push(Violation { path: path.to_owned(), line, what, why, fix });
    };
    if !text.starts_with("//!") {
        add(
            1,
            "the file does not begin with //!".to_owned(),
            "a reader meets the idea before the detail",
            "say first what the file is for and what it does not do",
        );
    }
    let lines = text.lines().count();
    if lines > MAX_LINES && !LONG_FILES.iter().any(|(p, _)| *p == path) {
        add(
            MAX_LINES + 1,
            format!("the file has {lines} lines, more than {MAX_LINES}"),
            "one idea a file",
            "split it, or add a table to LONG_FILES in xtask/src/sources.rs with the reason",
        );
    }
    if !UNSAFE_ALLOWED.iter().any(|allowed| path.starts_with(allowed)) {
        for at in words(&code, "unsafe") {
            add(
                line_of(&code, at),
                "unsafe code".to_owned(),
                "unsafe lives in penjing-kernels and in map_file.rs of penjing-tensor only (I5)",
                "write it safely, or move it into penjing-kernels behind a safe function",
            );
        }
    }
    for name in FORBIDDEN_MACROS {
        for at in words(&code, name).filter(|at| code[at + name.len()..].trim_start().starts_with('!')) {
            add(
                line_of(&code, at),
                format!("{name}!"),
                "no stubs and no traces are left behind",
                "finish the work, return an error that says it is unsupported, or remove the trace",
            );
        }
    }
    for at in words(&code, "ignore").filter(|&at| code[..at].trim_end().ends_with("#[")) {
        add(
            line_of(&code, at),
            "an ignored test".to_owned(),
            "a test that does not run protects nothing",
            "make it run, let it skip itself where outside data is absent, or remove it",
        );
    }
    violations
}

/// Lines that end in spaces or tabs.
pub(crate) fn trailing_whitespace(path: &str, text: &str) -> Vec<Violation> {
    let ends_badly = |line: &str| line.trim_end_matches('\r').ends_with([' ', '\t']);
    let lines = text.split('\n').enumerate().filter(|(_, line)| ends_badly(line));
    lines
        .map(|(i, _)| Violation {
            path: path.to_owned(),
            line: i + 1,
            what: "trailing whitespace".to_owned(),
            why: "it is noise in every diff",
            fix: "remove it (cargo fmt does in Rust code)",
        })
        .collect()
}

/// Entries of `LONG_FILES` whose file is gone.
pub(crate) fn stale_exceptions(paths: &[String]) -> Vec<Violation> {
    let gone = LONG_FILES.iter().filter(|(path, _)| !paths.iter().any(|p| p == path));
    gone.map(|(path, _)| Violation {
        path: "xtask/src/sources.rs".to_owned(),
        line: 1,
        what: format!("LONG_FILES names {path}, which does not exist"),
        why: "an exception outlives its file",
        fix: "remove the entry",
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(usize, String)> {
        rust_file(path, text).into_iter().map(|v| (v.line, v.what)).collect()
    }

    #[test]
    fn a_tidy_file_passes() {
        let text =
            "//! What it is for; never unsafe, no todo!().\n\nfn f() -> &'static str { \"dbg! unsafe #[ignore]\" }\n";
        assert_eq!(found("crates/penjing-ir/src/lib.rs", text), []);
    }

    #[test]
    fn unsafe_is_found_outside_its_places() {
        let text = "//! Maps.\nfn f() {\n    unsafe { g() }\n}\n#[allow(unsafe_code)]\nfn h() {}\n";
        assert_eq!(found("crates/penjing-exec/src/run.rs", text), [(3, "unsafe code".to_owned())]);
        assert_eq!(found("crates/penjing-kernels/src/isa.rs", text), []);
        assert_eq!(found("crates/penjing-tensor/src/map_file.rs", text), []);
        assert_eq!(found("crates/penjing-tensor/src/tensor.rs", text).len(), 1);
    }

    #[test]
    fn stubs_traces_and_ignored_tests_are_found() {
        let text = "//! T.\nfn a() { todo!() }\nfn b() { unimplemented !(\"x\") }\nfn c() { dbg!(1); }\n#[test]\n#[ignore = \"slow\"]\nfn d() {}\n";
        let whats = found("x.rs", text);
        assert_eq!(
            whats,
            [(2, "todo!"), (3, "unimplemented!"), (4, "dbg!"), (6, "an ignored test")].map(|(l, w)| (l, w.to_owned()))
        );
        assert_eq!(found("x.rs", "//! T.\nfn todo() { let ignore = dbg; }\n"), []);
    }

    #[test]
    fn heads_and_lengths_are_checked() {
        assert_eq!(found("x.rs", "fn f() {}\n")[0], (1, "the file does not begin with //!".to_owned()));
        let long = |lines: usize| "//! T.\n".to_owned() + &"\n".repeat(lines - 1);
        assert_eq!(found("x.rs", &long(800)), []);
        assert_eq!(found("x.rs", &long(801)), [(801, "the file has 801 lines, more than 800".to_owned())]);
    }

    #[test]
    fn trailing_whitespace_is_found_by_line() {
        let lines: Vec<usize> = trailing_whitespace("x.md", "a\nb \n\tc\nd\t\r\n\n").iter().map(|v| v.line).collect();
        assert_eq!(lines, [2, 4]);
    }
}
