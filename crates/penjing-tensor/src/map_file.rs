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

impl MappedFile {
    /// Gives back the memory of `bytes`, a part of this file that has been read and is not soon read again. They stay readable:
    /// reading them once more reads the file. Bytes from elsewhere are left alone.
    pub fn release(&self, bytes: &[u8]) {
        #[cfg(unix)]
        if let Some(map) = &self.0
            && let Some(offset) = (bytes.as_ptr() as usize).checked_sub(map.as_ptr() as usize)
            && offset + bytes.len() <= map.len()
        {
            // SAFETY: pages of a read-only map of a file hold nothing but the file's content, which the next access brings back.
            #[allow(unsafe_code)]
            let done = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, bytes.len()) };
            // It is advice: a system that does not take it keeps the pages.
            let _ = done;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_are_read_again() {
        let path = std::env::temp_dir().join(format!("penjing-map-{}", std::process::id()));
        let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let map = map_file(&path).unwrap();
        assert_eq!(map[..], content);
        map.release(&map[5..50_000]);
        map.release(&map);
        map.release(b"not of this file");
        assert_eq!(map[..], content);
        std::fs::remove_file(path).unwrap();
    }
}
