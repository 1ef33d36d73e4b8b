//! `TensorProto` to [`Tensor`] and back, for every dtype that Penjing has.

use crate::{
    ExternalFiles, OnnxError,
    proto::{ElemType, TensorProto},
};
use bytes::Bytes;
use penjing_tensor::{DType, Element, Tensor, TensorError, bf16, element_count, f16};
use std::borrow::Cow;

/// The tensor that `proto` holds or names in an external file.
///
/// Declared dims are checked against the bytes present before anything is allocated.
///
/// # Errors
/// `UnsupportedElement` for strings, complex numbers and the 8-bit floats and narrower types; `Tensor` or `ExternalData`,
/// naming tensor and file, when dims and data do not agree.
pub fn tensor_from_proto(proto: &TensorProto, files: &ExternalFiles) -> Result<Tensor, OnnxError> {
    let fail = |why: String| OnnxError::Tensor { tensor: proto.name.clone(), file: files.file().to_string(), why };
    let Some(dtype) = dtype_of(proto.data_type) else {
        return match ElemType::try_from(proto.data_type) {
            Ok(ElemType::Undefined) | Err(_) => Err(fail(format!("has no known element type ({})", proto.data_type))),
            Ok(elem) => Err(OnnxError::UnsupportedElement {
                tensor: proto.name.clone(),
                file: files.file().to_string(),
                elem: format!("{elem:?}"),
            }),
        };
    };
    let shape = proto.dims.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_| fail(format!("dims {:?} hold a negative number", proto.dims)))?;
    let count = element_count(&shape)
        .filter(|n| n.checked_mul(dtype.size()).is_some())
        .ok_or_else(|| fail(format!("dims {shape:?} are larger than any memory")))?;
    let need = count * dtype.size();

    if proto.data_location == 1 {
        let bytes = files.bytes(proto, need)?;
        return from_file(dtype, &shape, &bytes, files).map_err(|e| fail(e.to_string()));
    }
    if proto.data_location != 0 {
        return Err(fail(format!("has the unknown data location {}", proto.data_location)));
    }
    match &proto.raw_data {
        Some(raw) if !raw.is_empty() || typed_len(proto, dtype) == 0 => {
            if raw.len() != need {
                return Err(fail(format!("dims {shape:?} of {dtype} need {need} bytes, {} are present", raw.len())));
            }
            from_file(dtype, &shape, raw, files).map_err(|e| fail(e.to_string()))
        }
        _ => {
            let have = typed_len(proto, dtype);
            if have != count {
                return Err(fail(format!("dims {shape:?} need {count} elements, {have} are present")));
            }
            from_typed(proto, dtype, &shape).map_err(fail)
        }
    }
}

/// `tensor` under `name`, its elements as raw data that shares the tensor's memory.
pub fn tensor_to_proto(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: name.to_string(),
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: elem_type(tensor.dtype()) as i32,
        raw_data: Some(to_little_endian(tensor)),
        ..TensorProto::default()
    }
}

/// The dtype of an ONNX element type; `None` where Penjing has none.
pub fn dtype_of(elem_type: i32) -> Option<DType> {
    Some(match ElemType::try_from(elem_type).ok()? {
        ElemType::Double => DType::F64,
        ElemType::Float => DType::F32,
        ElemType::Float16 => DType::F16,
        ElemType::Bfloat16 => DType::BF16,
        ElemType::Int64 => DType::I64,
        ElemType::Int32 => DType::I32,
        ElemType::Int16 => DType::I16,
        ElemType::Int8 => DType::I8,
        ElemType::Uint64 => DType::U64,
        ElemType::Uint32 => DType::U32,
        ElemType::Uint16 => DType::U16,
        ElemType::Uint8 => DType::U8,
        ElemType::Bool => DType::Bool,
        _ => return None,
    })
}

