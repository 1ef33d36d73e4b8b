//! The binary, a folder of its own for each test, and small files to feed it.

// The lint's exception for tests covers test functions, not what they share.
#![allow(clippy::unwrap_used)]

use penjing::{
    data::{Dataset, write_npz},
    tensor::Tensor,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A folder that is removed at the end of the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("penjing-cli-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Names of the files and folders in it.
    pub(crate) fn entries(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// Runs the binary in the folder.
    pub(crate) fn run(&self, line: &str) -> Output {
        let arguments = line.split_whitespace();
        Command::new(env!("CARGO_BIN_EXE_penjing")).args(arguments).current_dir(&self.0).output().unwrap()
    }

    /// Runs a command that must succeed; its JSON.
    pub(crate) fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --json"));
        assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{line}: {e}: {}", text(&output.stdout)))
    }

    /// Runs a command that must end with `code`; what it says on stderr.
    #[track_caller]
    pub(crate) fn fails(&self, line: &str, code: i32) -> String {
        let output = self.run(line);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        said
    }

    /// `digits.npz`: `n` digits at 3×24×24 with their labels.
    pub(crate) fn write_digits(&self, n: usize) {
        let digits = Dataset::open("digits:train").unwrap().subset(&(0..n).collect::<Vec<_>>()).unwrap();
        let (x, y): (Tensor, Tensor) = (digits.x(), digits.y().unwrap());
        write_npz(&self.path("digits.npz"), &[("x", &x), ("y", &y)]).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}
