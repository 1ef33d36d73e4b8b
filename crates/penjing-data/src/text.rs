//! Plain text as byte-level language-model data.

use penjing_tensor::Tensor;

/// Token count of byte-level text.
pub(crate) const BYTE_VOCABULARY: usize = 256;

/// Windows of `length` bytes, one after the other without overlap: x i64 [n, length] and y, the same shifted by one byte.
/// A remainder too short for a window is left out. `None` when there is no whole window (`length` + 1 bytes).
pub(crate) fn byte_windows(text: &[u8], length: usize) -> Option<(Tensor, Tensor)> {
    let n = text.len().checked_sub(1)?.checked_div(length)?;
    if n == 0 {
        return None;
    }
    let tokens = |from: usize| {
        let values = text[from..][..n * length].iter().map(|&b| b.into()).collect::<Vec<i64>>();
        Tensor::from_vec(&[n, length], values).ok()
    };
    Some((tokens(0)?, tokens(1)?))
}

#[cfg(test)]
mod tests {
    use super::byte_windows;

    #[test]
    fn windows_are_shifted_by_one() {
        let (x, y) = byte_windows(b"abcdefgh", 3).unwrap();
        assert_eq!(x.shape(), [2, 3]);
        assert_eq!(x.as_slice::<i64>().unwrap(), [97, 98, 99, 100, 101, 102]);
        assert_eq!(y.as_slice::<i64>().unwrap(), [98, 99, 100, 101, 102, 103]);
        assert!(byte_windows(b"abc", 3).is_none());
        assert!(byte_windows(b"", 3).is_none());
        assert!(byte_windows(b"abc", 0).is_none());
    }
}
