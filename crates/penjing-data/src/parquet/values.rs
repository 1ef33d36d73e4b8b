//! From pages to values: definition levels, plain and dictionary encoding, as <https://parquet.apache.org/docs/file-format/data-pages/>
//! and `.../encodings/` there define them.
//!
//! The `parquet` crate's own value decoders assert that a page holds what it declares, so that a broken file would end the
//! process; these return errors. Columns are flat (no repetition), and no other encodings are read.

use ::parquet::{
    basic::Encoding,
    column::page::{Page, PageReader},
};
use bytes::Bytes;

/// The values of exactly `rows` rows, `None` where null at any depth (a definition level below `full`). `plain` takes one
/// plainly encoded value off the front, or finds too few bytes.
pub(super) fn read_values<T: Clone>(
    mut pages: impl PageReader,
    rows: usize,
    full: u32,
    plain: impl Fn(&mut Bytes) -> Option<T>,
) -> Result<Vec<Option<T>>, String> {
    let mut out = Vec::new();
    let mut dictionary = Vec::new();
    while out.len() < rows {
        let page = pages.get_next_page().map_err(|e| e.to_string())?;
        let page = page.ok_or_else(|| format!("a column ends after {} of {rows} rows", out.len()))?;
        let Some(DataPage { count, levels, mut values, encoding }) = split(page, full, &plain, &mut dictionary)? else {
            continue;
        };
        if count > rows - out.len() {
            return Err(format!("a column has more than its row group's {rows} rows"));
        }
        let present = match &levels {
            None => vec![true; count],
            Some(bytes) => {
                let levels = hybrid(bytes, bit_width(full), count).ok_or("a page's definition levels are broken")?;
                levels.into_iter().map(|level| level == full).collect()
            }
        };
        let n = present.iter().filter(|&&p| p).count();
        let taken: Option<Vec<T>> = match encoding {
            Encoding::PLAIN => (0..n).map(|_| plain(&mut values)).collect(),
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
                let indices = match values.split_first() {
                    _ if n == 0 => Some(Vec::new()),
                    Some((&width, bytes)) => hybrid(bytes, u32::from(width), n),
                    None => None,
                };
                indices.and_then(|i| i.into_iter().map(|i| dictionary.get(i as usize).cloned()).collect())
            }
            other => {
                return Err(format!(
                    "page encoding {other} is not supported; write it with plain or dictionary encoding"
                ));
            }
        };
        let mut taken = taken.ok_or("a page does not hold the values it declares")?.into_iter();
        out.extend(present.into_iter().map(|p| if p { taken.next() } else { None }));
    }
    Ok(out)
}

struct DataPage {
    count: usize,
    /// The encoded definition levels; `None` in a column that cannot be null.
    levels: Option<Bytes>,
    values: Bytes,
    encoding: Encoding,
}

/// Takes a data page apart; a dictionary page fills `dictionary` and gives `None`.
fn split<T>(
    page: Page,
    full: u32,
    plain: impl Fn(&mut Bytes) -> Option<T>,
    dictionary: &mut Vec<T>,
) -> Result<Option<DataPage>, String> {
    match page {
        Page::DictionaryPage { mut buf, num_values, .. } => {
            for i in 0..num_values {
                let value = plain(&mut buf);
                dictionary.push(value.ok_or_else(|| format!("a dictionary of {num_values} values ends after {i}"))?);
            }
            Ok(None)
        }
        Page::DataPage { mut buf, num_values, encoding, def_level_encoding, .. } => {
            let levels = match full {
                0 => None,
                _ if def_level_encoding != Encoding::RLE => {
                    return Err(format!("definition levels in {def_level_encoding} encoding are not supported"));
                }
                _ => Some(take_sized(&mut buf).ok_or("a page's definition levels are longer than the page")?),
            };
            Ok(Some(DataPage { count: num_values as usize, levels, values: buf, encoding }))
        }
        Page::DataPageV2 { mut buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
            take(&mut buf, rep_levels_byte_len as usize)
                .ok_or("a page's repetition levels are longer than the page")?;
            let levels = take(&mut buf, def_levels_byte_len as usize);
            let levels = levels.ok_or("a page's definition levels are longer than the page")?;
            let levels = (full > 0).then_some(levels);
            Ok(Some(DataPage { count: num_values as usize, levels, values: buf, encoding }))
        }
    }
}

/// Bytes after their length in 4 bytes: a plain byte array, and the levels of a version 1 page.
pub(super) fn take_sized(data: &mut Bytes) -> Option<Bytes> {
    let len = take(data, 4)?;
    let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]);
    take(data, usize::try_from(len).ok()?)
}

/// The first `n` bytes, taken off the front.
pub(super) fn take(data: &mut Bytes, n: usize) -> Option<Bytes> {
    (n <= data.len()).then(|| data.split_to(n))
}

/// `count` numbers of `width` bits in the RLE / bit-packing hybrid; `None` when the bytes end first or make no sense.
fn hybrid(mut data: &[u8], width: u32, count: usize) -> Option<Vec<u32>> {
    if width > 32 {
        return None;
    }
    let mut out = Vec::new();
    while out.len() < count {
        let header = varint(&mut data)?;
        let left = count - out.len();
        let run = usize::try_from(header >> 1).ok().filter(|&r| r > 0)?;
        if header & 1 == 0 {
            let (value, rest) = data.split_at_checked(width.div_ceil(8) as usize)?;
            data = rest;
            let value = value.iter().rev().fold(0u32, |v, &b| v << 8 | u32::from(b));
            out.extend(std::iter::repeat_n(value, run.min(left)));
        } else {
            let values = run.checked_mul(8)?.min(left);
            let needed = (values * width as usize).div_ceil(8);
            if needed > data.len() {
                return None;
            }
            out.extend((0..values).map(|i| bits(data, i * width as usize, width)));
            data = &data[run.checked_mul(width as usize)?.min(data.len())..];
        }
    }
    Some(out)
}

/// `width` bits of `data` from bit `at` on, lowest first.
fn bits(data: &[u8], at: usize, width: u32) -> u32 {
    (0..width as usize).fold(0, |v, i| v | u32::from(data[(at + i) / 8] >> ((at + i) % 8) & 1) << i)
}

/// An unsigned LEB128 number of up to 32 bits.
fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn bit_width(largest: u32) -> u32 {
    u32::BITS - largest.leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bit-packing example of the format's specification: 0 to 7 in 3 bits are 88 C6 FA.
    #[test]
    fn hybrid_follows_the_specification() {
        assert_eq!(hybrid(&[0x03, 0x88, 0xC6, 0xFA], 3, 8).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(hybrid(&[0x03, 0x88, 0xC6, 0xFA, 0x04, 0x05], 3, 10).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 5, 5]);
        assert_eq!(hybrid(&[0x06, 0x34, 0x12], 16, 3).unwrap(), [0x1234; 3]);
        assert_eq!(hybrid(&[0xC8, 0x01], 0, 100).unwrap(), [0; 100]);
        assert_eq!(hybrid(&[0x03, 0x88, 0xC6], 3, 8), None, "cut short");
        assert_eq!(hybrid(&[0x00, 0x00], 1, 1), None, "an empty run");
        assert_eq!(hybrid(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF], 1, 1), None, "an endless header");
        assert_eq!(hybrid(&[0x02], 33, 1), None);
    }

    #[test]
    fn widths_hold_their_largest_number() {
        assert_eq!([0, 1, 2, 3, 4].map(bit_width), [0, 1, 2, 2, 3]);
    }
}
