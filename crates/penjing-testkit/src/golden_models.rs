//! The four networks of `tests/goldens`, with the weights, batches and answers that PyTorch gave there.

use crate::{Golden, golden};
use penjing_ir::{
    ConvSpec, Dim, Direction, Fact, IrError, Model, Op, PoolKind, PoolSpec, Real, Reduction, Scope, Unary, ValueId,
};
use penjing_tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// The networks that [`golden_network`] knows.
pub const GOLDEN_NETWORKS: [&str; 4] = ["simplecnn", "lstm", "encoder", "decoder"];

/// One network: input `inputs`, output `logits`, batch symbol `N`, and what PyTorch computed with it.
///
/// States have PyTorch's parameter names, but for an LSTM's two biases, which are one state `lstm.bias_l<layer>`.
#[derive(Clone, Debug)]
pub struct GoldenNetwork {
    /// Weights as in the golden.
    pub model: Model,
    /// The arrays of its file.
    pub golden: Golden,
    /// The label that does not count in the loss, if there is one.
    pub ignore: Option<i64>,
    names: Vec<String>,
}

/// Builds the network of the golden called `name`.
///
/// # Panics
/// When there is none of that name, or the file is not as its README says.
pub fn golden_network(name: &str) -> GoldenNetwork {
    let golden = golden(name).expect("the golden is in the repository");
    let names = golden.parameter_names().expect("every network's golden has names");
    let ignore = (name == "decoder").then_some(IGNORE);
    let mut network = GoldenNetwork { model: Model::new(name), golden, ignore, names };
    network.model = match name {
        "simplecnn" => network.simple_cnn(),
        "lstm" => network.lstm(),
        "encoder" => network.transformer(Unary::Gelu, false),
        "decoder" => network.transformer(Unary::GeluTanh, true),
        _ => panic!("no golden network is called {name}"),
    }
    .expect("the golden networks are well typed");
    network
}

impl GoldenNetwork {
    /// The numbers of an array of the golden.
    ///
    /// # Panics
    /// When there is no such array.
    pub fn numbers(&self, array: &str) -> Vec<f64> {
        self.array(array).to_f64s()
    }

    /// The fixed batch.
    pub fn inputs(&self) -> Tensor {
        self.array("inputs").clone()
    }

    /// The labels as `cross_entropy` takes them: the decoder's are the next token, and none at the last position.
    pub fn labels(&self) -> Tensor {
        let labels = self.array("labels");
        let Some(ignore) = self.ignore else { return labels.clone() };
        let mut next = labels.to_i64s().expect("labels are integers");
        let length = labels.shape()[1];
        for row in next.chunks_mut(length) {
            row.rotate_left(1);
            row[length - 1] = ignore;
        }
        Tensor::from_vec(labels.shape(), next).expect("as many labels as before")
    }

    /// 1 / number of labels that count.
    pub fn inverse_count(&self) -> f32 {
        let labels = self.labels().to_i64s().expect("labels are integers");
        1.0 / labels.iter().filter(|l| Some(**l) != self.ignore).count() as f32
    }

    /// Every PyTorch parameter, from a function that gives a tensor (a weight, a gradient) for a state's name.
    pub fn to_torch(&self, state: &dyn Fn(&str) -> Tensor) -> BTreeMap<String, Tensor> {
        self.names.iter().map(|name| (name.clone(), self.parameter_of(name, state))).collect()
    }

    /// Compares gradients, given for a state's name, with PyTorch's: the worst parameter and its
    /// max|Δ| / max(max|g|, 1e-3 · the largest |g| of any parameter).
    pub fn gradient_error(&self, gradient: &dyn Fn(&str) -> Tensor) -> (String, f64) {
        let have = self.to_torch(gradient);
        let want: BTreeMap<&String, (Vec<f64>, usize)> =
            self.names.iter().map(|n| (n, self.golden_gradient(n))).collect();
        let largest = want.values().flat_map(|(g, _)| g).fold(0.0f64, |m, g| m.max(g.abs()));
        let error = |name: &String| {
            let (want, stride) = &want[name];
            let have = have[name].to_f64s();
            if have.len() / stride < want.len() || have.iter().any(|g| g.is_nan()) {
                return f64::INFINITY;
            }
            let own = want.iter().fold(1e-3 * largest, |m, g| m.max(g.abs()));
            want.iter().zip(have.iter().step_by(*stride)).fold(0.0f64, |m, (w, h)| m.max((w - h).abs())) / own
        };
        let errors = self.names.iter().map(|n| (n.clone(), error(n)));
        errors.max_by(|a, b| a.1.total_cmp(&b.1)).expect("a network has parameters")
    }

