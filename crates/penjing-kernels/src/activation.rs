//! What a fused kernel does to each result before it is stored: the one set of activations that GEMM, convolution and integer
//! kernels share. The functions are those of `math`, so a fused result has the bits that a separate pass would give it.

use crate::{
    Isa,
    isa::{Math, per_isa},
    math,
};

/// Limits of the result; a NaN stays one.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs)]
pub struct Clamp {
    pub min: f32,
    pub max: f32,
}

impl Clamp {
    /// No limits.
    pub const NONE: Clamp = Clamp { min: f32::NEG_INFINITY, max: f32::INFINITY };
    /// Negative values become 0.
    pub const RELU: Clamp = Clamp { min: 0.0, max: f32::INFINITY };

    #[inline(always)]
    pub(crate) fn apply(self, v: f32) -> f32 {
        // Comparisons that are false for NaN keep it.
        let v = if v < self.min { self.min } else { v };
        if v > self.max { self.max } else { v }
    }
}

impl Default for Clamp {
    fn default() -> Clamp {
        Clamp::NONE
    }
}

/// A function of one value. u is 2⁻²⁴; an error "of |x|" is absolute, since these functions cancel for negative x.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Activation {
    /// Limits, exact; [`Clamp::NONE`] is the identity.
    Clamp(Clamp),
    /// x·Φ(x), within 8 u·|x|.
    Gelu,
    /// The tanh approximation of GELU, within 8 u·|x|.
    GeluTanh,
    /// x·sigmoid(x), within 5 ULP.
    Silu,
    /// 1/(1+e⁻ˣ), within 4 ULP.
    Sigmoid,
    /// tanh x, within 3 ULP.
    Tanh,
    /// x·clamp(x/6 + 1/2, 0, 1), within 4 u·|x|.
    HardSwish,
    /// clamp(αx + β, 0, 1), within 2 u·(|αx| + |β|).
    #[allow(missing_docs)]
    HardSigmoid { alpha: f32, beta: f32 },
}

impl Activation {
    /// Nothing.
    pub const NONE: Activation = Activation::Clamp(Clamp::NONE);
    /// max(x, 0).
    pub const RELU: Activation = Activation::Clamp(Clamp::RELU);

    /// Its limits, or none and the function that it is instead.
    pub(crate) fn parts(self) -> (Clamp, Option<Activation>) {
        match self {
            Activation::Clamp(clamp) => (clamp, None),
            smooth => (Clamp::NONE, Some(smooth)),
        }
    }

    /// Whether finite values have finite results.
    pub(crate) fn is_finite(self) -> bool {
        match self {
            Activation::HardSigmoid { alpha, beta } => alpha.is_finite() && beta.is_finite(),
            _ => true,
        }
    }

    /// Applies the function to every value: limits in the caller's code, the others by a call.
    #[inline(always)]
    pub(crate) fn apply(self, isa: Isa, values: &mut [f32]) {
        match self {
            Activation::Clamp(Clamp::NONE) => {}
            Activation::Clamp(c) => values.iter_mut().for_each(|v| *v = c.apply(*v)),
            smooth => activate(isa, smooth, values),
        }
    }

    /// As [`apply`](Self::apply), in the caller's code.
    #[inline(always)]
    pub(crate) fn apply_body<M: Math>(self, values: &mut [f32]) {
        match self {
            Activation::Clamp(c) => values.iter_mut().for_each(|v| *v = c.apply(*v)),
            Activation::Gelu => values.iter_mut().for_each(|v| *v = math::gelu::<M>(*v)),
            Activation::GeluTanh => values.iter_mut().for_each(|v| *v = math::gelu_tanh::<M>(*v)),
            Activation::Silu => values.iter_mut().for_each(|v| *v *= math::sigmoid::<M>(*v)),
            Activation::Sigmoid => values.iter_mut().for_each(|v| *v = math::sigmoid::<M>(*v)),
            Activation::Tanh => values.iter_mut().for_each(|v| *v = math::tanh::<M>(*v)),
            Activation::HardSwish => {
                values.iter_mut().for_each(|v| *v *= math::hard_sigmoid::<M>(*v, 1.0 / 6.0, 0.5));
            }
            Activation::HardSigmoid { alpha, beta } => {
                values.iter_mut().for_each(|v| *v = math::hard_sigmoid::<M>(*v, alpha, beta));
            }
        }
    }
}

