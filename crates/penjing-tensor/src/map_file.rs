//! Read-only memory-mapped files: the crate's only `unsafe`.

use std::{fs::File, io, ops::Deref, path::Path};

/// The bytes of a file, mapped read-only. An empty file gives an empty slice.
pub struct MappedFile(Option<memmap2::Mmap>);

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

/// Maps the file at `path`. Pages are read on first use, so a large weight file costs only what is touched.
///
/// The contents must not be changed by another process while the map lives; the threat model (docs/security.md) leaves that out.
pub fn map_file(path: &Path) -> io::Result<MappedFile> {
    let regular = |is_file: bool| match is_file {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    };
    // Before opening, because opening a named pipe waits for its writer.
    regular(std::fs::metadata(path)?.is_file())?;
    let file = File::open(path)?;
    regular(file.metadata()?.is_file())?;
    if file.metadata()?.len() == 0 {
        return Ok(MappedFile(None));
    }
    // SAFETY: the map is read-only and private to this process; that nobody truncates or rewrites the file during the run
    // is the documented assumption above.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(MappedFile(Some(map)))
}