    /// The stored gradient and its stride.
    fn golden_gradient(&self, name: &str) -> (Vec<f64>, usize) {
        match self.golden.arrays.get(&format!("grad/{name}")) {
            Some(whole) => (whole.to_f64s(), 1),
            None => {
                (self.numbers(&format!("grad_sample/{name}")), self.numbers(&format!("grad_stride/{name}"))[0] as usize)
            }
        }
    }

    fn parameter_of(&self, name: &str, state: &dyn Fn(&str) -> Tensor) -> Tensor {
        let shape = self.shape(name);
        let Some(rest) = name.strip_prefix("lstm.") else { return state(name) };
        let fit = |values: Vec<f64>| Tensor::from_f64s(DType::F64, &shape, values).expect("the parameter's own shape");
        if let Some(layer) = rest.strip_prefix("bias_ih_l").or(rest.strip_prefix("bias_hh_l")) {
            let both = state(&format!("lstm.bias_l{layer}")).to_f64s();
            let half = both.len() / 2;
            let own = if rest.starts_with("bias_ih") { &both[..half] } else { &both[half..] };
            return fit(reorder(own, TO_TORCH));
        }
        fit(reorder(&state(name).to_f64s(), TO_TORCH))
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        self.numbers(&format!("shape/{name}")).iter().map(|&n| n as usize).collect()
    }

    fn array(&self, name: &str) -> &Tensor {
        self.golden.array(name).expect("every network's golden has the arrays of its README")
    }

    fn parameter(&self, name: &str) -> Tensor {
        self.golden.parameter(name).expect("the golden has every parameter of its network")
    }

    fn simple_cnn(&self) -> Result<Model, IrError> {
        let mut model = Model::new("simplecnn");
        let mut x = model.graph.add_input("inputs", Fact::new(DType::F32, [n(), 3.into(), 24.into(), 24.into()]));
        for name in ["conv1", "conv2"] {
            let (w, b) = (self.weight(&mut model, name, "weight"), self.weight(&mut model, name, "bias"));
            let mut s = Scope::new(&mut model.graph, name);
            x = s.conv(x, w, Some(b), ConvSpec { pads: vec![(1, 1); 2], ..ConvSpec::unit(2) })?;
            x = s.relu(x)?;
            let (kernel, strides, dilations) = (vec![2; 2], vec![2; 2], vec![1; 2]);
            let spec = PoolSpec { kernel, strides, pads: vec![(0, 0); 2], dilations, ceil: false };
            x = s.op(Op::Pool { kind: PoolKind::Max, spec }, &[x])?;
        }
        x = Scope::new(&mut model.graph, "flatten").reshape(x, &[n(), 2304.into()])?;
        x = self.linear(&mut model, "fc1", x)?;
        x = Scope::new(&mut model.graph, "fc1").relu(x)?;
        x = self.linear(&mut model, "fc2", x)?;
        model.graph.add_output("logits", x);
        Ok(model)
    }

    fn lstm(&self) -> Result<Model, IrError> {
        let mut model = Model::new("lstm");
        let x = model.graph.add_input("inputs", Fact::new(DType::F32, [n(), 10.into(), 12.into()]));
        let mut s = Scope::new(&mut model.graph, "lstm");
        let mut x = s.permute(x, &[1, 0, 2])?;
        let zero = s.scalar(DType::F32, 0.0);
        let zeros = s.expand(zero, &[1.into(), n(), 24.into()])?;
        for layer in 0..2 {
            let part = |kind: &str| format!("lstm.{kind}_l{layer}");
            let matrix = |name: &str| {
                let t = self.parameter(name);
                let shape = [&[1], t.shape()].concat();
                Tensor::from_f64s(DType::F32, &shape, reorder(&t.to_f64s(), FROM_TORCH)).expect("one more axis of 1")
            };
            let bias: Vec<f64> = ["bias_ih", "bias_hh"]
                .iter()
                .flat_map(|kind| reorder(&self.parameter(&part(kind)).to_f64s(), FROM_TORCH))
                .collect();
            let w = model.add_weight(&part("weight_ih"), matrix(&part("weight_ih")));
            let r = model.add_weight(&part("weight_hh"), matrix(&part("weight_hh")));
            let bias = Tensor::from_f64s(DType::F32, &[1, bias.len()], bias).expect("two biases of 4H");
            let b = model.add_weight(&part("bias"), bias);
            let mut s = Scope::new(&mut model.graph, &format!("lstm.{layer}"));
            let op = Op::Lstm { direction: Direction::Forward, reserve: false };
            let results = s.ops(op, &[x, w, r, b, zeros, zeros])?;
            x = match layer {
                0 => s.reshape(results[0], &[10.into(), n(), 24.into()])?,
                _ => s.reshape(results[1], &[n(), 24.into()])?,
            };
        }
        let logits = self.linear(&mut model, "head", x)?;
        model.graph.add_output("logits", logits);
        Ok(model)
    }

