//! NumPy's .npy files (NEP 1, format versions 1.0 to 3.0; written as 1.0).
//!
//! Little-endian numbers and booleans only; Fortran order is transposed on reading. Structured, text and object arrays
//! (which would be pickles) are errors.

use crate::{DataError, write_atomically};
use penjing_tensor::{DType, Tensor, element_count, map_file, strides};
use std::{
    io::{self, Write},
    path::Path,
};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy's own limit on the number of axes.
const MAX_RANK: usize = 64;
/// NumPy pads the header so that the elements start at a multiple of this.
const ALIGNMENT: usize = 64;

/// Reads the array in the file at `path`.
pub fn read_npy(path: &Path) -> Result<Tensor, DataError> {
    let map = map_file(path).map_err(|e| DataError::io("read", path, e))?;
    npy_from_bytes(&map, &path.display().to_string())
}

/// Writes `tensor` to `path`, whole or not at all. `bf16` has no NumPy type and is an error.
pub fn write_npy(path: &Path, tensor: &Tensor) -> Result<(), DataError> {
    write_atomically(path, |w| npy_to_writer(w, tensor))
}

/// The array in `bytes`, the contents of a whole .npy file; `name` stands for the file in errors.
pub fn npy_from_bytes(bytes: &[u8], name: &str) -> Result<Tensor, DataError> {
    let bad = |reason: String| DataError::Npy { file: name.to_owned(), reason };
    let (header, data) = split_header(bytes).map_err(bad)?;
    let Header { descr, fortran_order, shape } = parse_header(header).map_err(bad)?;
    let dtype =
        dtype_of(&descr).map_err(|hint| DataError::NpyType { file: name.to_owned(), descr: descr.clone(), hint })?;
    if shape.len() > MAX_RANK {
        return Err(bad(format!("{} axes, NumPy allows {MAX_RANK}", shape.len())));
    }
    let need = element_count(&shape).and_then(|n| n.checked_mul(dtype.size()));
    if need != Some(data.len()) {
        let need = need.map_or("more bytes than exist".to_owned(), |n| format!("{n} bytes"));
        return Err(bad(format!(
            "shape {shape:?} of {dtype} needs {need} after the header, {} are present",
            data.len()
        )));
    }
    let tensor = if fortran_order && shape.len() > 1 {
        from_fortran_order(dtype, &shape, data)
    } else {
        Tensor::from_bytes(dtype, &shape, data)
    };
    let mut tensor = tensor.map_err(|e| bad(e.to_string()))?;
    if dtype == DType::Bool {
        tensor.bytes_mut().iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    Ok(tensor)
}

/// Writes `tensor` as a .npy file. `bf16`, which has no NumPy type, and more than 64 axes are errors.
pub fn npy_to_writer(w: &mut impl Write, tensor: &Tensor) -> io::Result<()> {
    let descr = descr_of(tensor.dtype()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::Unsupported, format!("NumPy has no {} type; cast to f32 first", tensor.dtype()))
    })?;
    if tensor.rank() > MAX_RANK {
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{} axes, NumPy allows 64", tensor.rank())));
    }
    let shape = match tensor.shape() {
        [n] => format!("({n},)"),
        dims => format!("({})", dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(ALIGNMENT) - unpadded));
    header.push('\n');
    let len = u16::try_from(header.len()).expect("64 axes of 20 digits take under 2 KiB");
    w.write_all(MAGIC)?;
    w.write_all(&[1, 0])?;
    w.write_all(&len.to_le_bytes())?;
    w.write_all(header.as_bytes())?;
    w.write_all(tensor.bytes())
}

struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// The header's text and the bytes after it.
fn split_header(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not start with \\x93NUMPY")?;
    let (len, rest) = match rest {
        [1, _, a, b, rest @ ..] => (u32::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]), rest),
        [1..=3, ..] | [] => return Err("the file ends inside the header".to_owned()),
        [version, ..] => return Err(format!("format version {version} is unknown (1 to 3 are read)")),
    };
    let len = usize::try_from(len).map_err(|e| e.to_string())?;
    rest.split_at_checked(len).ok_or_else(|| format!("the header declares {len} bytes, {} are present", rest.len()))
}

