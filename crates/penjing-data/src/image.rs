//! JPEG and PNG bytes to planes of bytes.
//!
//! Decoding is strict: a truncated or broken image is an error, never a half-grey picture. JPEG decoders round differently: in
//! files with halved chroma some samples differ by 1 or 2 (of 255) from libjpeg's.

use std::{
    io::Cursor,
    panic::{UnwindSafe, catch_unwind},
};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

/// An image may decode to this many bytes whatever its file's size …
const FREE_BYTES: u64 = 1 << 20;
/// … and beyond that to this many times its file's size: about what deflate and JPEG reach on a blank page.
const MAX_EXPANSION: u64 = 4096;

/// An image of 8-bit pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Planes one after the other: [channels, height, width].
    pub pixels: Vec<u8>,
}

impl Image {
    /// The image in three channels; a grey one has its plane three times.
    pub fn into_rgb(mut self) -> Image {
        if self.channels == 1 {
            self.pixels = self.pixels.repeat(3);
            self.channels = 3;
        }
        self
    }
}

/// Decodes a JPEG or PNG file, told by its first bytes. Transparency is dropped, 16-bit samples keep their upper byte.
///
/// The error says why the bytes are no such image, or that they would decode to far more than their size warrants. This is the
/// one boundary at which a panic of a decoder (other projects' code, fed hostile bytes) becomes an error as well.
pub fn decode_image(bytes: &[u8]) -> Result<Image, String> {
    without_panic(|| match bytes {
        [0xFF, 0xD8, 0xFF, ..] => decode_jpeg(bytes),
        [0x89, b'P', b'N', b'G', ..] => decode_png(bytes),
        _ => Err("the image is neither JPEG nor PNG".to_owned()),
    })
}

fn without_panic<T>(decode: impl FnOnce() -> Result<T, String> + UnwindSafe) -> Result<T, String> {
    catch_unwind(decode).unwrap_or_else(|_| Err("the image's decoder panicked".to_owned()))
}

fn decode_jpeg(bytes: &[u8]) -> Result<Image, String> {
    let options = DecoderOptions::default().set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| format!("broken JPEG: {e}"))?;
    let info = decoder.info().ok_or("JPEG without a frame header")?;
    let channels = if info.components == 1 { 1 } else { 3 };
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    check_size(bytes, width, height, channels)?;
    let colorspace = if channels == 1 { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(colorspace));
    let pixels = decoder.decode().map_err(|e| format!("broken JPEG: {e}"))?;
    planes(&pixels, width, height, channels, channels)
}

fn decode_png(bytes: &[u8]) -> Result<Image, String> {
    let broken = |e: png::DecodingError| format!("broken PNG: {e}");
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let info = decoder.read_header_info().map_err(broken)?;
    check_size(bytes, info.width as usize, info.height as usize, 4)?;
    let mut reader = decoder.read_info().map_err(broken)?;
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("PNG larger than memory can address")?];
    let frame = reader.next_frame(&mut pixels).map_err(broken)?;
    let (samples, channels) = match frame.color_type {
        png::ColorType::Grayscale => (1, 1),
        png::ColorType::GrayscaleAlpha => (2, 1),
        png::ColorType::Rgb => (3, 3),
        png::ColorType::Rgba => (4, 3),
        png::ColorType::Indexed => return Err("PNG palette was not expanded".to_owned()),
    };
    planes(&pixels, frame.width as usize, frame.height as usize, samples, channels)
}

fn check_size(bytes: &[u8], width: usize, height: usize, channels: usize) -> Result<(), String> {
    let decoded = (width as u64).saturating_mul(height as u64).saturating_mul(channels as u64);
    if decoded == 0 {
        return Err(format!("the image declares {width}x{height} pixels"));
    }
    if decoded > FREE_BYTES.saturating_add((bytes.len() as u64).saturating_mul(MAX_EXPANSION)) {
        return Err(format!("the image declares {width}x{height} pixels in a file of only {} bytes", bytes.len()));
    }
    Ok(())
}

/// Interleaved samples to planes: the first `channels` of every `samples`.
fn planes(interleaved: &[u8], width: usize, height: usize, samples: usize, channels: usize) -> Result<Image, String> {
    let area = width * height;
    if interleaved.len() < area * samples {
        return Err(format!("the image holds {} samples, {width}x{height} pixels need more", interleaved.len()));
    }
    let mut pixels = vec![0; area * channels];
    for (c, plane) in pixels.chunks_exact_mut(area).enumerate() {
        for (out, pixel) in plane.iter_mut().zip(interleaved.chunks_exact(samples)) {
            *out = pixel[c];
        }
    }
    Ok(Image { channels, height, width, pixels })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png_file(color: png::ColorType, depth: png::BitDepth, size: [u32; 2], data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, size[0], size[1]);
        encoder.set_color(color);
        encoder.set_depth(depth);
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        bytes
    }

    #[test]
    fn png_kinds_become_planes() {
        use png::{BitDepth, ColorType};
        let rgb = png_file(ColorType::Rgb, BitDepth::Eight, [2, 1], &[1, 2, 3, 4, 5, 6]);
        assert_eq!(
            decode_image(&rgb).unwrap(),
            Image { channels: 3, height: 1, width: 2, pixels: vec![1, 4, 2, 5, 3, 6] }
        );
        let rgba = png_file(ColorType::Rgba, BitDepth::Eight, [1, 1], &[9, 8, 7, 128]);
        assert_eq!(decode_image(&rgba).unwrap().pixels, [9, 8, 7]);
        let deep = png_file(ColorType::Grayscale, BitDepth::Sixteen, [2, 1], &[0x12, 0x34, 0xAB, 0xCD]);
        let grey = decode_image(&deep).unwrap();
        assert_eq!((grey.channels, &grey.pixels), (1, &vec![0x12, 0xAB]));
        assert_eq!(grey.into_rgb().pixels, [0x12, 0xAB, 0x12, 0xAB, 0x12, 0xAB]);
        let bits = png_file(ColorType::Grayscale, BitDepth::One, [3, 1], &[0b1010_0000]);
        assert_eq!(decode_image(&bits).unwrap().pixels, [255, 0, 255]);
    }

    #[test]
    fn a_huge_declared_size_is_refused_before_decoding() {
        let mut bytes = png_file(png::ColorType::Rgb, png::BitDepth::Eight, [1, 1], &[1, 2, 3]);
        // IHDR: 8 bytes of signature, length and type, then width and height; its CRC follows its 13 bytes.
        bytes[16..24].copy_from_slice(&[0, 0, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF]);
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(decode_image(&bytes).unwrap_err().contains("65535x65535"));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, &b| {
            (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 })
        })
    }

    #[test]
    fn a_panic_of_a_decoder_is_an_error() {
        assert!(without_panic::<Image>(|| panic!("a decoder's fault")).unwrap_err().contains("panicked"));
    }

    #[test]
    fn truncated_images_are_errors() {
        let whole = png_file(png::ColorType::Rgb, png::BitDepth::Eight, [4, 4], &[7; 48]);
        // The last 12 bytes are the IEND chunk, after every pixel.
        for len in 0..whole.len() - 12 {
            assert!(decode_image(&whole[..len]).is_err(), "{len} of {} bytes", whole.len());
        }
    }
}
