//! A dense, row-major, immutable-by-sharing tensor.

use crate::{DType, Element, MappedFile, element_count, map_file::MappedPart};
use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use std::{
    fmt,
    hash::{Hash, Hasher},
    ops::Range,
    sync::{Arc, OnceLock},
};

/// Memory is counted in cache lines so that a tensor of its own starts 64-byte aligned.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes of either end that a hash reads.
const HASHED_END: usize = 128;

/// Why a tensor cannot be made or viewed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum TensorError {
    #[error("a tensor of shape {shape:?} and dtype {dtype} needs more bytes than this machine can address")]
    TooLarge { dtype: DType, shape: Vec<usize> },
    #[error("shape {shape:?} of {dtype} needs {need} bytes, {have} are present")]
    SizeMismatch { dtype: DType, shape: Vec<usize>, need: usize, have: usize },
    #[error("tensor is {have}, {want} was asked for")]
    WrongDType { have: DType, want: DType },
    #[error("cannot view shape {from:?} as {to:?}: different element counts")]
    Reshape { from: Vec<usize>, to: Vec<usize> },
}

/// A dense row-major tensor. Cloning shares the bytes; writing copies them first when they are shared.
///
/// Equality and hash are bitwise (NaN equals itself, 0.0 differs from −0.0), so that constants can be merged.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    storage: Storage,
}

/// Where a tensor's bytes are.
#[derive(Clone)]
enum Storage {
    Owned(Arc<Vec<Line>>),
    Mapped(Arc<Mapped>),
}

/// Bytes in a mapped file: memory only where they are touched.
struct Mapped {
    part: MappedPart,
    /// The copy that is read instead where the file has them at an address that their type cannot have; made when first asked for.
    aligned: OnceLock<Vec<Line>>,
}

impl Storage {
    fn owned(lines: Vec<Line>) -> Storage {
        Storage::Owned(Arc::new(lines))
    }

    /// `len` bytes, at any alignment.
    fn raw(&self, len: usize) -> &[u8] {
        match self {
            Storage::Owned(lines) => &bytemuck::cast_slice(lines)[..len],
            Storage::Mapped(mapped) => &mapped.part,
        }
    }