/// Parses the Python dictionary literal that a header is.
fn parse_header(text: &[u8]) -> Result<Header, String> {
    let mut p = Literal { text, at: 0 };
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    p.expect(b'{')?;
    while !p.take(b'}') {
        let key = p.string()?;
        p.expect(b':')?;
        let repeated = match key.as_str() {
            "descr" => descr.replace(p.descr()?).is_some(),
            "fortran_order" => fortran_order.replace(p.boolean()?).is_some(),
            "shape" => shape.replace(p.shape()?).is_some(),
            _ => return Err(format!("unknown header key {key:?}")),
        };
        if repeated {
            return Err(format!("header key {key:?} stands twice"));
        }
        if !p.take(b',') {
            p.expect(b'}')?;
            break;
        }
    }
    p.skip_space();
    if p.at != text.len() {
        return Err(format!("unexpected bytes after the header's dictionary, at {}", p.at));
    }
    match (descr, fortran_order, shape) {
        (Some(descr), Some(fortran_order), Some(shape)) => Ok(Header { descr, fortran_order, shape }),
        _ => Err("the header lacks one of descr, fortran_order, shape".to_owned()),
    }
}

/// A cursor over the few Python literals that stand in a header.
struct Literal<'a> {
    text: &'a [u8],
    at: usize,
}

impl Literal<'_> {
    fn skip_space(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(format!("expected {:?} at byte {} of the header", byte as char, self.at))
        }
    }

    fn word(&mut self, accept: impl Fn(u8) -> bool) -> String {
        let rest = &self.text[self.at..];
        let len = rest.iter().position(|&b| !accept(b)).unwrap_or(rest.len());
        self.at += len;
        rest[..len].iter().map(|&b| b as char).collect()
    }

    fn string(&mut self) -> Result<String, String> {
        let quote = if self.take(b'"') { b'"' } else { b'\'' };
        if quote == b'\'' {
            self.expect(quote)?;
        }
        let word = self.word(|b| b != quote && b != b'\\' && b.is_ascii_graphic());
        self.expect(quote)?;
        Ok(word)
    }

    fn descr(&mut self) -> Result<String, String> {
        self.skip_space();
        if self.text.get(self.at) == Some(&b'[') {
            return Err("it is a structured array; save each field as an array of its own".to_owned());
        }
        self.string()
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.skip_space();
        match self.word(|b| b.is_ascii_alphabetic()).as_str() {
            "True" => Ok(true),
            "False" => Ok(false),
            other => Err(format!("fortran_order is {other:?}, neither True nor False")),
        }
    }

    fn shape(&mut self) -> Result<Vec<usize>, String> {
        let mut shape = Vec::new();
        self.expect(b'(')?;
        while !self.take(b')') {
            self.skip_space();
            let digits = self.word(|b| b.is_ascii_digit());
            shape.push(digits.parse().map_err(|e| format!("dimension {digits:?} of the shape: {e}"))?);
            if !self.take(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(shape)
    }
}

fn dtype_of(descr: &str) -> Result<DType, &'static str> {
    let (order, kind) = descr.split_at_checked(1).unwrap_or(("", descr));
    let dtype = match kind {
        "f8" => DType::F64,
        "f4" => DType::F32,
        "f2" => DType::F16,
        "i8" => DType::I64,
        "i4" => DType::I32,
        "i2" => DType::I16,
        "i1" => DType::I8,
        "u8" => DType::U64,
        "u4" => DType::U32,
        "u2" => DType::U16,
        "u1" => DType::U8,
        "b1" => DType::Bool,
        _ => return Err("only f8 f4 f2, i8 to i1, u8 to u1 and b1 are; convert it with numpy's astype"),
    };
    match order {
        "<" => Ok(dtype),
        "|" | "=" | ">" if dtype.size() == 1 => Ok(dtype),
        ">" => Err("it is big-endian; convert it with numpy's astype to little-endian"),
        _ => Err("its byte order is not stated"),
    }
}

