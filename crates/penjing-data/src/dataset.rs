//! A dataset in memory: samples, labels, what the labels are called, and how samples become a network's input.

use crate::{
    BadRecords, DataError, Image, Normalization, ParquetImages, digits_24,
    glob::matching_files,
    read_npy, read_npz,
    text::{BYTE_VOCABULARY, byte_windows},
};
use penjing_tensor::{DType, Rng, Tensor, fnv1a, map_file};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// How [`Dataset::open_with`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// What to do with broken records.
    pub bad_records: BadRecords,
    /// Tokens in a window of text.
    pub sequence_length: usize,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions { bad_records: BadRecords::Fail, sequence_length: 128 }
    }
}

/// Samples with labels, in memory. Cloning, splitting and taking subsets share the arrays.
#[derive(Clone, Debug)]
pub struct Dataset {
    name: String,
    x: Tensor,
    y: Option<Tensor>,
    rows: Arc<Vec<usize>>,
    classes: usize,
    label_names: Vec<String>,
    normalization: Normalization,
    skipped: usize,
}

impl Dataset {
    /// Opens what `spec` names, with the default [`OpenOptions`]:
    /// - `digits`, `digits:train`, `digits:heldout`: the embedded digits as [`digits_24`] gives them; `digits` holds the training
    ///   rows, then the held-out ones.
    /// - `F.npz` with arrays `x` and `y`; `F.npy`: samples without labels.
    /// - `F.parquet`, a folder of such files (of one split), or a pattern with `*` in its last part: labelled images
    ///   ([`ParquetImages`]).
    /// - `F.txt`: bytes as tokens; x = tokens\[i..i+T\], y the same shifted by one.
    pub fn open(spec: &str) -> Result<Dataset, DataError> {
        Dataset::open_with(spec, &OpenOptions::default())
    }

    /// As [`Dataset::open`], with options.
    pub fn open_with(spec: &str, options: &OpenOptions) -> Result<Dataset, DataError> {
        let spec_error = |reason: String| DataError::Spec { spec: spec.to_owned(), reason };
        if let Some(part) = spec.strip_prefix("digits")
            && let Some(data) = open_digits(spec, part)?
        {
            return Ok(data);
        }
        let path = Path::new(spec);
        let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let is_pattern = path.file_name().is_some_and(|n| n.to_string_lossy().contains('*'));
        if path.is_dir() || is_pattern {
            let pattern = if is_pattern { path.to_path_buf() } else { path.join("*.parquet") };
            let files = matching_files(&pattern).map_err(|e| DataError::io("list", path, e))?;
            if files.is_empty() {
                return Err(spec_error("no file matches".to_owned()));
            }
            if !is_pattern {
                one_split(&files).map_err(spec_error)?;
            }
            return open_parquet(spec, &files, options);
        }
        match extension.as_str() {
            "npz" => open_npz(spec, path),
            "npy" => Dataset::new(spec, read_npy(path)?, None),
            "parquet" => open_parquet(spec, &[path.to_path_buf()], options),
            "txt" => open_text(spec, path, options),
            _ if path.exists() => Err(spec_error("its kind is not told by its name".to_owned())),
            _ => Err(spec_error("there is no such file or folder".to_owned())),
        }
    }