    fn is(&self, other: &Storage) -> bool {
        match (self, other) {
            (Storage::Owned(a), Storage::Owned(b)) => Arc::ptr_eq(a, b),
            (Storage::Mapped(a), Storage::Mapped(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// A copy of the bytes, the rest of the last line zero.
fn lines_of(bytes: &[u8]) -> Vec<Line> {
    let (whole, rest) = bytes.as_chunks::<64>();
    let mut lines = Vec::with_capacity(bytes.len().div_ceil(64));
    lines.extend(whole.iter().map(|line| Line(*line)));
    if !rest.is_empty() {
        let mut last = [0; 64];
        last[..rest.len()].copy_from_slice(rest);
        lines.push(Line(last));
    }
    lines
}

impl Tensor {
    /// A tensor of zeros (`false` for `Bool`).
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        let len = byte_len(dtype, shape)?;
        Ok(Tensor { dtype, shape: shape.to_vec(), storage: Storage::owned(vec![Line([0; 64]); len.div_ceil(64)]) })
    }

    /// A tensor from its elements in row-major order.
    pub fn from_vec<T: Element>(shape: &[usize], data: Vec<T>) -> Result<Tensor, TensorError> {
        Tensor::from_bytes(T::DTYPE, shape, bytemuck::cast_slice(&data))
    }

    /// A tensor from the native-endian bytes of its elements.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, TensorError> {
        let need = byte_len(dtype, shape)?;
        if need != bytes.len() {
            return Err(TensorError::SizeMismatch { dtype, shape: shape.to_vec(), need, have: bytes.len() });
        }
        Ok(Tensor { dtype, shape: shape.to_vec(), storage: Storage::owned(lines_of(bytes)) })
    }

    /// A tensor whose elements stay where they are, native-endian, in this part of a mapped file. Where the part does not lie as
    /// the elements must, they are copied when they are first read.
    ///
    /// `Bool` tensors cannot be mapped, because a file may hold bytes other than 0 and 1: they are copied by the caller.
    pub fn mapped(
        dtype: DType,
        shape: &[usize],
        file: &Arc<MappedFile>,
        part: Range<usize>,
    ) -> Result<Tensor, TensorError> {
        let need = byte_len(dtype, shape)?;
        let mismatch = |have| TensorError::SizeMismatch { dtype, shape: shape.to_vec(), need, have };
        if dtype == DType::Bool || need != part.len() {
            return Err(mismatch(part.len()));
        }
        let part = MappedPart::new(Arc::clone(file), part).ok_or_else(|| mismatch(0))?;
        let mapped = Mapped { part, aligned: OnceLock::new() };
        Ok(Tensor { dtype, shape: shape.to_vec(), storage: Storage::Mapped(Arc::new(mapped)) })
    }

    /// A `Bool` tensor from its elements in row-major order.
    pub fn from_bools(shape: &[usize], data: &[bool]) -> Result<Tensor, TensorError> {
        let bytes: Vec<u8> = data.iter().map(|&b| u8::from(b)).collect();
        Tensor::from_bytes(DType::Bool, shape, &bytes)
    }

    /// A tensor of shape [] with one element.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor::from_vec(&[], vec![value]).expect("one element fits shape []")
    }

    /// A tensor of `dtype` from values given as `f64`; each is converted as by [`Tensor::cast`].
    pub fn from_f64s(dtype: DType, shape: &[usize], data: Vec<f64>) -> Result<Tensor, TensorError> {
        Ok(Tensor::from_vec(shape, data)?.cast(dtype))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        element_count(&self.shape).expect("checked when the tensor was made")
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all elements, without padding.
    pub fn size_bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// The elements as native-endian bytes, aligned as the elements must be; 64-byte aligned where they are not in a mapped file.
    pub fn bytes(&self) -> &[u8] {
        let raw = self.storage.raw(self.size_bytes());
        match &self.storage {
            Storage::Mapped(mapped) if !(raw.as_ptr() as usize).is_multiple_of(self.dtype.size()) => {
                let lines = mapped.aligned.get_or_init(|| {
                    let lines = lines_of(raw);
                    mapped.part.release();
                    lines
                });
                &bytemuck::cast_slice(lines)[..raw.len()]
            }
            _ => raw,
        }
    }

    /// The bytes where they lie, at any alignment: for what only moves elements, and so needs no copy of a mapped tensor.
    pub fn raw_bytes(&self) -> &[u8] {
        self.storage.raw(self.size_bytes())
    }

    /// The bytes for writing; copies them first when another tensor shares them, or a file has them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.size_bytes();
        if let Storage::Mapped(_) = &self.storage {
            self.storage = Storage::owned(lines_of(self.storage.raw(len)));
        }
        match &mut self.storage {
            Storage::Owned(lines) => &mut bytemuck::cast_slice_mut(Arc::make_mut(lines).as_mut_slice())[..len],
            Storage::Mapped(_) => unreachable!("copied above"),
        }
    }

    /// The elements as a slice. Errors when the dtype is another one (`u8` also reads `Bool`).
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        if T::reads(self.dtype) {
            Ok(bytemuck::cast_slice(self.bytes()))
        } else {
            Err(TensorError::WrongDType { have: self.dtype, want: T::DTYPE })
        }
    }

    /// The elements for writing; see [`Tensor::as_slice`].
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], TensorError> {
        if T::reads(self.dtype) {
            Ok(bytemuck::cast_slice_mut(self.bytes_mut()))
        } else {
            Err(TensorError::WrongDType { have: self.dtype, want: T::DTYPE })
        }
    }

    /// All elements converted to `f64` (64-bit integers round to the nearest representable value).
    pub fn to_f64s(&self) -> Vec<f64> {
        match self.dtype {
            DType::F64 => self.pod::<f64>().to_vec(),
            DType::F32 => self.pod::<f32>().iter().map(|&v| v.into()).collect(),
            DType::F16 => self.pod::<f16>().iter().map(|&v| v.into()).collect(),
            DType::BF16 => self.pod::<bf16>().iter().map(|&v| v.into()).collect(),
            _ => self.to_i128s().into_iter().map(|v| v as f64).collect(),
        }
    }