fn descr_of(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::BF16 => return None,
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I16 => "<i2",
        DType::I8 => "|i1",
        DType::U64 => "<u8",
        DType::U32 => "<u4",
        DType::U16 => "<u2",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
    })
}

/// The row-major tensor of `data` in column-major order, whose first axis runs fastest.
fn from_fortran_order(dtype: DType, shape: &[usize], data: &[u8]) -> Result<Tensor, penjing_tensor::TensorError> {
    let mut out = Tensor::zeros(dtype, shape)?;
    let size = dtype.size();
    let reversed: Vec<usize> = shape.iter().rev().copied().collect();
    let source_strides: Vec<usize> = strides(&reversed).into_iter().rev().collect();
    let mut index = vec![0; shape.len()];
    let mut source = 0;
    for element in out.bytes_mut().chunks_exact_mut(size) {
        element.copy_from_slice(&data[source * size..][..size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            source += source_strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            source -= source_strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use penjing_tensor::f16;

    /// The bytes that NumPy 2 writes for `np.arange(6, dtype='<i2').reshape(2, 3)` (as C and as Fortran array).
    fn numpy_file(fortran: &str, values: [i16; 6]) -> Vec<u8> {
        let mut header = format!("{{'descr': '<i2', 'fortran_order': {fortran}, 'shape': (2, 3), }}");
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        bytes
    }

    #[test]
    fn c_and_fortran_order_give_the_same_array() {
        let c = npy_from_bytes(&numpy_file("False", [0, 1, 2, 3, 4, 5]), "c").unwrap();
        let f = npy_from_bytes(&numpy_file("True", [0, 3, 1, 4, 2, 5]), "f").unwrap();
        assert_eq!(c.as_slice::<i16>().unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!((c.shape(), &c), ([2usize, 3].as_slice(), &f));
    }

    #[test]
    fn every_numpy_dtype_survives_a_round_trip_and_bf16_is_refused() {
        for dtype in DType::ALL {
            for shape in [vec![], vec![0], vec![3], vec![2, 0, 4], vec![2, 3, 1]] {
                let n = element_count(&shape).unwrap();
                let t = Tensor::from_f64s(dtype, &shape, (0..n).map(|i| i as f64).collect()).unwrap();
                let mut bytes = Vec::new();
                let written = npy_to_writer(&mut bytes, &t);
                if dtype == DType::BF16 {
                    assert!(written.unwrap_err().to_string().contains("cast to f32"));
                    continue;
                }
                written.unwrap();
                assert_eq!((bytes.len() - t.size_bytes()) % 64, 0);
                assert_eq!(npy_from_bytes(&bytes, "t").unwrap(), t, "{dtype} {shape:?}");
            }
        }
    }

    #[test]
    fn half_precision_is_read_bit_for_bit() {
        let t = Tensor::from_vec(&[2], vec![f16::from_f32(1.5), f16::NAN]).unwrap();
        let mut bytes = Vec::new();
        npy_to_writer(&mut bytes, &t).unwrap();
        assert_eq!(bytes[bytes.len() - 4..][..2], [0x00, 0x3e]);
        assert_eq!(npy_from_bytes(&bytes, "h").unwrap(), t);
    }

    #[test]
    fn headers_that_say_too_much_are_errors() {
        let cases = [
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", "big-endian"),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "not supported"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "structured"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }", "more bytes than exist"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", "dimension"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "dimension"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "8 bytes"),
            ("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }", "neither True nor False"),
            ("{'descr': '<f4', 'shape': (1,), }", "lacks"),
            ("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "twice"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } x", "after the header"),
        ];
        for (header, message) in cases {
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(&[0; 4]);
            let error = npy_from_bytes(&bytes, "case.npy").unwrap_err().to_string();
            assert!(error.contains(message) && error.contains("case.npy"), "{header}: {error}");
        }
    }
}
