//! Which penjing crate may depend on which (ARCHITECTURE.md, crate map): the table, and the check of one Cargo.toml against it.

use crate::Violation;

/// Each crate and what stands below it. A crate stands under all that it may use, so there can be no circle. Tests
/// (`[dev-dependencies]`) may use every crate but the command line.
const ARROWS: &[(&str, &[&str])] = &[
    ("penjing-tensor", &[]),
    ("penjing-report", &[]),
    ("penjing-data", &["penjing-tensor"]),
    ("penjing-kernels", &["penjing-tensor"]),
    ("penjing-ir", &["penjing-tensor"]),
    ("penjing-reference", &["penjing-tensor", "penjing-ir"]),
    ("penjing-rewrite", &["penjing-tensor", "penjing-ir", "penjing-reference"]),
    ("penjing-onnx", &["penjing-tensor", "penjing-ir", "penjing-rewrite"]),
    ("penjing-grad", &["penjing-tensor", "penjing-ir", "penjing-reference", "penjing-rewrite"]),
    ("penjing-exec", &["penjing-tensor", "penjing-kernels", "penjing-ir", "penjing-reference", "penjing-rewrite"]),
    (
        "penjing-compress",
        &[
            "penjing-tensor",
            "penjing-kernels",
            "penjing-ir",
            "penjing-reference",
            "penjing-rewrite",
            "penjing-grad",
            "penjing-exec",
        ],
    ),
    (
        "penjing-parallel",
        &[
            "penjing-tensor",
            "penjing-kernels",
            "penjing-ir",
            "penjing-reference",
            "penjing-rewrite",
            "penjing-grad",
            "penjing-exec",
        ],
    ),
    (
        "penjing-train",
        &[
            "penjing-tensor",
            "penjing-data",
            "penjing-kernels",
            "penjing-ir",
            "penjing-reference",
            "penjing-rewrite",
            "penjing-grad",
            "penjing-exec",
            "penjing-compress",
            "penjing-parallel",
        ],
    ),
    (
        "penjing-testkit",
        &[
            "penjing-tensor",
            "penjing-data",
            "penjing-kernels",
            "penjing-ir",
            "penjing-reference",
            "penjing-rewrite",
            "penjing-onnx",
            "penjing-grad",
            "penjing-exec",
            "penjing-compress",
            "penjing-parallel",
            "penjing-train",
        ],
    ),
    (
        COMMAND_LINE,
        &[
            "penjing-tensor",
            "penjing-report",
            "penjing-data",
            "penjing-kernels",
            "penjing-ir",
            "penjing-reference",
            "penjing-rewrite",
            "penjing-onnx",
            "penjing-grad",
            "penjing-exec",
            "penjing-compress",
            "penjing-parallel",
            "penjing-train",
        ],
    ),
];

const COMMAND_LINE: &str = "penjing";

/// The arrows of the Cargo.toml at `path` that the table does not have.
pub(crate) fn manifest(path: &str, text: &str) -> Vec<Violation> {
    let violation = |line: usize, what: String, why: &'static str, fix: &'static str| Violation {
        path: path.to_owned(),
        line,
        what,
        why,
        fix,
    };
    let name = path.trim_end_matches("/Cargo.toml").rsplit('/').next().unwrap_or_default();
    let Some((_, below)) = ARROWS.iter().find(|(n, _)| *n == name) else {
        let what = format!("crate {name} is not in the table of arrows");
        return vec![violation(
            1,
            what,
            "its place among the crates is not agreed",
            "add a row to xtask/src/arrows.rs",
        )];
    };
    let mut violations = Vec::new();
    for Arrow { line, section, to } in arrows_of(text) {
        let in_tests = section == Section::Dev;
        let allowed = if in_tests { to != COMMAND_LINE } else { below.contains(&to.as_str()) };
        if !allowed {
            violations.push(violation(
                line,
                format!("{name} depends on {to}{}", if in_tests { " in its tests" } else { "" }),
                if to == COMMAND_LINE {
                    "nothing depends on the command line"
                } else if to == "penjing-testkit" {
                    "the testkit is for tests only"
                } else {
                    "the arrow is not in ARCHITECTURE.md's crate map, so layers would tangle"
                },
                "move the code to the crate where it belongs, or agree on the arrow and add it to xtask/src/arrows.rs",
            ));
        }
    }
    violations
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Normal,
    Dev,
}

