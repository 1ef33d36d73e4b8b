//! The file that keeps what kernels cost on this machine, one for each processor, instruction-set level and version.
//!
//! It lies in `$XDG_CACHE_HOME/penjing` (`~/.cache/penjing` without that variable). Whatever cannot be read or does not belong
//! to this machine counts as absent: the kernels' own order of preference then decides.

use crate::machine::cpu_name;
use anyhow::{Context as _, Result, anyhow};
use penjing_exec::{Costs, Sample, UNMEASURED};
use penjing_kernels::{Isa, conv::ConvShape};
use serde::{Deserialize, Serialize};
use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
};

/// The file's content.
#[derive(Serialize, Deserialize)]
struct File {
    cpu: String,
    isa: String,
    version: String,
    samples: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    row: String,
    batch: usize,
    groups: usize,
    /// In, out.
    channels: [usize; 2],
    input: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [usize; 2],
    output: [usize; 2],
    nanoseconds: u64,
}

/// The costs that an earlier `bench --kernels` has stored for this machine; none where there are none.
pub(crate) fn load(isa: Isa) -> &'static Costs {
    let costs = path(isa).and_then(|path| read(&path, isa));
    // Read once a process and used to its end.
    costs.map_or(&UNMEASURED, |costs| Box::leak(Box::new(costs)))
}

/// Stores the costs; returns where.
pub(crate) fn store(isa: Isa, costs: &Costs) -> Result<PathBuf> {
    let path = path(isa).ok_or_else(|| anyhow!("neither XDG_CACHE_HOME nor HOME says where caches lie"))?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let text = serde_json::to_string(&File {
        cpu: cpu_name(),
        isa: isa.name().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        samples: costs.samples().iter().map(Entry::new).collect(),
    })?;
    penjing_data::write_atomically(&path, |out| out.write_all(text.as_bytes()))?;
    Ok(path)
}

fn read(path: &Path, isa: Isa) -> Option<Costs> {
    let file: File = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let own = file.cpu == cpu_name() && file.isa == isa.name() && file.version == env!("CARGO_PKG_VERSION");
    let samples: Option<Vec<Sample>> = file.samples.into_iter().map(Entry::sample).collect();
    samples.filter(|_| own).map(Costs::new)
}

fn path(isa: Isa) -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    let cpu: String = cpu_name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Some(cache.join("penjing").join(format!("kernels-{cpu}-{}-{}.json", isa.name(), env!("CARGO_PKG_VERSION"))))
}

impl Entry {
    fn new(s: &Sample) -> Entry {
        let ConvShape { batch, groups, in_channels, out_channels, input, kernel, stride, dilation, pad, output } =
            s.shape;
        let channels = [in_channels, out_channels];
        let (row, nanoseconds) = (s.row.clone(), s.nanoseconds);
        Entry { row, batch, groups, channels, input, kernel, stride, dilation, pad, output, nanoseconds }
    }

    /// `None` for a shape that no convolution has.
    fn sample(self) -> Option<Sample> {
        let Entry { row, batch, groups, channels, input, kernel, stride, dilation, pad, output, nanoseconds } = self;
        let [in_channels, out_channels] = channels;
        let shape =
            ConvShape { batch, groups, in_channels, out_channels, input, kernel, stride, dilation, pad, output };
        let small = |n: &usize| *n < 1 << 20;
        let extents = [channels, input, kernel, stride, dilation, pad, output].concat();
        (groups > 0 && batch < 1 << 20 && extents.iter().all(small)).then_some(Sample { row, shape, nanoseconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_and_a_strange_one_counts_as_absent() {
        let folder = env::temp_dir().join(format!("penjing-costs-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("kernels.json");
        let two = [2; 2];
        let shape = ConvShape {
            batch: 3,
            groups: 1,
            in_channels: 4,
            out_channels: 5,
            input: [7, 8],
            kernel: two,
            stride: [1, 2],
            dilation: [1, 1],
            pad: [0, 1],
            output: [6, 4],
        };
        let sample = Sample { row: "avx2.x".into(), shape, nanoseconds: 77 };
        let file = |cpu: &str, groups: usize| {
            let samples = vec![Entry { groups, ..Entry::new(&sample) }];
            let (isa, version) = (Isa::Generic.name().into(), env!("CARGO_PKG_VERSION").into());
            serde_json::to_string(&File { cpu: cpu.into(), isa, version, samples }).unwrap()
        };
        let read_text = |text: &str| {
            fs::write(&path, text).unwrap();
            read(&path, Isa::Generic)
        };
        let whole = file(&cpu_name(), 1);
        assert_eq!(read_text(&whole), Some(Costs::new(vec![sample.clone()])));
        assert_eq!(read_text(&file("another processor", 1)), None);
        assert_eq!(read_text(&file(&cpu_name(), 0)), None);
        assert_eq!(read_text(&whole[..whole.len() / 2]), None);
        assert_eq!(read(&path, Isa::Avx2), None);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(read(&path, Isa::Generic), None);
    }
}