/// The ONNX element type of a dtype.
pub fn elem_type(dtype: DType) -> ElemType {
    match dtype {
        DType::F64 => ElemType::Double,
        DType::F32 => ElemType::Float,
        DType::F16 => ElemType::Float16,
        DType::BF16 => ElemType::Bfloat16,
        DType::I64 => ElemType::Int64,
        DType::I32 => ElemType::Int32,
        DType::I16 => ElemType::Int16,
        DType::I8 => ElemType::Int8,
        DType::U64 => ElemType::Uint64,
        DType::U32 => ElemType::Uint32,
        DType::U16 => ElemType::Uint16,
        DType::U8 => ElemType::Uint8,
        DType::Bool => ElemType::Bool,
    }
}

/// Elements present in the typed field that `dtype` uses.
fn typed_len(proto: &TensorProto, dtype: DType) -> usize {
    match dtype {
        DType::F32 => proto.float_data.len(),
        DType::F64 => proto.double_data.len(),
        DType::I64 => proto.int64_data.len(),
        DType::U64 | DType::U32 => proto.uint64_data.len(),
        _ => proto.int32_data.len(),
    }
}

/// The tensor from its typed field, whose length has been checked.
fn from_typed(proto: &TensorProto, dtype: DType, shape: &[usize]) -> Result<Tensor, String> {
    let ints = &proto.int32_data;
    let tensor = match dtype {
        DType::F32 => Tensor::from_vec(shape, proto.float_data.clone()),
        DType::F64 => Tensor::from_vec(shape, proto.double_data.clone()),
        DType::I64 => Tensor::from_vec(shape, proto.int64_data.clone()),
        DType::U64 => Tensor::from_vec(shape, proto.uint64_data.clone()),
        DType::U32 => Tensor::from_vec::<u32>(shape, narrow(&proto.uint64_data, dtype)?),
        DType::I32 => Tensor::from_vec(shape, ints.clone()),
        DType::I16 => Tensor::from_vec::<i16>(shape, narrow(ints, dtype)?),
        DType::I8 => Tensor::from_vec::<i8>(shape, narrow(ints, dtype)?),
        DType::U16 => Tensor::from_vec::<u16>(shape, narrow(ints, dtype)?),
        DType::U8 => Tensor::from_vec::<u8>(shape, narrow(ints, dtype)?),
        DType::Bool => Tensor::from_bools(shape, &ints.iter().map(|&v| v != 0).collect::<Vec<_>>()),
        DType::F16 => Tensor::from_vec(shape, narrow::<_, u16>(ints, dtype)?.into_iter().map(f16::from_bits).collect()),
        DType::BF16 => {
            Tensor::from_vec(shape, narrow::<_, u16>(ints, dtype)?.into_iter().map(bf16::from_bits).collect())
        }
    };
    tensor.map_err(|e| e.to_string())
}

fn narrow<S: Copy + std::fmt::Display, T: Element + TryFrom<S>>(values: &[S], dtype: DType) -> Result<Vec<T>, String> {
    values.iter().map(|&v| T::try_from(v).map_err(|_| format!("{v} does not fit {dtype}"))).collect()
}

/// The tensor of these little-endian bytes: in the mapped file where they lie in one and can be read there.
fn from_file(dtype: DType, shape: &[usize], bytes: &[u8], files: &ExternalFiles) -> Result<Tensor, TensorError> {
    files.mapped(dtype, shape, bytes).map_or_else(|| from_little_endian(dtype, shape, bytes), Ok)
}