struct Arrow {
    line: usize,
    section: Section,
    to: String,
}

/// The dependencies on penjing crates, in `[dependencies]`, `[build-dependencies]`, `[dev-dependencies]`, the same below
/// `[target.…]`, and tables of one dependency such as `[dependencies.penjing-ir]`. A renamed one counts by its `package`.
fn arrows_of(text: &str) -> Vec<Arrow> {
    let mut arrows = Vec::new();
    let mut section = None;
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            let (table, dependency) = match header.rsplit_once('.') {
                Some((table, last)) if table.ends_with("dependencies") => (table, Some(last)),
                _ => (header, None),
            };
            section = match table.rsplit('.').next() {
                Some("dependencies" | "build-dependencies") => Some(Section::Normal),
                Some("dev-dependencies") => Some(Section::Dev),
                _ => None,
            };
            if let (Some(section), Some(to)) = (section, dependency.filter(|d| is_ours(d))) {
                arrows.push(Arrow { line: i + 1, section, to: to.to_owned() });
            }
            continue;
        }
        let Some(section) = section else { continue };
        let key = line.split(['=', '.', ' ']).next().unwrap_or_default().trim_matches('"');
        let package = line.split_once("package").and_then(|(_, rest)| rest.split('"').nth(1));
        if let Some(to) = [Some(key), package].into_iter().flatten().find(|n| is_ours(n)) {
            arrows.push(Arrow { line: i + 1, section, to: to.to_owned() });
        }
    }
    arrows
}

fn is_ours(name: &str) -> bool {
    name == COMMAND_LINE || name.starts_with("penjing-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(path: &str, text: &str) -> Vec<(usize, String)> {
        manifest(path, text).into_iter().map(|v| (v.line, v.what)).collect()
    }

    #[test]
    fn the_table_has_no_circle() {
        for (i, (name, below)) in ARROWS.iter().enumerate() {
            for b in *below {
                assert!(ARROWS[..i].iter().any(|(n, _)| n == b), "{name} names {b}, which does not stand above it");
            }
        }
    }

    #[test]
    fn arrows_against_the_table_are_found_in_every_spelling() {
        let path = "crates/penjing-data/Cargo.toml";
        assert_eq!(what(path, "[dependencies]\npenjing-tensor.workspace = true\nserde = \"1\"\n"), []);
        for text in [
            "[dependencies]\npenjing-ir.workspace = true\n",
            "[dependencies]\npenjing-ir = { path = \"../penjing-ir\" }\n",
            "[dependencies]\ngraph = { package = \"penjing-ir\", path = \"x\" }\n",
            "[build-dependencies]\npenjing-ir.workspace = true\n",
            "[target.'cfg(unix)'.dependencies]\npenjing-ir.workspace = true\n",
            "\n[dependencies.penjing-ir]\nworkspace = true\n",
        ] {
            assert_eq!(what(path, text), [(2, "penjing-data depends on penjing-ir".to_owned())], "{text}");
        }
        assert_eq!(what(path, "[dependencies] # penjing-ir\n[features]\npenjing-ir = []\n"), []);
    }

    #[test]
    fn tests_may_use_all_but_the_command_line_and_only_tests_the_testkit() {
        let path = "crates/penjing-ir/Cargo.toml";
        assert_eq!(what(path, "[dev-dependencies]\npenjing-testkit.workspace = true\n"), []);
        assert_eq!(what(path, "[dev-dependencies]\npenjing.workspace = true\n").len(), 1);
        assert_eq!(
            manifest(path, "[dependencies]\npenjing-testkit.workspace = true\n")[0].why,
            "the testkit is for tests only"
        );
        assert_eq!(what("crates/penjing-new/Cargo.toml", "")[0].0, 1);
    }
}