    /// A dataset of samples `x` [N, ...] (u8, f32 or i64; other floats become f32) and integer labels `y` [N] or [N, T], none
    /// negative. Bytes of rank 4 are images [N, C, H, W], normalized as [`Normalization::bytes`]; all else is left as it is.
    pub fn new(name: &str, x: Tensor, y: Option<Tensor>) -> Result<Dataset, DataError> {
        let bad = |reason: String| DataError::Dataset { name: name.to_owned(), reason };
        let x = match x.dtype() {
            DType::U8 | DType::F32 | DType::I64 => x,
            DType::F64 | DType::F16 | DType::BF16 => x.cast(DType::F32),
            other => return Err(bad(format!("samples are {other}; use u8, f32 or i64"))),
        };
        let &[n, ..] = x.shape() else { return Err(bad("samples are a scalar, not [N, ...]".to_owned())) };
        let mut classes = 0;
        let y = match y {
            None => None,
            Some(y) => {
                let labels = y.to_i64s().ok_or_else(|| bad(format!("labels are {}, not integers", y.dtype())))?;
                if !matches!(y.rank(), 1 | 2) || y.shape()[0] != n {
                    return Err(bad(format!("labels of shape {:?} do not fit {n} samples", y.shape())));
                }
                if let Some(at) = labels.iter().position(|&l| l < 0) {
                    return Err(bad(format!("label {} at position {at} is negative", labels[at])));
                }
                let largest = labels.iter().max().map_or(Ok(0), |&l| usize::try_from(l).map(|l| l.saturating_add(1)));
                classes = largest.map_err(|e| bad(e.to_string()))?;
                Some(Tensor::from_vec(y.shape(), labels).map_err(|e| bad(e.to_string()))?)
            }
        };
        let images = x.dtype() == DType::U8 && x.rank() == 4;
        let normalization = if images { Normalization::bytes() } else { Normalization::identity() };
        let rows = Arc::new((0..n).collect());
        Ok(Dataset { name: name.to_owned(), x, y, rows, classes, label_names: Vec::new(), normalization, skipped: 0 })
    }

    /// The same with names for its classes, in label order. Fewer names than labels in use are an error.
    pub fn with_label_names(mut self, names: Vec<String>) -> Result<Dataset, DataError> {
        if names.len() < self.classes {
            let reason = format!("{} label names for labels up to {}", names.len(), self.classes - 1);
            return Err(DataError::Dataset { name: self.name, reason });
        }
        self.classes = names.len();
        self.label_names = names;
        Ok(self)
    }

    /// The same with another normalization. One entry for all channels, or one for each (axis 1 of x).
    pub fn with_normalization(mut self, normalization: Normalization) -> Result<Dataset, DataError> {
        let channels = self.x.shape().get(1).copied().unwrap_or(1);
        normalization.check(channels).map_err(|reason| DataError::Dataset { name: self.name.clone(), reason })?;
        self.normalization = normalization;
        Ok(self)
    }

    /// What it was opened as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when there are no samples.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Shape of one stored sample, before any crop.
    pub fn sample_shape(&self) -> &[usize] {
        &self.x.shape()[1..]
    }

    /// Stored dtype of the samples: u8, f32 or i64.
    pub fn dtype(&self) -> DType {
        self.x.dtype()
    }

    /// Number of classes: as many as there are label names, or the largest label plus one; 0 without labels.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Names of the classes in label order; empty when unknown.
    pub fn label_names(&self) -> &[String] {
        &self.label_names
    }

    /// How stored values become the network's input.
    pub fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    /// Broken records that were left out on opening.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The samples, stored values, gathered: [len, ...].
    pub fn x(&self) -> Tensor {
        gather(&self.x, &self.rows)
    }

    /// The labels, gathered: i64 [len] or [len, T]; `None` without labels.
    pub fn y(&self) -> Option<Tensor> {
        self.y.as_ref().map(|y| gather(y, &self.rows))
    }

    /// A 64-bit hash of samples and labels in their order, for run records: equal data, equal number, on every machine.
    pub fn fingerprint(&self) -> u64 {
        let mut hashes = Vec::new();
        for array in [Some(&self.x), self.y.as_ref()].into_iter().flatten() {
            hashes.extend_from_slice(format!("{}{:?}", array.dtype(), &array.shape()[1..]).as_bytes());
            let row_bytes = array.size_bytes() / array.shape()[0].max(1);
            for &row in self.rows.iter() {
                hashes.extend_from_slice(&fnv1a(&array.bytes()[row * row_bytes..][..row_bytes]).to_le_bytes());
            }
        }
        fnv1a(&hashes)
    }