    /// The encoder, or with `causal` the decoder, whose logits go through the transposed token embedding.
    fn transformer(&self, gelu: Unary, causal: bool) -> Result<Model, IrError> {
        let mut model = Model::new(if causal { "decoder" } else { "encoder" });
        let ids = model.graph.add_input("inputs", Fact::new(DType::I64, [n(), 12.into()]));
        let tokens = self.weight(&mut model, "tokens", "weight");
        let positions = self.weight(&mut model, "positions", "weight");
        let mut s = Scope::new(&mut model.graph, "embed");
        let x = s.op(Op::Gather { axis: 0 }, &[tokens, ids])?;
        let mut x = s.add(x, positions)?;
        for layer in 0..2 {
            let part = |name: &str| format!("layers.{layer}.{name}");
            let y = self.layer_norm(&mut model, &part("norm1"), x)?;
            let y = self.attention(&mut model, &part("attn"), y, causal)?;
            x = Scope::new(&mut model.graph, &part("attn")).add(x, y)?;
            let y = self.layer_norm(&mut model, &part("norm2"), x)?;
            let y = self.linear(&mut model, &part("up"), y)?;
            let y = Scope::new(&mut model.graph, &part("up")).unary(gelu, y)?;
            let y = self.linear(&mut model, &part("down"), y)?;
            x = Scope::new(&mut model.graph, &part("down")).add(x, y)?;
        }
        x = self.layer_norm(&mut model, "norm", x)?;
        let logits = if causal {
            Scope::new(&mut model.graph, "head").linear(x, tokens, None)?
        } else {
            x = Scope::new(&mut model.graph, "mean").reduce(Reduction::Mean, x, &[1])?;
            self.linear(&mut model, "head", x)?
        };
        model.graph.add_output("logits", logits);
        Ok(model)
    }

    fn attention(&self, model: &mut Model, name: &str, x: ValueId, causal: bool) -> Result<ValueId, IrError> {
        let mut heads = Vec::new();
        for part in ["q", "k", "v"] {
            let y = self.linear(model, &format!("{name}.{part}"), x)?;
            let mut s = Scope::new(&mut model.graph, &format!("{name}.{part}"));
            let y = s.reshape(y, &[n(), 12.into(), 4.into(), 8.into()])?;
            heads.push(s.permute(y, &[0, 2, 1, 3])?);
        }
        let mut s = Scope::new(&mut model.graph, name);
        let y = s.op(Op::Attention { scale: Real(1.0 / 8f64.sqrt()), causal }, &heads)?;
        let y = s.permute(y, &[0, 2, 1, 3])?;
        let y = s.reshape(y, &[n(), 12.into(), 32.into()])?;
        self.linear(model, &format!("{name}.out"), y)
    }

    fn layer_norm(&self, model: &mut Model, name: &str, x: ValueId) -> Result<ValueId, IrError> {
        let (scale, bias) = (self.weight(model, name, "weight"), self.weight(model, name, "bias"));
        Scope::new(&mut model.graph, name).op(Op::LayerNorm { axis: 2, eps: Real(1e-5) }, &[x, scale, bias])
    }

    fn linear(&self, model: &mut Model, name: &str, x: ValueId) -> Result<ValueId, IrError> {
        let (w, b) = (self.weight(model, name, "weight"), self.weight(model, name, "bias"));
        Scope::new(&mut model.graph, name).linear(x, w, Some(b))
    }

    fn weight(&self, model: &mut Model, layer: &str, part: &str) -> ValueId {
        let name = format!("{layer}.{part}");
        let value = self.parameter(&name);
        model.add_weight(&name, value)
    }
}

const IGNORE: i64 = -100;
/// PyTorch's gates are i, f, g, o; ours i, o, f, g.
const FROM_TORCH: [usize; 4] = [0, 3, 1, 2];
const TO_TORCH: [usize; 4] = [0, 2, 3, 1];

fn n() -> Dim {
    Dim::sym("N")
}

/// Four equal blocks in another order: block i of the result is block `order[i]`.
fn reorder(values: &[f64], order: [usize; 4]) -> Vec<f64> {
    let block = values.len() / 4;
    order.iter().flat_map(|&gate| &values[gate * block..(gate + 1) * block]).copied().collect()
}