fn from_little_endian(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, TensorError> {
    let mut tensor = Tensor::from_bytes(dtype, shape, &native_order(bytes, dtype.size()))?;
    if dtype == DType::Bool {
        // A byte other than 0 and 1 would break the invariant of `Bool` tensors.
        tensor.bytes_mut().iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    Ok(tensor)
}

fn to_little_endian(tensor: &Tensor) -> Bytes {
    struct Shared(Tensor);
    impl AsRef<[u8]> for Shared {
        fn as_ref(&self) -> &[u8] {
            self.0.bytes()
        }
    }
    match native_order(tensor.bytes(), tensor.dtype().size()) {
        Cow::Borrowed(_) => Bytes::from_owner(Shared(tensor.clone())),
        Cow::Owned(swapped) => Bytes::from(swapped),
    }
}

/// Little-endian bytes in the machine's order, or the other way round; no copy on little-endian machines.
fn native_order(bytes: &[u8], element: usize) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") || element == 1 {
        return Cow::Borrowed(bytes);
    }
    let mut swapped = bytes.to_vec();
    swapped.chunks_exact_mut(element).for_each(<[u8]>::reverse);
    Cow::Owned(swapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(proto: &TensorProto) -> Result<Tensor, OnnxError> {
        tensor_from_proto(proto, &ExternalFiles::none("m.onnx"))
    }

    #[test]
    fn every_dtype_survives_a_round_trip() {
        for dtype in DType::ALL {
            let t = Tensor::from_f64s(dtype, &[2, 3], vec![0.0, 1.0, 2.0, 3.0, 100.0, 1.0]).unwrap();
            let proto = tensor_to_proto("t", &t);
            assert_eq!(dtype_of(proto.data_type), Some(dtype));
            assert_eq!(read(&proto).unwrap(), t);
        }
    }

    #[test]
    fn typed_fields_are_read_as_the_format_says() {
        let proto = |elem: ElemType| TensorProto {
            name: "t".into(),
            dims: vec![2],
            data_type: elem as i32,
            ..TensorProto::default()
        };
        let t = read(&TensorProto { int32_data: vec![0x3C00, 0xC000], ..proto(ElemType::Float16) }).unwrap();
        assert_eq!((t.dtype(), t.to_f64s()), (DType::F16, vec![1.0, -2.0]));
        let t = read(&TensorProto { int32_data: vec![0x3F80, 0xC000], ..proto(ElemType::Bfloat16) }).unwrap();
        assert_eq!((t.dtype(), t.to_f64s()), (DType::BF16, vec![1.0, -2.0]));
        let t = read(&TensorProto { int32_data: vec![-1, 127], ..proto(ElemType::Int8) }).unwrap();
        assert_eq!(t.as_slice::<i8>().unwrap(), [-1, 127]);
        let t = read(&TensorProto { uint64_data: vec![1, u64::from(u32::MAX)], ..proto(ElemType::Uint32) }).unwrap();
        assert_eq!(t.as_slice::<u32>().unwrap(), [1, u32::MAX]);
        let t = read(&TensorProto { int32_data: vec![1, 0], ..proto(ElemType::Bool) }).unwrap();
        assert_eq!(t.as_slice::<u8>().unwrap(), [1, 0]);
        assert!(read(&TensorProto { int32_data: vec![1, 128], ..proto(ElemType::Int8) }).is_err());
    }

    #[test]
    fn absurd_tensors_are_errors_before_allocation() {
        let base = TensorProto { name: "t".into(), data_type: ElemType::Float as i32, ..TensorProto::default() };
        for dims in [vec![-1], vec![i64::MAX, i64::MAX], vec![1 << 40], vec![2, 2]] {
            let error =
                read(&TensorProto { dims: dims.clone(), raw_data: Some(Bytes::from_static(&[0; 4])), ..base.clone() });
            assert!(
                matches!(&error, Err(OnnxError::Tensor { tensor, file, .. }) if tensor == "t" && file == "m.onnx"),
                "{dims:?}"
            );
            assert!(read(&TensorProto { dims, float_data: vec![1.0], ..base.clone() }).is_err());
        }
        let empty = read(&TensorProto { dims: vec![1 << 40, 0], ..base.clone() }).unwrap();
        assert!(empty.is_empty());
        assert!(read(&TensorProto { data_type: 99, ..base.clone() }).is_err_and(|e| !e.is_unsupported()));
        assert!(read(&TensorProto { data_type: ElemType::String as i32, ..base }).is_err_and(|e| e.is_unsupported()));
    }

    #[test]
    fn bool_bytes_become_zero_or_one() {
        let raw_data = Some(Bytes::from_static(&[0, 7, 255]));
        let t =
            read(&TensorProto { dims: vec![3], data_type: ElemType::Bool as i32, raw_data, ..TensorProto::default() });
        assert_eq!(t.unwrap().bytes(), [0, 1, 1]);
    }
}