    /// The samples at `positions` (each below `len`), in that order; sharing the arrays.
    pub fn subset(&self, positions: &[usize]) -> Result<Dataset, DataError> {
        let rows: Option<Vec<usize>> = positions.iter().map(|&p| self.rows.get(p).copied()).collect();
        let rows = rows.ok_or_else(|| DataError::Dataset {
            name: self.name.clone(),
            reason: format!("a position is not below its {} samples", self.len()),
        })?;
        Ok(Dataset { rows: Arc::new(rows), ..self.clone() })
    }

    /// Splits into (kept, held out): round(len · fraction) samples, chosen by `seed`, are held out; both parts keep the order.
    /// A fraction outside 0..1, or one that leaves a part empty, is an error.
    pub fn split_holdout(&self, fraction: f64, seed: u64) -> Result<(Dataset, Dataset), DataError> {
        let n = self.len();
        let held = (n as f64 * fraction).round();
        if !(held >= 1.0 && held < n as f64) {
            let reason = format!("holding out a fraction of {fraction} of {n} samples leaves a part empty");
            return Err(DataError::Dataset { name: self.name.clone(), reason });
        }
        let mut kept = Rng::new(seed, "holdout", 0).permutation(n);
        let mut held_out = kept.split_off(n - held as usize);
        kept.sort_unstable();
        held_out.sort_unstable();
        Ok((self.subset(&kept)?, self.subset(&held_out)?))
    }

    /// The stored arrays and which of their rows belong to this dataset.
    pub(crate) fn storage(&self) -> (&Tensor, Option<&Tensor>, &[usize]) {
        (&self.x, self.y.as_ref(), &self.rows)
    }
}

/// Rows of `t` along axis 0.
pub(crate) fn gather(t: &Tensor, rows: &[usize]) -> Tensor {
    let shape = [&[rows.len()], &t.shape()[1..]].concat();
    let mut out = Tensor::zeros(t.dtype(), &shape).expect("no more than the rows of a tensor that exists");
    let row_bytes = if t.shape()[0] == 0 { 0 } else { t.size_bytes() / t.shape()[0] };
    if row_bytes > 0 {
        for (o, &row) in out.bytes_mut().chunks_exact_mut(row_bytes).zip(rows) {
            o.copy_from_slice(&t.bytes()[row * row_bytes..][..row_bytes]);
        }
    }
    out
}

/// Refuses a folder whose file names start differently (`train-…`, `test-…`): read as one they would mix what a model is
/// trained on with what it is judged by. Digits at the start's end number the parts of one split (`0000`, `0001`; `train0`).
fn one_split(files: &[PathBuf]) -> Result<(), String> {
    let split = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        name.split('-').next().unwrap_or_default().trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()
    };
    let mut splits: Vec<String> = files.iter().map(split).collect();
    splits.dedup();
    match splits.as_slice() {
        // Names of digits alone sort first, so that the last split has a name.
        [.., _, last] => Err(format!("the folder holds {}; name one of them, as in FOLDER/{last}*", splits.join(", "))),
        _ => Ok(()),
    }
}

fn open_digits(spec: &str, part: &str) -> Result<Option<Dataset>, DataError> {
    if !matches!(part, "" | ":train" | ":heldout") {
        return Ok(None);
    }
    let d = digits_24();
    let rows = match part {
        ":train" => d.train,
        ":heldout" => d.held_out,
        _ => [d.train, d.held_out].concat(),
    };
    let names = (0..10).map(|digit| digit.to_string()).collect();
    Dataset::new(spec, d.x, Some(d.y))?.with_label_names(names)?.subset(&rows).map(Some)
}

fn open_npz(spec: &str, path: &Path) -> Result<Dataset, DataError> {
    let mut arrays = read_npz(path)?;
    let mut take = |key: &str| {
        let at = arrays.iter().position(|(name, _)| name == key)?;
        Some(arrays.swap_remove(at).1)
    };
    let x =
        take("x").ok_or_else(|| DataError::Spec { spec: spec.to_owned(), reason: "it has no array x".to_owned() })?;
    Dataset::new(spec, x, take("y"))
}

