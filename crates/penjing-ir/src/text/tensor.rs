//! Tensor literals: `[0.5, -1.0]` for a few elements, hexadecimal little-endian bytes for many.

use super::cursor::{Cursor, Why};
use crate::Fact;
use penjing_tensor::{DType, Tensor, bf16, element_count, f16};
use std::fmt::Write;

/// Tensors of up to this many elements are written as numbers.
const INLINE: usize = 16;

/// Writes the elements so that the same bits come back.
pub(super) fn print(t: &Tensor, out: &mut String) {
    let plain = t.len() <= INLINE && t.to_f64s().iter().all(|v| !v.is_nan());
    if !plain {
        out.push('x');
        for element in t.bytes().chunks(t.dtype().size()) {
            let mut digits = element.to_vec();
            if cfg!(target_endian = "big") {
                digits.reverse();
            }
            digits.iter().for_each(|b| {
                let _ = write!(out, "{b:02x}");
            });
        }
        return;
    }
    let items: Vec<String> = match t.dtype() {
        DType::F64 => t.to_f64s().iter().map(|v| format!("{v:?}")).collect(),
        // The shortest digits of the f32 give it back, and an f16 or bf16 that became an f32 comes back exactly.
        DType::F32 | DType::F16 | DType::BF16 => t.to_f64s().iter().map(|&v| format!("{:?}", v as f32)).collect(),
        DType::U64 => {
            let words = t.bytes().chunks_exact(8);
            words.map(|w| u64::from_ne_bytes(w.try_into().expect("chunks of eight bytes")).to_string()).collect()
        }
        _ => t.to_i64s().unwrap_or_default().iter().map(i64::to_string).collect(),
    };
    let _ = write!(out, "[{}]", items.join(", "));
}

/// Reads a tensor with the dtype and shape of `fact`.
pub(super) fn parse(c: &mut Cursor<'_>, fact: &Fact) -> Result<Tensor, Why> {
    let shape = fact.concrete().ok_or("a tensor's shape has no symbols")?;
    let count = element_count(&shape).ok_or("the shape is too large")?;
    if c.eat("...") {
        return Err("the data is left out, as in a summary".into());
    }
    if c.eat("x") {
        return bytes(c, fact.dtype, &shape, count);
    }
    let tensor = match fact.dtype {
        DType::F64 => Tensor::from_vec(&shape, items::<f64>(c, count)?),
        DType::F32 => Tensor::from_vec(&shape, items::<f32>(c, count)?),
        DType::F16 => Tensor::from_vec(&shape, items::<f32>(c, count)?.into_iter().map(f16::from_f32).collect()),
        DType::BF16 => Tensor::from_vec(&shape, items::<f32>(c, count)?.into_iter().map(bf16::from_f32).collect()),
        DType::I64 => Tensor::from_vec(&shape, items::<i64>(c, count)?),
        DType::I32 => Tensor::from_vec(&shape, items::<i32>(c, count)?),
        DType::I16 => Tensor::from_vec(&shape, items::<i16>(c, count)?),
        DType::I8 => Tensor::from_vec(&shape, items::<i8>(c, count)?),
        DType::U64 => Tensor::from_vec(&shape, items::<u64>(c, count)?),
        DType::U32 => Tensor::from_vec(&shape, items::<u32>(c, count)?),
        DType::U16 => Tensor::from_vec(&shape, items::<u16>(c, count)?),
        DType::U8 => Tensor::from_vec(&shape, items::<u8>(c, count)?),
        DType::Bool => Tensor::from_bools(&shape, &items::<u8>(c, count)?.iter().map(|&v| v != 0).collect::<Vec<_>>()),
    };
    tensor.map_err(|e| e.to_string())
}

fn items<T: std::str::FromStr>(c: &mut Cursor<'_>, count: usize) -> Result<Vec<T>, Why> {
    let items = c.list("[", "]", |c| c.parse("an element"))?;
    if items.len() == count { Ok(items) } else { Err(format!("{} elements for {count}", items.len())) }
}

fn bytes(c: &mut Cursor<'_>, dtype: DType, shape: &[usize], count: usize) -> Result<Tensor, Why> {
    let digits = if count == 0 { "" } else { c.word()? };
    let size = dtype.size();
    if digits.len() != count.checked_mul(2 * size).ok_or("the shape is too large")? {
        return Err(format!("{} hexadecimal digits for {count} elements of {dtype}", digits.len()));
    }
    let value = |d: u8| (d as char).to_digit(16).map(|v| v as u8).ok_or("not a hexadecimal digit");
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.as_bytes().chunks_exact(2) {
        bytes.push(value(pair[0])? << 4 | value(pair[1])?);
    }
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    if dtype == DType::Bool && bytes.iter().any(|&b| b > 1) {
        return Err("a bool is 0 or 1".into());
    }
    Tensor::from_bytes(dtype, shape, &bytes).map_err(|e| e.to_string())
}
