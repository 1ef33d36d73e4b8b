//! Batches of a dataset: shuffled, augmented, normalized, and cut over ranks.
//!
//! Everything is a pure function of (seed, epoch, batch number), so a resumed run sees what the unbroken one saw, and the
//! ranks of one run agree without talking.

use crate::{
    Crop, DataError, Dataset, Flip, Normalization, Placement,
    augment::{Windows, copy_window},
    dataset::gather,
};
use penjing_tensor::{DType, Rng, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// In which order an epoch visits the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// A new permutation each epoch: training.
    #[default]
    Shuffled,
    /// As stored: evaluation.
    Sequential,
}

/// Which rank of how many; each takes a contiguous part of every global batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// 0..ranks.
    pub rank: usize,
    /// At least 1.
    pub ranks: usize,
}

impl Shard {
    /// One rank that takes everything.
    pub const WHOLE: Shard = Shard { rank: 0, ranks: 1 };

    /// This rank's part of `rows` rows: parts differ by at most one row and together are 0..rows.
    pub fn part(&self, rows: usize) -> std::ops::Range<usize> {
        let cut = |r: usize| (rows as u128 * r as u128 / self.ranks as u128) as usize;
        cut(self.rank)..cut(self.rank + 1)
    }
}

/// How batches are made.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Rows of a global batch, over all ranks; the last one of an epoch may have fewer.
    pub batch_size: usize,
    /// Seed of order, crops and flips.
    pub seed: u64,
    /// Order of an epoch.
    pub order: Order,
    /// Crop of images [C, H, W]; `None` keeps them whole.
    pub crop: Option<Crop>,
    /// Mirroring of images.
    pub flip: Flip,
    /// This rank.
    pub shard: Shard,
}

impl LoaderConfig {
    /// Training batches: shuffled, no augmentation, one rank.
    pub fn train(batch_size: usize, seed: u64) -> LoaderConfig {
        LoaderConfig { batch_size, seed, order: Order::Shuffled, crop: None, flip: Flip::None, shard: Shard::WHOLE }
    }

    /// Evaluation batches: in order, no augmentation, one rank.
    pub fn eval(batch_size: usize) -> LoaderConfig {
        LoaderConfig { order: Order::Sequential, ..LoaderConfig::train(batch_size, 0) }
    }
}

/// One rank's part of a global batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Input: f32 [B, C, H, W] for images, f32 or i64 [B, ...] for other samples.
    pub x: Tensor,
    /// Labels: i64 [B] or [B, T]; `None` for a dataset without labels.
    pub y: Option<Tensor>,
    /// Position in the dataset of each row.
    pub indices: Vec<usize>,
    /// Rows of the global batch, over all ranks.
    pub global_rows: usize,
}

/// Makes the batches of a dataset.
pub struct Loader {
    data: Dataset,
    config: LoaderConfig,
    /// The last epoch's order, so that batches of one epoch do not shuffle again.
    order: Mutex<Option<(u64, Arc<Vec<usize>>)>>,
    /// For bytes: input value by channel and byte, [C, 256], or [1, 256] where all channels are normalized alike.
    table: Vec<[f32; 256]>,
}

impl Loader {
    /// Checks the configuration against the dataset: a batch size and ranks above 0, crops and flips on images [C, H, W] only, the
    /// crop no larger than the padded image.
    pub fn new(data: Dataset, config: LoaderConfig) -> Result<Loader, DataError> {
        let bad = |reason: String| Err(DataError::Loader { reason });
        if config.batch_size == 0 {
            return bad("a batch of 0 rows was asked for".to_owned());
        }
        if config.shard.rank >= config.shard.ranks {
            return bad(format!("rank {} of {} ranks does not exist", config.shard.rank, config.shard.ranks));
        }
        let is_images = data.sample_shape().len() == 3 && data.dtype() != DType::I64;
        if !is_images && (config.crop.is_some() || config.flip != Flip::None) {
            let shape = data.sample_shape();
            return bad(format!("crop and flip need images [C, H, W]; samples are {} {shape:?}", data.dtype()));
        }
        if let (Some(crop), &[_, h, w]) = (config.crop, data.sample_shape()) {
            let fits = |want: usize, have: usize| {
                want > 0 && crop.pad.checked_mul(2).and_then(|p| p.checked_add(have)).is_some_and(|room| want <= room)
            };
            if !fits(crop.height, h) || !fits(crop.width, w) {
                return bad(format!(
                    "a crop of {}x{} does not fit images of {h}x{w} padded by {}",
                    crop.height, crop.width, crop.pad
                ));
            }
        }
        let table = if data.dtype() == DType::U8 { byte_table(data.normalization()) } else { Vec::new() };
        Ok(Loader { data, config, order: Mutex::new(None), table })
    }

