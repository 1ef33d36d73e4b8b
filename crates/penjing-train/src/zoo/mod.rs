//! Untrained networks by name, with PyTorch's default initialization.

mod gpt;
mod init;
mod lstm;
mod resnet;
mod simple_cnn;

use crate::TrainError;
use penjing_ir::Model;

/// What `new` may be asked to change; each network says which it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Base channels or hidden size.
    pub width: Option<usize>,
    /// Blocks or layers.
    pub depth: Option<usize>,
    /// Classes or vocabulary.
    pub classes: Option<usize>,
}

/// A network that `new` can make.
pub struct Network {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    build: fn(&mut init::Init, Size) -> Result<Model, TrainError>,
}

/// Every network.
pub const NETWORKS: [Network; 5] = [
    Network {
        name: "simple-cnn",
        about: "two 3x3 convolutions and two linear layers for 3x24x24 images",
        build: simple_cnn::build,
    },
    Network {
        name: "resnet-8",
        about: "CIFAR ResNet with 1 block a stage, 3x32x32 images",
        build: |i, s| resnet::build(i, s, 1),
    },
    Network {
        name: "resnet-20",
        about: "CIFAR ResNet with 3 blocks a stage, 3x32x32 images",
        build: |i, s| resnet::build(i, s, 3),
    },
    Network { name: "lstm", about: "LSTM language model over bytes", build: lstm::build },
    Network { name: "gpt", about: "small GPT-2-style language model over bytes, 128 positions", build: gpt::build },
];

/// The untrained network called `name`; every weight is a pure function of the seed and its own name.
pub fn new(name: &str, size: Size, seed: u64) -> Result<Model, TrainError> {
    let known = || NETWORKS.iter().map(|n| n.name).collect::<Vec<_>>().join(", ");
    let network = NETWORKS.iter().find(|n| n.name == name);
    let network = network.ok_or_else(|| TrainError::UnknownNetwork { name: name.into(), known: known() })?;
    let zero = [size.width, size.depth, size.classes].contains(&Some(0));
    let huge = [size.width, size.depth, size.classes].iter().flatten().any(|&v| v > 65_536);
    if zero || huge {
        let why = "width, depth and classes must be in 1..=65536".into();
        return Err(TrainError::Network { name: name.into(), why });
    }
    (network.build)(&mut init::Init::new(name, seed), size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use penjing_ir::{Stage, verify};

    fn parameters(name: &str, size: Size) -> usize {
        let model = new(name, size, 0).unwrap();
        verify(&model, Stage::Canonical).unwrap();
        model.states.iter().filter(|s| s.trainable).map(|s| s.init.len()).sum()
    }

    /// Parameter counts of the same networks in PyTorch; ResNet-20 as He et al. 2015 report it (0.27 M).
    #[test]
    fn parameter_counts_are_the_known_ones() {
        let default = Size::default();
        assert_eq!(parameters("simple-cnn", default), 896 + 18_496 + 295_040 + 1_290);
        assert_eq!(parameters("resnet-20", default), 272_474);
        // embedding 256·128, two layers of 4·128·(128+128) + 2·4·128, head 128·256 + 256
        assert_eq!(parameters("lstm", default), 32_768 + 2 * (131_072 + 1_024) + 33_024);
    }

    #[test]
    fn weights_follow_the_seed_and_bad_requests_are_errors() {
        let a = new("gpt", Size { depth: Some(1), ..Size::default() }, 1).unwrap();
        let b = new("gpt", Size { depth: Some(1), ..Size::default() }, 1).unwrap();
        let c = new("gpt", Size { depth: Some(1), ..Size::default() }, 2).unwrap();
        let all = |m: &Model| m.states.iter().map(|s| s.init.clone()).collect::<Vec<_>>();
        assert_eq!(all(&a), all(&b));
        assert_ne!(all(&a), all(&c));
        assert!(new("alexnet", Size::default(), 0).is_err());
        assert!(new("gpt", Size { width: Some(0), ..Size::default() }, 0).is_err());
    }
}
