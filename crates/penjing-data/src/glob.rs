//! The files that a folder or a pattern with `*` in its last part names, in sorted order.

use std::{
    io,
    path::{Path, PathBuf},
};

/// The files of `pattern`'s folder whose names match its last part, where `*` stands for any run of characters. Sorted by name.
pub(crate) fn matching_files(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = match pattern.parent() {
        Some(p) if p != Path::new("") => p,
        _ => Path::new("."),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        if matches(name.as_bytes(), file_name.as_bytes()) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether `name` is `pattern`, with `*` for any run of bytes: after a mismatch the last `*` takes one byte more.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut retry) = (0, 0, None);
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((star, from)) = retry {
            (p, n) = (star + 1, from + 1);
            retry = Some((star, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_match_any_run() {
        for (pattern, name, want) in [
            ("train-*.parquet", "train-00000-of-00001.parquet", true),
            ("train-*.parquet", "test-00000-of-00001.parquet", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*.npz", "x.npz.bak", false),
            ("plain", "plain", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), want, "{pattern} {name}");
        }
    }
}