    /// All elements of an integer or `Bool` tensor as `i64`; `None` for floats or when a `u64` does not fit.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        if self.dtype.is_float() {
            return None;
        }
        self.to_i128s().into_iter().map(|v| i64::try_from(v).ok()).collect()
    }

    /// The tensor in another dtype.
    ///
    /// Float to integer truncates toward zero and saturates (NaN gives 0); integer to integer wraps, as a C cast does; anything
    /// to `Bool` is "not zero"; float to float rounds to nearest even.
    pub fn cast(&self, to: DType) -> Tensor {
        if to == self.dtype {
            return self.clone();
        }
        let mut out =
            Tensor::zeros(to, &self.shape).expect("as many elements as a tensor that exists, 8 bytes each at most");
        if self.dtype.is_float() || to.is_float() {
            let values = self.to_f64s();
            match to {
                DType::F64 => fill(&mut out, values, |v| v),
                // f32 → f16 and back go through f64 exactly; a double rounding cannot occur on a widening.
                DType::F32 => fill(&mut out, values, |v| v as f32),
                DType::F16 => fill(&mut out, values, f16::from_f64),
                DType::BF16 => fill(&mut out, values, bf16::from_f64),
                DType::I64 => fill(&mut out, values, |v| v as i64),
                DType::I32 => fill(&mut out, values, |v| v as i32),
                DType::I16 => fill(&mut out, values, |v| v as i16),
                DType::I8 => fill(&mut out, values, |v| v as i8),
                DType::U64 => fill(&mut out, values, |v| v as u64),
                DType::U32 => fill(&mut out, values, |v| v as u32),
                DType::U16 => fill(&mut out, values, |v| v as u16),
                DType::U8 => fill(&mut out, values, |v| v as u8),
                DType::Bool => fill(&mut out, values, |v| u8::from(v != 0.0)),
            }
        } else {
            let values = self.to_i128s();
            match to {
                DType::I64 => fill(&mut out, values, |v| v as i64),
                DType::I32 => fill(&mut out, values, |v| v as i32),
                DType::I16 => fill(&mut out, values, |v| v as i16),
                DType::I8 => fill(&mut out, values, |v| v as i8),
                DType::U64 => fill(&mut out, values, |v| v as u64),
                DType::U32 => fill(&mut out, values, |v| v as u32),
                DType::U16 => fill(&mut out, values, |v| v as u16),
                DType::U8 => fill(&mut out, values, |v| v as u8),
                DType::Bool => fill(&mut out, values, |v| u8::from(v != 0)),
                DType::F64 | DType::F32 | DType::F16 | DType::BF16 => unreachable!("floats took the other branch"),
            }
        }
        out
    }

    /// The same bytes under another shape of equal element count.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor, TensorError> {
        if element_count(shape) != Some(self.len()) {
            return Err(TensorError::Reshape { from: self.shape.clone(), to: shape.to_vec() });
        }
        Ok(Tensor { dtype: self.dtype, shape: shape.to_vec(), storage: self.storage.clone() })
    }

    fn to_i128s(&self) -> Vec<i128> {
        match self.dtype {
            DType::I64 => self.pod::<i64>().iter().map(|&v| v.into()).collect(),
            DType::I32 => self.pod::<i32>().iter().map(|&v| v.into()).collect(),
            DType::I16 => self.pod::<i16>().iter().map(|&v| v.into()).collect(),
            DType::I8 => self.pod::<i8>().iter().map(|&v| v.into()).collect(),
            DType::U64 => self.pod::<u64>().iter().map(|&v| v.into()).collect(),
            DType::U32 => self.pod::<u32>().iter().map(|&v| v.into()).collect(),
            DType::U16 => self.pod::<u16>().iter().map(|&v| v.into()).collect(),
            DType::U8 | DType::Bool => self.pod::<u8>().iter().map(|&v| v.into()).collect(),
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 => unreachable!("callers pass integers"),
        }
    }

    fn pod<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(self.bytes())
    }
}

fn fill<S, T: Pod>(out: &mut Tensor, values: Vec<S>, convert: impl Fn(S) -> T) {
    for (slot, v) in bytemuck::cast_slice_mut(out.bytes_mut()).iter_mut().zip(values) {
        *slot = convert(v);
    }
}

fn byte_len(dtype: DType, shape: &[usize]) -> Result<usize, TensorError> {
    element_count(shape)
        .and_then(|n| n.checked_mul(dtype.size()))
        .filter(|&n| n <= isize::MAX as usize - 64)
        .ok_or_else(|| TensorError::TooLarge { dtype, shape: shape.to_vec() })
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && (self.storage.is(&other.storage)
                || self.storage.raw(self.size_bytes()) == other.storage.raw(other.size_bytes()))
    }
}