impl Default for Activation {
    fn default() -> Activation {
        Activation::NONE
    }
}

per_isa! {
    fn activate(act: Activation, values: &mut [f32]) = activate_body
}

#[inline(always)]
fn activate_body<M: Math>(act: Activation, values: &mut [f32]) {
    act.apply_body::<M>(values);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::tests::erf64;

    type Formula = fn(f64) -> f64;

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    fn hard_sigmoid(x: f64, alpha: f64, beta: f64) -> f64 {
        (alpha * x + beta).clamp(0.0, 1.0)
    }

    /// The allowed error at x with result y, u being 2⁻²⁴.
    fn bound(act: Activation, x: f64, y: f64) -> f64 {
        let u = 2f64.powi(-24);
        let tiny = f64::from(f32::MIN_POSITIVE);
        match act {
            Activation::Clamp(_) => 0.0,
            Activation::Gelu | Activation::GeluTanh => 8.0 * u * x.abs(),
            Activation::Silu => (10.0 * u * y.abs()).max(tiny),
            Activation::Sigmoid => (8.0 * u * y).max(tiny),
            Activation::Tanh => 6.0 * u * y.abs(),
            Activation::HardSwish => 4.0 * u * x.abs(),
            Activation::HardSigmoid { alpha, beta } => 2.0 * u * (f64::from(alpha) * x.abs() + f64::from(beta).abs()),
        }
    }

    #[test]
    fn every_activation_keeps_its_bound_and_nan() {
        let hard = Activation::HardSigmoid { alpha: 0.2, beta: 0.5 };
        let table: [(Activation, Formula); 9] = [
            (Activation::NONE, |x| x),
            (Activation::Clamp(Clamp { min: -1.5, max: 6.0 }), |x| x.clamp(-1.5, 6.0)),
            (Activation::Gelu, |x| x / 2.0 * (1.0 + erf64(x * std::f64::consts::FRAC_1_SQRT_2))),
            (Activation::GeluTanh, |x| {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                x / 2.0 * (1.0 + inner.tanh())
            }),
            (Activation::Silu, |x| x * sigmoid(x)),
            (Activation::Sigmoid, sigmoid),
            (Activation::Tanh, f64::tanh),
            (Activation::HardSwish, |x| x * hard_sigmoid(x, 1.0 / 6.0, 0.5)),
            (hard, |x| hard_sigmoid(x, f64::from(0.2f32), 0.5)),
        ];
        let bits = (0..=1e4f32.to_bits()).step_by(7919).map(f32::from_bits);
        let special = [0.0, f32::MIN_POSITIVE, 1e-45, 1.0, 3.0, 6.0, 88.7, 104.0];
        let samples: Vec<f32> = bits.chain(special).flat_map(|v| [v, -v]).collect();
        for isa in Isa::ALL {
            for (act, formula) in table {
                let mut got = samples.clone();
                got.push(f32::NAN);
                act.apply(isa, &mut got);
                assert!(got.pop().is_some_and(f32::is_nan), "{act:?} of NaN");
                for (&x, &y) in samples.iter().zip(&got) {
                    let (x, y) = (f64::from(x), f64::from(y));
                    let want = formula(x);
                    let allowed = bound(act, x, want);
                    assert!((y - want).abs() <= allowed.max(1e-45), "{act:?}({x}) is {y}, want {want} ± {allowed:e}");
                }
            }
        }
    }
}