fn open_text(spec: &str, path: &Path, options: &OpenOptions) -> Result<Dataset, DataError> {
    let text = map_file(path).map_err(|e| DataError::io("read", path, e))?;
    let (x, y) = byte_windows(&text, options.sequence_length).ok_or_else(|| DataError::Dataset {
        name: spec.to_owned(),
        reason: format!("{} bytes hold no window of {} tokens and its successor", text.len(), options.sequence_length),
    })?;
    let mut data = Dataset::new(spec, x, Some(y))?;
    data.classes = BYTE_VOCABULARY;
    Ok(data)
}

fn open_parquet(spec: &str, files: &[PathBuf], options: &OpenOptions) -> Result<Dataset, DataError> {
    let (mut images, mut labels, mut skipped) = (ImageStack::default(), Vec::new(), 0);
    let mut names: Option<Vec<String>> = None;
    for path in files {
        let file = ParquetImages::open(path)?;
        if *names.get_or_insert_with(|| file.label_names().to_vec()) != file.label_names() {
            let reason = format!("{} names its labels differently from the files before it", path.display());
            return Err(DataError::Dataset { name: spec.to_owned(), reason });
        }
        for group in 0..file.row_groups() {
            let rows = file.read_row_group(group, options.bad_records)?;
            skipped += rows.skipped;
            labels.extend(rows.labels);
            for image in rows.images {
                images.push(image).map_err(|reason| DataError::Dataset {
                    name: spec.to_owned(),
                    reason: format!("{}, row group {group}: {reason}", path.display()),
                })?;
            }
        }
    }
    let n = labels.len();
    let bad = |e: penjing_tensor::TensorError| DataError::Dataset { name: spec.to_owned(), reason: e.to_string() };
    let x = images.into_tensor().map_err(bad)?;
    let y = Tensor::from_vec(&[n], labels).map_err(bad)?;
    let mut data = Dataset::new(spec, x, Some(y))?;
    if let Some(names) = names.filter(|n| !n.is_empty()) {
        data = data.with_label_names(names)?;
    }
    data.skipped = skipped;
    Ok(data)
}

/// Images of one size on top of each other. The first colour image makes all of them colour.
#[derive(Default)]
struct ImageStack {
    size: Option<[usize; 3]>,
    count: usize,
    pixels: Vec<u8>,
}

impl ImageStack {
    fn push(&mut self, image: Image) -> Result<(), String> {
        let [channels, h, w] = *self.size.get_or_insert([image.channels, image.height, image.width]);
        if [h, w] != [image.height, image.width] {
            return Err(format!(
                "an image of {}x{} stands among images of {h}x{w}; resize them to one size",
                image.height, image.width
            ));
        }
        let image = if channels == 3 { image.into_rgb() } else { image };
        if channels == 1 && image.channels == 3 {
            self.pixels = self.pixels.chunks_exact(h * w).flat_map(|plane| plane.repeat(3)).collect();
            self.size = Some([3, h, w]);
        }
        self.pixels.extend_from_slice(&image.pixels);
        self.count += 1;
        Ok(())
    }