    /// The dataset.
    pub fn dataset(&self) -> &Dataset {
        &self.data
    }

    /// Batches in an epoch, the last partial one included.
    pub fn batches_per_epoch(&self) -> usize {
        self.data.len().div_ceil(self.config.batch_size)
    }

    /// Shape of one sample of a batch, after the crop.
    pub fn sample_shape(&self) -> Vec<usize> {
        match (self.config.crop, self.data.sample_shape()) {
            (Some(crop), &[c, _, _]) => vec![c, crop.height, crop.width],
            (_, shape) => shape.to_vec(),
        }
    }

    /// This rank's part of global batch `index` of `epoch`.
    pub fn batch(&self, epoch: u64, index: usize) -> Result<Batch, DataError> {
        let order = self.order(epoch);
        let global = order.chunks(self.config.batch_size).nth(index).ok_or_else(|| DataError::Loader {
            reason: format!("batch {index} was asked for, an epoch has {}", self.batches_per_epoch()),
        })?;
        let indices = global[self.config.shard.part(global.len())].to_vec();
        let (x, y, rows) = self.data.storage();
        let stored: Vec<usize> = indices.iter().map(|&i| rows[i]).collect();
        Ok(Batch {
            x: self.input(x, &indices, &stored, epoch)?,
            y: y.map(|y| gather(y, &stored)),
            indices,
            global_rows: global.len(),
        })
    }

    fn order(&self, epoch: u64) -> Arc<Vec<usize>> {
        let mut cached = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((e, order)) = &*cached
            && *e == epoch
        {
            return Arc::clone(order);
        }
        let n = self.data.len();
        let order = Arc::new(match self.config.order {
            Order::Shuffled => Rng::new(self.config.seed, "shuffle", epoch).permutation(n),
            Order::Sequential => (0..n).collect(),
        });
        *cached = Some((epoch, Arc::clone(&order)));
        order
    }

    fn input(&self, x: &Tensor, indices: &[usize], stored: &[usize], epoch: u64) -> Result<Tensor, DataError> {
        let normalization = self.data.normalization();
        match x.dtype() {
            DType::U8 => {
                let pixels = x.as_slice::<u8>().expect("its dtype is U8");
                self.convert(pixels, indices, stored, epoch, |c, v| {
                    self.table[c.min(self.table.len() - 1)][usize::from(v)]
                })
            }
            DType::F32 => {
                let values = x.as_slice::<f32>().expect("its dtype is F32");
                if normalization.is_identity() {
                    self.convert(values, indices, stored, epoch, |_, v| v)
                } else {
                    self.convert(values, indices, stored, epoch, |c, v| normalization.apply(c, v))
                }
            }
            _ => Ok(gather(x, stored)),
        }
    }

