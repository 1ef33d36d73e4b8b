//! Buffers of bytes and checked views into them: the safe face over the aliasing that a memory plan makes.
//!
//! A step names what it reads and writes as [`Region`]s. [`Buffers::views`] hands out plain slices only after it has checked
//! that no write overlaps another write or a read, but for a write declared in place of one identical read, which then has
//! the mutable view only.

use crate::KernelError;
use bytemuck::{Pod, Zeroable};
use penjing_tensor::Tensor;

/// One cache line, at whose multiples buffers start.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

const ALIGN: usize = size_of::<Line>();

/// Names a buffer of one [`Buffers`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BufferId(pub usize);

/// `len` bytes at byte `offset` of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Region {
    /// Which buffer.
    pub buffer: BufferId,
    /// First byte.
    pub offset: usize,
    /// Number of bytes.
    pub len: usize,
}

impl Region {
    /// Whether the two share a byte.
    pub fn overlaps(&self, other: &Region) -> bool {
        self.buffer == other.buffer
            && self.len > 0
            && other.len > 0
            && self.offset < other.offset.saturating_add(other.len)
            && other.offset < self.offset.saturating_add(self.len)
    }
}

/// A region that a step writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Write {
    /// Where.
    pub region: Region,
    /// The index of the one read with the same region that this write replaces.
    pub in_place: Option<usize>,
}

/// The memory of a session: working arenas, states that outlive a step, constants.
#[derive(Default)]
pub struct Buffers {
    buffers: Vec<Buffer>,
}

enum Buffer {
    /// `len` bytes from `start` on. The memory comes zeroed from the system, which gives pages only to what is touched.
    Owned {
        memory: Vec<u8>,
        start: usize,
        len: usize,
    },
    Constant(Tensor),
}

impl Buffer {
    fn len(&self) -> usize {
        match self {
            Buffer::Owned { len, .. } => *len,
            Buffer::Constant(t) => t.bytes().len(),
        }
    }

    /// The first byte, for reading.
    fn as_ptr(&self) -> *const u8 {
        match self {
            Buffer::Owned { memory, start, .. } => memory[*start..].as_ptr(),
            Buffer::Constant(t) => t.bytes().as_ptr(),
        }
    }
}

impl Buffers {
    /// No buffers.
    pub fn new() -> Buffers {
        Buffers::default()
    }

    /// Adds a writable buffer of `len` zero bytes, 64-byte aligned. `OutOfMemory` when the system refuses it.
    pub fn add(&mut self, len: usize) -> Result<BufferId, KernelError> {
        let need = len.checked_next_multiple_of(ALIGN).and_then(|n| n.checked_add(ALIGN));
        let memory = need.and_then(|n| bytemuck::allocation::try_zeroed_vec::<u8>(n).ok());
        let memory = memory.ok_or(KernelError::OutOfMemory { need: len })?;
        let start = memory.as_ptr() as usize;
        let start = start.next_multiple_of(ALIGN) - start;
        self.buffers.push(Buffer::Owned { memory, start, len });
        Ok(BufferId(self.buffers.len() - 1))
    }

    /// Adds the bytes of a tensor as a buffer that can only be read; they are shared, not copied.
    pub fn add_constant(&mut self, tensor: Tensor) -> BufferId {
        self.buffers.push(Buffer::Constant(tensor));
        BufferId(self.buffers.len() - 1)
    }

    /// Makes a writable buffer at least `len` bytes long; what it holds is lost when it grows.
    pub fn grow(&mut self, id: BufferId, len: usize) -> Result<(), KernelError> {
        match self.buffers.get(id.0).ok_or(KernelError::NoBuffer(id.0))? {
            Buffer::Owned { len: have, .. } if *have >= len => return Ok(()),
            Buffer::Owned { .. } => {}
            Buffer::Constant(_) => return Err(KernelError::WriteToConstant(Region { buffer: id, offset: 0, len })),
        }
        self.buffers[id.0] = Buffer::Owned { memory: Vec::new(), start: 0, len: 0 };
        let grown = self.add(len)?;
        self.buffers.swap(id.0, grown.0);
        self.buffers.pop();
        Ok(())
    }

    /// The number of bytes of writable buffers.
    pub fn allocated(&self) -> usize {
        self.buffers.iter().map(|b| if matches!(b, Buffer::Owned { .. }) { b.len() } else { 0 }).sum()
    }

