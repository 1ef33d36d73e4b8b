//! Parameters with PyTorch's default initialization.

use crate::TrainError;
use penjing_ir::{ConvSpec, Dim, IrError, Model, Role, Scope, ValueId};
use penjing_tensor::{DType, Rng, Tensor};

/// A model under construction whose parameters are drawn by name.
pub(super) struct Init {
    pub(super) model: Model,
    seed: u64,
}

impl Init {
    pub(super) fn new(name: &str, seed: u64) -> Init {
        Init { model: Model::new(name), seed }
    }

    /// New nodes called `<prefix>/<Op>`.
    pub(super) fn scope(&mut self, prefix: &str) -> Scope<'_> {
        Scope::new(&mut self.model.graph, prefix)
    }

    /// U(−bound, bound).
    pub(super) fn uniform(&mut self, name: &str, shape: &[usize], bound: f64) -> ValueId {
        let rng = Rng::new(self.seed, name, 0);
        self.weight(name, shape, |i| ((f64::from(rng.uniform(i)) * 2.0 - 1.0) * bound) as f32)
    }

    /// N(0, std²).
    pub(super) fn normal(&mut self, name: &str, shape: &[usize], std: f64) -> ValueId {
        let rng = Rng::new(self.seed, name, 0);
        self.weight(name, shape, |i| (f64::from(rng.normal(i)) * std) as f32)
    }

    pub(super) fn filled(&mut self, name: &str, shape: &[usize], value: f32) -> ValueId {
        self.weight(name, shape, |_| value)
    }

    /// Linear layer, weight [n_out, n_in] and bias by U(±1/√n_in), as `torch.nn.Linear`.
    pub(super) fn linear(&mut self, name: &str, x: ValueId, [n_in, n_out]: [usize; 2]) -> Result<ValueId, IrError> {
        let bound = 1.0 / (n_in as f64).sqrt();
        let w = self.uniform(&format!("{name}.weight"), &[n_out, n_in], bound);
        let b = self.uniform(&format!("{name}.bias"), &[n_out], bound);
        self.scope(name).linear(x, w, Some(b))
    }

    /// Square convolution with bias, as `torch.nn.Conv2d`.
    pub(super) fn conv(&mut self, name: &str, x: ValueId, conv: Conv) -> Result<ValueId, IrError> {
        let bound = 1.0 / ((conv.n_in * conv.kernel * conv.kernel) as f64).sqrt();
        let shape = [conv.n_out, conv.n_in, conv.kernel, conv.kernel];
        let w = self.uniform(&format!("{name}.weight"), &shape, bound);
        let b = conv.bias.then(|| self.uniform(&format!("{name}.bias"), &[conv.n_out], bound));
        let spec = ConvSpec {
            strides: vec![conv.stride; 2],
            pads: vec![(conv.kernel / 2, conv.kernel / 2); 2],
            ..ConvSpec::unit(2)
        };
        self.scope(name).conv(x, w, b, spec)
    }

    /// Running statistics and the like: no gradient.
    pub(super) fn buffer(&mut self, name: &str, shape: &[usize], value: f32) -> ValueId {
        let n = shape.iter().product();
        let tensor = Tensor::from_vec(shape, vec![value; n]).expect("as many values as the shape holds");
        self.model.add_state(name, Role::Buffer, false, tensor)
    }

    /// An input of that dtype and shape.
    pub(super) fn input(&mut self, name: &str, dtype: DType, shape: &[Dim]) -> ValueId {
        self.model.graph.add_input(name, penjing_ir::Fact { dtype, shape: shape.to_vec() })
    }

    /// The finished model.
    pub(super) fn finish(&mut self, output: &str, value: ValueId) -> Result<Model, TrainError> {
        self.model.graph.add_output(output, value);
        let mut model = std::mem::take(&mut self.model);
        model.compact();
        Ok(model)
    }

    fn weight(&mut self, name: &str, shape: &[usize], element: impl Fn(u64) -> f32) -> ValueId {
        let n: usize = shape.iter().product();
        let tensor = Tensor::from_vec(shape, (0..n as u64).map(element).collect());
        self.model.add_weight(name, tensor.expect("as many values as the shape holds"))
    }
}

/// Extents of a square convolution with "same" padding.
#[derive(Clone, Copy)]
pub(super) struct Conv {
    pub(super) n_in: usize,
    pub(super) n_out: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) bias: bool,
}