    /// Samples of `values` [N, C, ...] to f32 [B, C, ...], each value through `convert(channel, value)`.
    fn convert<T: Copy + Default>(
        &self,
        values: &[T],
        indices: &[usize],
        stored: &[usize],
        epoch: u64,
        convert: impl Fn(usize, T) -> f32,
    ) -> Result<Tensor, DataError> {
        let sample_shape = self.sample_shape();
        let shape = [&[indices.len()], sample_shape.as_slice()].concat();
        let mut out = Tensor::zeros(DType::F32, &shape).map_err(|e| DataError::Loader { reason: e.to_string() })?;
        let in_size: usize = self.data.sample_shape().iter().product();
        let out_size: usize = sample_shape.iter().product();
        if out_size == 0 {
            return Ok(out);
        }
        let windows = match *self.data.sample_shape() {
            [channels, h, w] if self.config.crop.is_some() || self.config.flip != Flip::None => {
                let whole = Crop { height: h, width: w, pad: 0, placement: Placement::Center };
                let crop = self.config.crop.unwrap_or(whole);
                Some((Windows::new(crop, self.config.flip, self.config.seed, epoch), channels, [h, w]))
            }
            _ => None,
        };
        let channels = sample_shape[..sample_shape.len().min(1)].iter().product::<usize>();
        let samples = out.as_mut_slice::<f32>().expect("made as f32").chunks_exact_mut(out_size);
        for ((o, &index), &row) in samples.zip(indices).zip(stored) {
            let sample = &values[row * in_size..][..in_size];
            if let Some((windows, channels, size)) = &windows {
                let window = windows.of(index, *size);
                let planes = sample.chunks_exact(in_size / channels).zip(o.chunks_exact_mut(out_size / channels));
                for (c, (plane, out_plane)) in planes.enumerate() {
                    copy_window(plane, *size, window, |v| convert(c, v), convert(c, T::default()), out_plane);
                }
            } else {
                let planes = sample.chunks_exact(in_size / channels).zip(o.chunks_exact_mut(in_size / channels));
                for (c, (plane, out_plane)) in planes.enumerate() {
                    out_plane.iter_mut().zip(plane).for_each(|(o, &v)| *o = convert(c, v));
                }
            }
        }
        Ok(out)
    }
}