impl Eq for Tensor {}

impl Hash for Tensor {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.dtype.hash(state);
        self.shape.hash(state);
        // The ends tell tensors apart well enough for a hash, and reading all of a large one costs.
        let raw = self.storage.raw(self.size_bytes());
        raw[..raw.len().min(HASHED_END)].hash(state);
        raw[raw.len().saturating_sub(HASHED_END)..].hash(state);
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)?;
        if self.len() <= 16 {
            write!(f, " {:?}", self.to_f64s())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_check_the_dtype() {
        let t = Tensor::from_vec(&[2, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(t.as_slice::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(t.as_slice::<i32>(), Err(TensorError::WrongDType { have: DType::F32, want: DType::I32 }));
        assert_eq!(t.bytes().as_ptr() as usize % 64, 0);
    }

    #[test]
    fn mapped_elements_are_read_at_any_offset_and_never_written() {
        let path = std::env::temp_dir().join(format!("penjing-tensor-{}", std::process::id()));
        let elements: Vec<f32> = (0..50_000).map(|i| i as f32 * 0.5).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&elements);
        for gap in 0..5 {
            let content = [&vec![7; gap], bytes].concat();
            std::fs::write(&path, &content).unwrap();
            let file = Arc::new(crate::map_file(&path).unwrap());
            let t = Tensor::mapped(DType::F32, &[500, 100], &file, gap..gap + bytes.len()).unwrap();
            let own = Tensor::from_vec(&[500, 100], elements.clone()).unwrap();
            assert_eq!((&t, t.as_slice::<f32>().unwrap()), (&own, &elements[..]));
            let inside = file.position(t.bytes()).is_some();
            assert_eq!(inside, gap % 4 == 0, "an aligned tensor is read in place, gap {gap}");
            assert_eq!(t.raw_bytes().as_ptr(), file[gap..].as_ptr());
            let mut changed = t.reshape(&[50_000]).unwrap();
            changed.as_mut_slice::<f32>().unwrap()[1] = -1.0;
            assert_eq!(changed.as_slice::<f32>().unwrap()[..3], [0.0, -1.0, 1.0]);
            assert_eq!(t, own);
            drop((t, changed));
            assert_eq!(file[..], content);
        }
        let file = Arc::new(crate::map_file(&path).unwrap());
        let end = file.len();
        for (shape, part) in
            [([2], 0..9), ([2], end - 4..end + 4), ([2], Range { start: 9, end: 1 }), ([usize::MAX], 0..8)]
        {
            assert!(Tensor::mapped(DType::F32, &shape, &file, part).is_err());
        }
        assert!(Tensor::mapped(DType::Bool, &[8], &file, 0..8).is_err());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn absurd_shapes_are_errors() {
        assert!(matches!(Tensor::zeros(DType::F32, &[usize::MAX, 4]), Err(TensorError::TooLarge { .. })));
        assert!(Tensor::from_vec(&[3], vec![1f32]).is_err());
    }

    #[test]
    fn casts_saturate_wrap_and_round() {
        let f = Tensor::from_vec(&[4], vec![300.7f32, -1.5, f32::NAN, f32::INFINITY]).unwrap();
        assert_eq!(f.cast(DType::U8).as_slice::<u8>().unwrap(), [255, 0, 0, 255]);
        let i = Tensor::from_vec(&[2], vec![300i32, -1]).unwrap();
        assert_eq!(i.cast(DType::U8).as_slice::<u8>().unwrap(), [44, 255]);
        assert_eq!(i.cast(DType::Bool).as_slice::<u8>().unwrap(), [1, 1]);
        assert_eq!(Tensor::scalar(i64::MAX).cast(DType::U64).as_slice::<u64>().unwrap(), [i64::MAX as u64]);
    }

    #[test]
    fn writing_to_a_shared_tensor_copies() {
        let a = Tensor::from_vec(&[2], vec![1i32, 2]).unwrap();
        let mut b = a.clone();
        b.as_mut_slice::<i32>().unwrap()[0] = 9;
        assert_eq!(a.as_slice::<i32>().unwrap(), [1, 2]);
        assert_eq!(b.as_slice::<i32>().unwrap(), [9, 2]);
        assert_ne!(a, b);
    }
}