    /// The bytes of a region.
    pub fn bytes(&self, region: Region) -> Result<&[u8], KernelError> {
        let buffer = self.check(region)?;
        let all: &[u8] = match buffer {
            Buffer::Owned { memory, start, .. } => &memory[*start..],
            Buffer::Constant(t) => t.bytes(),
        };
        Ok(&all[region.offset..region.offset + region.len])
    }

    /// The bytes of a region, for writing.
    pub fn bytes_mut(&mut self, region: Region) -> Result<&mut [u8], KernelError> {
        self.check(region)?;
        match &mut self.buffers[region.buffer.0] {
            Buffer::Owned { memory, start, .. } => {
                Ok(&mut memory[*start + region.offset..*start + region.offset + region.len])
            }
            Buffer::Constant(_) => Err(KernelError::WriteToConstant(region)),
        }
    }

    /// The views of one step. Reads may overlap each other; see the module's head for writes. An empty region overlaps nothing.
    pub fn views(&mut self, reads: &[Region], writes: &[Write]) -> Result<Views<'_>, KernelError> {
        for read in reads {
            self.check(*read)?;
        }
        for (j, write) in writes.iter().enumerate() {
            let region = write.region;
            if matches!(self.check(region)?, Buffer::Constant(_)) {
                return Err(KernelError::WriteToConstant(region));
            }
            if write.in_place.is_some_and(|i| reads.get(i) != Some(&region)) {
                return Err(KernelError::NotInPlace(region));
            }
            let read_clash =
                reads.iter().enumerate().find(|(i, read)| write.in_place != Some(*i) && read.overlaps(&region));
            let write_clash = writes[..j].iter().find(|other| other.region.overlaps(&region));
            if let Some(&other) = read_clash.map(|(_, r)| r).or(write_clash.map(|w| &w.region)) {
                return Err(KernelError::Overlap { write: region, other });
            }
        }
        let mut read_views: Vec<Option<&[u8]>> = Vec::with_capacity(reads.len());
        for (i, read) in reads.iter().enumerate() {
            let replaced = writes.iter().any(|w| w.in_place == Some(i));
            read_views.push((!replaced).then(|| {
                let start = self.buffers[read.buffer.0].as_ptr();
                // SAFETY: the region lies inside the buffer (checked), the buffers stay borrowed mutably as long as the
                // views live, and no write view covers a byte of it (checked above).
                unsafe { std::slice::from_raw_parts(start.add(read.offset), read.len) }
            }));
        }
        let mut write_views: Vec<Option<&mut [u8]>> = Vec::with_capacity(writes.len());
        for write in writes {
            let Buffer::Owned { memory, start, .. } = &mut self.buffers[write.region.buffer.0] else {
                return Err(KernelError::WriteToConstant(write.region));
            };
            let start: *mut u8 = memory[*start..].as_mut_ptr();
            // SAFETY: as above: inside the buffer, exclusively borrowed, and disjoint from every other view handed out.
            write_views.push(Some(unsafe {
                std::slice::from_raw_parts_mut(start.add(write.region.offset), write.region.len)
            }));
        }
        Ok(Views { reads: read_views, writes: write_views })
    }

    fn check(&self, region: Region) -> Result<&Buffer, KernelError> {
        let buffer = self.buffers.get(region.buffer.0).ok_or(KernelError::NoBuffer(region.buffer.0))?;
        match region.offset.checked_add(region.len) {
            Some(end) if end <= buffer.len() => Ok(buffer),
            _ => Err(KernelError::RegionOutside { region, have: buffer.len() }),
        }
    }
}

/// The slices of one step, from [`Buffers::views`].
pub struct Views<'a> {
    reads: Vec<Option<&'a [u8]>>,
    writes: Vec<Option<&'a mut [u8]>>,
}

impl<'a> Views<'a> {
    /// The `i`-th read as elements of `T`. `NoView` for a read that a write replaces in place.
    pub fn read<T: Pod>(&self, i: usize) -> Result<&'a [T], KernelError> {
        let bytes = self.reads.get(i).copied().flatten().ok_or(KernelError::NoView(i))?;
        bytemuck::try_cast_slice(bytes).map_err(|_| misaligned::<T>(bytes.as_ptr(), bytes.len()))
    }

    /// Takes the `j`-th write as elements of `T`; a second call gives `NoView`. A write in place still holds what was read.
    pub fn write<T: Pod>(&mut self, j: usize) -> Result<&'a mut [T], KernelError> {
        let bytes = self.writes.get_mut(j).and_then(Option::take).ok_or(KernelError::NoView(j))?;
        let (start, len) = (bytes.as_ptr(), bytes.len());
        bytemuck::try_cast_slice_mut(bytes).map_err(|_| misaligned::<T>(start, len))
    }
}

