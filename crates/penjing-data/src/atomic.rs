//! Files that appear whole or not at all.

use crate::DataError;
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Writes the file at `path` through `write`, into a temporary file beside it that is synced and renamed over `path` last. Where
/// `path` is a link, the file it leads to is replaced; see [`output_file`].
///
/// After an error, or a crash of the process, `path` is what it was before; after an error the temporary file is gone too.
/// Errors that are not about input and output travel through `write` as [`io::Error::other`].
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), DataError> {
    let path = &output_file(path)?;
    let temporary = Temporary(beside(path).map_err(|e| DataError::io("write", path, e))?);
    let written = (|| {
        let mut out = BufWriter::new(OpenOptions::new().write(true).create_new(true).open(&temporary.0)?);
        write(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        drop(out);
        fs::rename(&temporary.0, path)
    })();
    written.map_err(|e| DataError::io("write", path, e))
}

/// The file that a write to `path` makes or replaces: `path` itself, or the end of the links that start there.
///
/// What exists must be a regular file, for a rename would put a file in place of a device or a pipe; a link that leads nowhere is
/// an error too.
pub fn output_file(path: &Path) -> Result<PathBuf, DataError> {
    let file = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(path.to_path_buf()),
        Ok(found) if found.is_symlink() => fs::canonicalize(path),
        found => found.map(|_| path.to_path_buf()),
    };
    let regular = file.and_then(|file| match fs::metadata(&file)?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it exists and is not a regular file")),
    });
    regular.map_err(|e| DataError::io("write", path, e))
}

/// Removes the file when the write did not come to its rename; after the rename there is nothing to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A name in the folder of `path` that no other write of this or another process uses at the same time.
fn beside(path: &Path) -> io::Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = std::env::temp_dir().join(format!("penjing-atomic-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("out.txt");
        write_atomically(&path, |w| w.write_all(b"first")).unwrap();
        let failed = write_atomically(&path, |w| {
            w.write_all(b"second")?;
            Err(io::Error::other("cut short"))
        });
        assert!(failed.unwrap_err().to_string().contains("cut short"));
        assert_eq!(fs::read(&path).unwrap(), b"first");
        write_atomically(&path, |w| w.write_all(b"third")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert!(write_atomically(&dir.join("absent/out.txt"), |_| Ok(())).is_err());
        assert!(write_atomically(&dir, |_| Ok(())).is_err(), "a folder is no target");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn links_are_written_through_and_devices_are_left_alone() {
        use std::os::unix::{fs::symlink, net::UnixListener};
        let dir = std::env::temp_dir().join(format!("penjing-atomic-links-{}", std::process::id()));
        fs::create_dir_all(dir.join("elsewhere")).unwrap();
        let (file, link, dangling, socket) =
            (dir.join("elsewhere/out.txt"), dir.join("link"), dir.join("dangling"), dir.join("socket"));
        fs::write(&file, b"first").unwrap();
        symlink("elsewhere/out.txt", &link).unwrap();
        symlink("nowhere", &dangling).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        write_atomically(&link, |w| w.write_all(b"second")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"second");
        for refused in [&dangling, &socket, Path::new("/dev/null")] {
            let before = fs::symlink_metadata(refused).unwrap().file_type();
            assert!(write_atomically(refused, |w| w.write_all(b"third")).is_err(), "{}", refused.display());
            assert_eq!(fs::symlink_metadata(refused).unwrap().file_type(), before);
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 4);
        assert_eq!(fs::read_dir(dir.join("elsewhere")).unwrap().count(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }
}
