//! Read-only memory-mapped files: the crate's only `unsafe`.

use std::{
    fs::File,
    io,
    ops::{Deref, Range},
    path::Path,
    sync::Arc,
};

/// Bytes below which a call to the system costs more than the memory is worth.
const WORTH_RELEASING: usize = 64 << 10;

/// The bytes of a file, mapped read-only. An empty file gives an empty slice.
pub struct MappedFile(Option<memmap2::Mmap>);

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

impl MappedFile {
    /// Where in the file these bytes lie; `None` for bytes from elsewhere.
    pub fn position(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let map = self.0.as_ref()?;
        let start = (bytes.as_ptr() as usize).checked_sub(map.as_ptr() as usize)?;
        let end = start.checked_add(bytes.len()).filter(|&end| end <= map.len())?;
        Some(start..end)
    }

    /// Gives back the memory of a part of this file that has been read and is not soon read again. It stays readable: reading it
    /// once more reads the file. Small parts are left alone.
    pub fn release(&self, part: Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.0
            && part.end <= map.len()
            && part.len() >= WORTH_RELEASING
        {
            // SAFETY: pages of a read-only map of a file hold nothing but the file's content, which the next access brings back.
            #[allow(unsafe_code)]
            let done =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, part.start, part.len()) };
            // It is advice: a system that does not take it keeps the pages.
            let _ = done;
        }
    }
}

/// A part of a mapped file. Its memory is given back with it.
pub(crate) struct MappedPart {
    file: Arc<MappedFile>,
    part: Range<usize>,
}

impl MappedPart {
    /// `None` when the file has no such part.
    pub(crate) fn new(file: Arc<MappedFile>, part: Range<usize>) -> Option<MappedPart> {
        file.get(part.clone())?;
        Some(MappedPart { file, part })
    }

    pub(crate) fn release(&self) {
        self.file.release(self.part.clone());
    }
}

impl Deref for MappedPart {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.file[self.part.clone()]
    }
}

impl Drop for MappedPart {
    fn drop(&mut self) {
        self.release();
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
        assert_eq!(map.position(&map[5..90_000]), Some(5..90_000));
        assert_eq!(map.position(b"not of this file"), None);
        map.release(5..90_000);
        map.release(0..map.len());
        map.release(1..usize::MAX);
        assert_eq!(map[..], content);
        std::fs::remove_file(path).unwrap();
    }
}