/// The same bytes as signed integers.
pub fn as_i8(bytes: &[u8]) -> &[i8] {
    bytemuck::cast_slice(bytes)
}

fn misaligned<T>(start: *const u8, len: usize) -> KernelError {
    KernelError::Misaligned { offset: start as usize % 64, len, element: size_of::<T>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(buffer: BufferId, offset: usize, len: usize) -> Region {
        Region { buffer, offset, len }
    }

    fn plain(region: Region) -> Write {
        Write { region, in_place: None }
    }

    #[test]
    fn disjoint_views_of_one_buffer_live_together() {
        let mut b = Buffers::new();
        let id = b.add(256).unwrap();
        let mut v = b.views(&[region(id, 0, 64)], &[plain(region(id, 64, 64)), plain(region(id, 128, 8))]).unwrap();
        let (x, y, z) = (v.read::<f32>(0).unwrap(), v.write::<f32>(0).unwrap(), v.write::<i64>(1).unwrap());
        y.copy_from_slice(x);
        y[3] = 2.0;
        z[0] = -1;
        assert!(matches!(v.write::<f32>(0), Err(KernelError::NoView(0))));
        assert_eq!(b.bytes(region(id, 76, 4)).unwrap(), 2.0f32.to_ne_bytes());
        assert_eq!(b.bytes(region(id, 128, 8)).unwrap(), [255; 8]);
        assert_eq!(b.bytes(region(id, 0, 1)).unwrap().as_ptr() as usize % 64, 0);
    }

    #[test]
    fn overlaps_are_refused() {
        let mut b = Buffers::new();
        let (id, other) = (b.add(256).unwrap(), b.add(256).unwrap());
        let (r, w) = (region(id, 0, 64), region(id, 32, 64));
        assert!(matches!(b.views(&[r], &[plain(w)]), Err(KernelError::Overlap { .. })));
        assert!(matches!(b.views(&[], &[plain(r), plain(w)]), Err(KernelError::Overlap { .. })));
        assert!(b.views(&[r], &[plain(region(other, 32, 64))]).is_ok());
        assert!(b.views(&[r, region(id, 16, 64)], &[]).is_ok());
        assert!(matches!(b.views(&[region(id, 200, 57)], &[]), Err(KernelError::RegionOutside { .. })));
        assert!(matches!(b.views(&[region(id, usize::MAX, 2)], &[]), Err(KernelError::RegionOutside { .. })));
        assert!(matches!(b.views(&[region(BufferId(9), 0, 0)], &[]), Err(KernelError::NoBuffer(9))));
    }

    #[test]
    fn in_place_needs_one_identical_read() {
        let mut b = Buffers::new();
        let id = b.add(128).unwrap();
        let r = region(id, 0, 64);
        let mut v = b.views(&[r], &[Write { region: r, in_place: Some(0) }]).unwrap();
        assert!(matches!(v.read::<u8>(0), Err(KernelError::NoView(0))));
        assert_eq!(v.write::<f32>(0).unwrap().len(), 16);
        let twice = b.views(&[r, r], &[Write { region: r, in_place: Some(0) }]);
        assert!(matches!(twice, Err(KernelError::Overlap { .. })));
        let shifted = b.views(&[region(id, 4, 64)], &[Write { region: r, in_place: Some(0) }]);
        assert!(matches!(shifted, Err(KernelError::NotInPlace(_))));
        let missing = b.views(&[], &[Write { region: r, in_place: Some(0) }]);
        assert!(matches!(missing, Err(KernelError::NotInPlace(_))));
    }

    #[test]
    fn constants_are_shared_and_never_written() {
        let t = Tensor::from_vec(&[3], vec![1f32, 2.0, 3.0]).unwrap();
        let mut b = Buffers::new();
        let id = b.add_constant(t.clone());
        let all = region(id, 0, 12);
        assert_eq!(b.bytes(all).unwrap().as_ptr(), t.bytes().as_ptr());
        assert!(matches!(b.views(&[], &[plain(all)]), Err(KernelError::WriteToConstant(_))));
        assert!(matches!(b.bytes_mut(all), Err(KernelError::WriteToConstant(_))));
        assert_eq!(b.views(&[all], &[]).unwrap().read::<f32>(0).unwrap(), [1.0, 2.0, 3.0]);
        assert!(matches!(
            b.views(&[region(id, 1, 8)], &[]).unwrap().read::<f32>(0),
            Err(KernelError::Misaligned { .. })
        ));
        assert_eq!(b.allocated(), 0);
    }
}