fn byte_table(normalization: &Normalization) -> Vec<[f32; 256]> {
    let rows = normalization.mean.len().max(normalization.std.len());
    (0..rows).map(|c| std::array::from_fn(|byte| normalization.apply(c, byte as f32))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(n: usize) -> Dataset {
        let x = Tensor::from_vec(&[n, 3, 4, 4], (0..n * 48).map(|v| v as u8).collect()).unwrap();
        let y = Tensor::from_vec(&[n], (0..n as i64).collect()).unwrap();
        Dataset::new("images", x, Some(y)).unwrap()
    }

    #[test]
    fn every_sample_comes_once_an_epoch_and_epochs_differ() {
        let loader = Loader::new(images(10), LoaderConfig::train(4, 7)).unwrap();
        assert_eq!(loader.batches_per_epoch(), 3);
        let batches = |epoch| (0..3).map(|i| loader.batch(epoch, i).unwrap().indices).collect::<Vec<_>>();
        let epoch = batches(0);
        assert_eq!(epoch.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let mut all = epoch.concat();
        assert_ne!(all, batches(1).concat());
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert!(loader.batch(0, 3).is_err());
        let again = Loader::new(images(10), LoaderConfig::train(4, 7)).unwrap();
        assert_eq!(again.batch(5, 1).unwrap(), loader.batch(5, 1).unwrap());
    }

    #[test]
    fn ranks_together_see_the_global_batch() {
        let config = LoaderConfig {
            crop: Some(Crop { height: 3, width: 3, pad: 1, placement: Placement::Random }),
            flip: Flip::Horizontal,
            ..LoaderConfig::train(7, 1)
        };
        let whole = Loader::new(images(10), config.clone()).unwrap().batch(2, 0).unwrap();
        let (mut x, mut y, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for rank in 0..3 {
            let shard = Shard { rank, ranks: 3 };
            let part = Loader::new(images(10), LoaderConfig { shard, ..config.clone() }).unwrap().batch(2, 0).unwrap();
            assert_eq!(part.global_rows, 7);
            sizes.push(part.indices.len());
            x.extend_from_slice(part.x.as_slice::<f32>().unwrap());
            y.extend(part.y.unwrap().to_i64s().unwrap());
        }
        assert_eq!(sizes, [2, 2, 3]);
        assert_eq!(x, whole.x.as_slice::<f32>().unwrap());
        assert_eq!(y, whole.y.unwrap().to_i64s().unwrap());
    }

    #[test]
    fn pixels_are_normalized_per_channel_and_cropped_at_the_centre() {
        let normalization = Normalization { scale: 255.0, mean: vec![0.5, 0.25, 0.0], std: vec![0.5, 0.25, 2.0] };
        let data = images(1).with_normalization(normalization).unwrap();
        let config = LoaderConfig {
            crop: Some(Crop { height: 2, width: 2, pad: 0, placement: Placement::Center }),
            ..LoaderConfig::eval(8)
        };
        let batch = Loader::new(data, config).unwrap().batch(0, 0).unwrap();
        assert_eq!(batch.x.shape(), [1, 3, 2, 2]);
        let want = [5, 6, 9, 10].map(|v| (v as f32 / 255.0 - 0.5) / 0.5);
        assert_eq!(batch.x.as_slice::<f32>().unwrap()[..4], want);
        assert_eq!(batch.x.as_slice::<f32>().unwrap()[4], (21.0 / 255.0 - 0.25) / 0.25);
        assert_eq!(batch.x.as_slice::<f32>().unwrap()[11], 42.0 / 255.0 / 2.0);
    }

    /// Padding is black before normalization: byte 0, which is −1 after it.
    #[test]
    fn padding_is_black() {
        let config = LoaderConfig {
            crop: Some(Crop { height: 6, width: 6, pad: 1, placement: Placement::Random }),
            ..LoaderConfig::train(1, 0)
        };
        let batch = Loader::new(images(1), config).unwrap().batch(0, 0).unwrap();
        let x = batch.x.as_slice::<f32>().unwrap();
        assert_eq!(x[..7], [-1.0; 7]);
        assert_eq!(x[8], (1.0 / 255.0 - 0.5) / 0.5);
    }

    #[test]
    fn tokens_and_features_pass_through() {
        let x = Tensor::from_vec(&[2, 3], vec![1i64, 2, 3, 4, 5, 6]).unwrap();
        let data = Dataset::new("tokens", x.clone(), Some(x.clone())).unwrap();
        let batch = Loader::new(data, LoaderConfig::eval(2)).unwrap().batch(0, 0).unwrap();
        assert_eq!((&batch.x, batch.y.as_ref()), (&x, Some(&x)));
        let f = Tensor::from_vec(&[2], vec![1.5f32, 2.5]).unwrap();
        let data = Dataset::new("features", f.clone(), None).unwrap();
        let batch = Loader::new(data, LoaderConfig::eval(9)).unwrap().batch(0, 0).unwrap();
        assert_eq!((batch.x, batch.y), (f, None));
    }

    /// Axis 1 of bytes may be anything, such as a waveform's samples: a table with a row for each of these would take 10 GB.
    #[test]
    fn a_long_axis_of_bytes_takes_no_table_row_each() {
        let mut bytes = vec![1u8; 10_000_000];
        bytes[9_999_999] = 7;
        let data = Dataset::new("wave", Tensor::from_vec(&[1, 10_000_000], bytes).unwrap(), None).unwrap();
        let loader = Loader::new(data, LoaderConfig::eval(1)).unwrap();
        assert_eq!(loader.table.len(), 1);
        let x = loader.batch(0, 0).unwrap().x;
        assert_eq!(x.as_slice::<f32>().unwrap()[9_999_998..], [1.0, 7.0]);
    }

    #[test]
    fn impossible_configurations_are_errors() {
        let base = LoaderConfig::train(4, 0);
        let crop = |height, pad| Some(Crop { height, width: 2, pad, placement: Placement::Random });
        for config in [
            LoaderConfig { batch_size: 0, ..base.clone() },
            LoaderConfig { shard: Shard { rank: 2, ranks: 2 }, ..base.clone() },
            LoaderConfig { shard: Shard { rank: 0, ranks: 0 }, ..base.clone() },
            LoaderConfig { crop: crop(5, 0), ..base.clone() },
            LoaderConfig { crop: crop(0, 0), ..base.clone() },
            LoaderConfig { crop: crop(4, usize::MAX), ..base.clone() },
        ] {
            assert!(Loader::new(images(2), config.clone()).is_err(), "{config:?}");
        }
        let flat = Dataset::new("flat", Tensor::zeros(DType::F32, &[2, 3]).unwrap(), None).unwrap();
        assert!(Loader::new(flat, LoaderConfig { flip: Flip::Horizontal, ..base }).is_err());
    }
}