    fn into_tensor(self) -> Result<Tensor, penjing_tensor::TensorError> {
        let [c, h, w] = self.size.unwrap_or([3, 0, 0]);
        Tensor::from_vec(&[self.count, c, h, w], self.pixels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(n: usize) -> Dataset {
        let x = Tensor::from_vec(&[n, 2], (0..2 * n).map(|v| v as f32).collect()).unwrap();
        let y = Tensor::from_vec(&[n], (0..n as i32).collect::<Vec<i32>>()).unwrap();
        Dataset::new("counted", x, Some(y)).unwrap()
    }

    #[test]
    fn a_holdout_parts_the_samples() {
        let (kept, held) = counted(10).split_holdout(0.3, 5).unwrap();
        assert_eq!((kept.len(), held.len()), (7, 3));
        let labels = |d: &Dataset| d.y().unwrap().to_i64s().unwrap();
        let mut all = [labels(&kept), labels(&held)].concat();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<i64>>());
        assert_eq!(kept.x().as_slice::<f32>().unwrap()[0], 2.0 * labels(&kept)[0] as f32);
        assert_ne!(labels(&held), labels(&counted(10).split_holdout(0.3, 6).unwrap().1));
        for fraction in [0.0, 1.0, -0.5, 2.0, f64::NAN] {
            assert!(counted(10).split_holdout(fraction, 0).is_err(), "{fraction}");
        }
    }

    #[test]
    fn fingerprints_tell_data_apart() {
        let d = counted(5);
        assert_eq!(d.fingerprint(), counted(5).fingerprint());
        assert_eq!(
            d.subset(&[1, 3]).unwrap().fingerprint(),
            d.subset(&[0, 1, 3]).unwrap().subset(&[1, 2]).unwrap().fingerprint()
        );
        assert_ne!(d.fingerprint(), d.subset(&[1, 0, 2, 3, 4]).unwrap().fingerprint());
        assert_ne!(d.fingerprint(), Dataset::new("unlabelled", d.x(), None).unwrap().fingerprint());
    }

    #[test]
    fn a_folder_of_two_splits_is_refused() {
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert!(one_split(&files(&["d/train-0.parquet", "d/train-1.parquet"])).is_ok());
        assert!(one_split(&files(&["d/0000.parquet", "d/0001.parquet"])).is_ok());
        assert!(one_split(&files(&["d/train0.parquet", "d/train1.parquet"])).is_ok());
        let mixed = one_split(&files(&["d/0000.parquet", "d/test-0.parquet"])).unwrap_err();
        assert!(mixed.contains("FOLDER/test*"), "{mixed}");
        assert!(one_split(&files(&["d/test-0.parquet", "d/train-0.parquet"])).unwrap_err().contains("test, train"));
    }

    #[test]
    fn the_digits_open_by_name() {
        let all = Dataset::open("digits").unwrap();
        let (train, held) = (Dataset::open("digits:train").unwrap(), Dataset::open("digits:heldout").unwrap());
        assert_eq!((all.len(), train.len(), held.len(), all.classes()), (1797, 1437, 360, 10));
        let tail: Vec<usize> = (1437..1797).collect();
        assert_eq!(all.subset(&tail).unwrap().x(), held.x());
        assert_eq!(held.sample_shape(), [3, 24, 24]);
        assert!(held.normalization().is_identity());
        assert_eq!(held.label_names()[9], "9");
    }

    #[test]
    fn contradictions_are_errors() {
        let x = || Tensor::zeros(DType::F32, &[2, 3]).unwrap();
        for (y, message) in [
            (Tensor::from_vec(&[3], vec![0i64; 3]).unwrap(), "do not fit"),
            (Tensor::from_vec(&[2], vec![0i64, -1]).unwrap(), "negative"),
            (Tensor::from_vec(&[2], vec![0f32, 1.0]).unwrap(), "not integers"),
        ] {
            assert!(Dataset::new("d", x(), Some(y)).unwrap_err().to_string().contains(message));
        }
        assert!(Dataset::new("d", Tensor::scalar(1f32), None).is_err());
        assert!(counted(3).with_label_names(vec!["a".into()]).is_err());
        assert!(counted(3).subset(&[3]).is_err());
        assert!(Dataset::open("absent.npz").is_err());
        assert!(Dataset::open("digits:test").unwrap_err().to_string().contains("digits:heldout"));
    }

    #[test]
    fn a_colour_image_makes_the_stack_colour() {
        let image = |channels: usize, v: u8| Image { channels, height: 1, width: 2, pixels: vec![v; 2 * channels] };
        let mut stack = ImageStack::default();
        for i in [image(1, 1), image(3, 2), image(1, 3)] {
            stack.push(i).unwrap();
        }
        assert!(stack.push(Image { channels: 1, height: 2, width: 1, pixels: vec![0; 2] }).is_err());
        let t = stack.into_tensor().unwrap();
        assert_eq!(t.shape(), [3, 3, 1, 2]);
        assert_eq!(t.as_slice::<u8>().unwrap(), [[1; 6], [2; 6], [3; 6]].concat());
    }
}
