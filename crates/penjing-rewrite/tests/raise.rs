//! Decomposed formulas become one op where they mean it, and stay where they do not.

#![allow(clippy::unwrap_used)]

mod common;

use common::{assert_same, constant, formula, only_op, ops};
use penjing_ir::{Binary, Fact, IrError, Model, Op, Real, Reduction, Scope, Unary, ValueId};
use penjing_rewrite::{Trace, raise};
use penjing_tensor::{DType, Tensor};

type Built = Result<ValueId, IrError>;

fn raised(before: &Model) -> (Model, Trace) {
    let (mut after, mut trace) = (before.clone(), Trace::new());
    raise(&mut after, &mut trace).unwrap();
    penjing_rewrite::dead_code(&mut after).unwrap();
    assert_same(before, &after);
    (after, trace)
}

/// (name, formula, the op it is).
type Case = (&'static str, fn(&mut Scope<'_>, ValueId) -> Built, Unary);

const ACTIVATIONS: &[Case] = &[
    (
        "gelu as torch writes it",
        |s, x| {
            let g = erf_gate(s, x, 2f64.sqrt())?;
            let y = s.mul(x, g)?;
            s.scale(y, 0.5)
        },
        Unary::Gelu,
    ),
    (
        "gelu, half first",
        |s, x| {
            let g = erf_gate(s, x, 2f64.sqrt())?;
            let h = s.scale(x, 0.5)?;
            s.mul(g, h)
        },
        Unary::Gelu,
    ),
    (
        "gelu, half on the gate",
        |s, x| {
            let g = erf_gate(s, x, 2f64.sqrt())?;
            let h = s.scale(g, 0.5)?;
            s.mul(h, x)
        },
        Unary::Gelu,
    ),
    (
        "gelu of a product",
        |s, x| {
            let x = s.mul(x, x)?;
            let g = erf_gate(s, x, 2f64.sqrt())?;
            let y = s.mul(x, g)?;
            s.scale(y, 0.5)
        },
        Unary::Gelu,
    ),
    (
        "tanh gelu with pow",
        |s, x| {
            let three = s.scalar_like(x, 3.0);
            let cube = s.binary(Binary::Pow, x, three)?;
            tanh_gelu(s, x, cube)
        },
        Unary::GeluTanh,
    ),
    (
        "tanh gelu with products",
        |s, x| {
            let square = s.mul(x, x)?;
            let cube = s.mul(square, x)?;
            tanh_gelu(s, x, cube)
        },
        Unary::GeluTanh,
    ),
    (
        "silu",
        |s, x| {
            let g = s.unary(Unary::Sigmoid, x)?;
            s.mul(g, x)
        },
        Unary::Silu,
    ),
    (
        "softplus",
        |s, x| {
            let e = s.unary(Unary::Exp, x)?;
            let e = s.shift(e, 1.0)?;
            s.unary(Unary::Log, e)
        },
        Unary::Softplus,
    ),
    (
        "sigmoid",
        |s, x| {
            let n = s.unary(Unary::Neg, x)?;
            let e = s.unary(Unary::Exp, n)?;
            let e = s.shift(e, 1.0)?;
            s.unary(Unary::Recip, e)
        },
        Unary::Sigmoid,
    ),
    (
        "hard swish by clip",
        |s, x| {
            let c = clip(s, x, 6.0)?;
            let y = s.mul(x, c)?;
            let six = s.scalar_like(x, 6.0);
            s.div(y, six)
        },
        Unary::HardSwish,
    ),
    (
        "hard swish by its gate",
        |s, x| {
            let g = s.unary(Unary::HardSigmoid { alpha: Real(1.0 / 6.0), beta: Real(0.5) }, x)?;
            s.mul(g, x)
        },
        Unary::HardSwish,
    ),
    (
        "hard sigmoid by clip",
        |s, x| {
            let c = clip(s, x, 6.0)?;
            s.scale(c, 1.0 / 6.0)
        },
        Unary::HardSigmoid { alpha: Real(1.0 / 6.0), beta: Real(0.5) },
    ),
];

fn erf_gate(s: &mut Scope<'_>, x: ValueId, root: f64) -> Built {
    let root = s.scalar_like(x, root);
    let scaled = s.div(x, root)?;
    let erf = s.unary(Unary::Erf, scaled)?;
    s.shift(erf, 1.0)
}

fn tanh_gelu(s: &mut Scope<'_>, x: ValueId, cube: ValueId) -> Built {
    let cubic = s.scale(cube, 0.044715)?;
    let sum = s.add(x, cubic)?;
    let scaled = s.scale(sum, 0.7978846)?;
    let tanh = s.unary(Unary::Tanh, scaled)?;
    let gate = s.shift(tanh, 1.0)?;
    let half = s.scale(x, 0.5)?;
    s.mul(half, gate)
}

fn clip(s: &mut Scope<'_>, x: ValueId, hi: f64) -> Built {
    let x = s.shift(x, 3.0)?;
    let (lo, hi) = (s.scalar_like(x, 0.0), s.scalar_like(x, hi));
    let x = s.binary(Binary::Max, x, lo)?;
    s.binary(Binary::Min, x, hi)
}

#[test]
fn activations_are_raised() {
    for (name, build, want) in ACTIVATIONS {
        let before = formula(&[&[3, 5]], |s, x| build(s, x[0]));
        let (after, _) = raised(&before);
        assert_eq!(ops(&after).last(), Some(&want.name()), "{name}: {:?}", ops(&after));
        let last = after.graph.producer(after.graph.output("y").unwrap()).unwrap();
        assert_eq!(after.graph.node(last).op, Op::Unary(*want), "{name}");
    }
}

#[test]
fn activations_with_other_numbers_stay() {
    let others: [Case; 4] = [
        (
            "erf with another root",
            |s, x| {
                let g = erf_gate(s, x, 1.5)?;
                let y = s.mul(x, g)?;
                s.scale(y, 0.5)
            },
            Unary::Gelu,
        ),
        (
            "gelu without the half",
            |s, x| {
                let g = erf_gate(s, x, 2f64.sqrt())?;
                s.mul(x, g)
            },
            Unary::Gelu,
        ),
        (
            "clip at five",
            |s, x| {
                let c = clip(s, x, 5.0)?;
                let y = s.mul(x, c)?;
                s.scale(y, 1.0 / 6.0)
            },
            Unary::HardSwish,
        ),
        (
            "gate of something else",
            |s, x| {
                let e = s.unary(Unary::Exp, x)?;
                let g = s.unary(Unary::Sigmoid, e)?;
                s.mul(g, x)
            },
            Unary::Silu,
        ),
    ];
    for (name, build, not) in others {
        let (after, trace) = raised(&formula(&[&[3, 5]], |s, x| build(s, x[0])));
        assert!(!ops(&after).contains(&not.name()), "{name}");
        assert!(trace.steps.iter().all(|s| !s.rule.starts_with("raise-")), "{name}: {trace}");
    }
}

#[test]
fn log_of_softmax_is_one_op() {
    let before = formula(&[&[3, 5]], |s, x| {
        let p = s.op(Op::Softmax { axis: 1 }, x)?;
        s.unary(Unary::Log, p)
    });
    assert_eq!(only_op(&raised(&before).0), Op::LogSoftmax { axis: 1 });
}

/// (x − mean) / √(var + ε), the difference written twice as old exporters do.
fn normalised(s: &mut Scope<'_>, x: ValueId, axes: &[usize], eps: f64) -> Built {
    let mean = s.reduce_keep(Reduction::Mean, x, axes)?;
    let (d, again) = (s.sub(x, mean)?, s.sub(x, mean)?);
    let two = s.scalar_like(x, 2.0);
    let square = s.binary(Binary::Pow, again, two)?;
    let var = s.reduce_keep(Reduction::Mean, square, axes)?;
    let spread = s.shift(var, eps)?;
    let root = s.unary(Unary::Sqrt, spread)?;
    s.div(d, root)
}

#[test]
fn layer_norm_is_raised_with_and_without_parameters() {
    for parameters in 0..3 {
        let before = formula(&[&[2, 3, 8]], |s, x| {
            let mut y = normalised(s, x[0], &[2], 1e-5)?;
            if parameters > 0 {
                let scale = constant(s, "scale", &[8]);
                y = s.mul(scale, y)?;
            }
            if parameters > 1 {
                let bias = constant(s, "bias", &[8]);
                y = s.add(y, bias)?;
            }
            Ok(y)
        });
        let (after, _) = raised(&before);
        let eps = f64::from(1e-5f32);
        assert_eq!(only_op(&after), Op::LayerNorm { axis: 2, eps: Real(eps) }, "{parameters} parameters");
    }
}

#[test]
fn layer_norm_over_two_axes() {
    let before = formula(&[&[2, 3, 8]], |s, x| normalised(s, x[0], &[1, 2], 1e-5));
    assert!(matches!(only_op(&raised(&before).0), Op::LayerNorm { axis: 1, .. }));
}

#[test]
fn norm_over_a_middle_axis_stays() {
    let (after, trace) = raised(&formula(&[&[2, 3, 8]], |s, x| normalised(s, x[0], &[1], 1e-5)));
    assert!(!ops(&after).contains(&"LayerNorm"));
    assert!(trace.skipped.iter().any(|s| s.2 == "the mean is not over the last axes"), "{trace}");
}

#[test]
fn norm_whose_variance_is_read_elsewhere_stays() {
    let mut before = formula(&[&[2, 8]], |s, x| normalised(s, x[0], &[1], 1e-5));
    let root = before.graph.nodes().iter().find(|n| n.op == Op::Unary(Unary::Sqrt)).unwrap().outputs[0];
    before.graph.add_output("deviation", root);
    let (after, trace) = raised(&before);
    assert!(!ops(&after).contains(&"LayerNorm"));
    assert!(trace.skipped.iter().any(|s| s.2 == "a value inside the match is read outside it"), "{trace}");
}

#[test]
fn rms_norm_is_raised() {
    for inverse in [false, true] {
        let before = formula(&[&[2, 3, 8]], |s, x| {
            let square = s.mul(x[0], x[0])?;
            let mean = s.reduce_keep(Reduction::Mean, square, &[2])?;
            let spread = s.shift(mean, 1e-6)?;
            let root = s.unary(Unary::Sqrt, spread)?;
            let y = if inverse {
                let one = s.scalar_like(x[0], 1.0);
                let r = s.div(one, root)?;
                s.mul(x[0], r)?
            } else {
                s.div(x[0], root)?
            };
            let scale = constant(s, "scale", &[8]);
            s.mul(scale, y)
        });
        assert!(matches!(only_op(&raised(&before).0), Op::RmsNorm { axis: 2, .. }), "inverse: {inverse}");
    }
}

const S: usize = 4;
const D: usize = 8;

/// How the scale is spread and how positions are hidden.
struct Exported {
    q_scale: Option<f64>,
    k_scale: Option<f64>,
    divide: Option<f64>,
    k_permuted: bool,
    mask: fn(&mut Scope<'_>, ValueId) -> Built,
    softmax_axis: usize,
}

const PLAIN: Exported = Exported {
    q_scale: None,
    k_scale: None,
    divide: Some(2.828_427_1),
    k_permuted: false,
    mask: |_, scores| Ok(scores),
    softmax_axis: 3,
};

/// q: [1, 2, S, D] and v likewise; k: [1, S, 2, D] when it is permuted to [1, 2, D, S] in one step.
fn attention(how: &Exported) -> Model {
    let k_shape: &[usize] = if how.k_permuted { &[1, S, 2, D] } else { &[1, 2, S, D] };
    formula(&[&[1, 2, S, D], k_shape, &[1, 2, S, D]], |s, x| {
        let (mut q, mut k, v) = (x[0], x[1], x[2]);
        k = s.permute(k, if how.k_permuted { &[0, 2, 3, 1] } else { &[0, 1, 3, 2] })?;
        if let Some(c) = how.q_scale {
            q = s.scale(q, c)?;
        }
        if let Some(c) = how.k_scale {
            k = s.scale(k, c)?;
        }
        let mut scores = s.matmul(q, k)?;
        if let Some(c) = how.divide {
            let c = s.scalar_like(scores, c);
            scores = s.div(scores, c)?;
        }
        let scores = (how.mask)(s, scores)?;
        let p = s.op(Op::Softmax { axis: how.softmax_axis }, &[scores])?;
        s.matmul(p, v)
    })
}

fn triangle(s: &mut Scope<'_>, of: fn(bool) -> f64, dtype: DType) -> ValueId {
    let values = (0..S * S).map(|i| of(i % S <= i / S)).collect();
    s.constant(Tensor::from_f64s(dtype, &[1, 1, S, S], values).unwrap())
}

fn chosen(s: &mut Scope<'_>, scores: ValueId, fill: f64) -> Built {
    let visible = triangle(s, |v| f64::from(u8::from(v)), DType::Bool);
    let fill = s.scalar_like(scores, fill);
    s.select(visible, scores, fill)
}

#[test]
fn attention_is_raised_from_every_export() {
    let root = 8f64.powf(-0.25);
    let cases: [(&str, Exported, bool, usize); 7] = [
        ("BERT: divided by the root", PLAIN, false, 3),
        (
            "sdpa: roots on q and k",
            Exported { q_scale: Some(root), k_scale: Some(root), divide: None, k_permuted: true, ..PLAIN },
            false,
            3,
        ),
        (
            "BERT with an added mask",
            Exported {
                mask: |s, x| {
                    let m = constant(s, "mask", &[1, 1, 1, S]);
                    s.add(x, m)
                },
                ..PLAIN
            },
            false,
            4,
        ),
        ("GPT-2: where", Exported { mask: |s, x| chosen(s, x, f32::MIN.into()), ..PLAIN }, true, 3),
        (
            "sdpa: causal by an added triangle",
            Exported {
                mask: |s, x| {
                    let m = triangle(s, |v| if v { 0.0 } else { f64::NEG_INFINITY }, DType::F32);
                    s.add(x, m)
                },
                ..PLAIN
            },
            true,
            3,
        ),
        (
            "GPT-2: where and an added mask",
            Exported {
                mask: |s, x| {
                    let x = chosen(s, x, f32::MIN.into())?;
                    let m = constant(s, "mask", &[1, 1, 1, S]);
                    s.add(x, m)
                },
                ..PLAIN
            },
            true,
            4,
        ),
        (
            "hidden where a condition holds",
            Exported {
                mask: |s, x| {
                    let hidden = s.constant(Tensor::from_bools(&[1, 1, 1, S], &[false, true, false, false]).unwrap());
                    let low = s.scalar_like(x, f64::NEG_INFINITY);
                    s.select(hidden, low, x)
                },
                ..PLAIN
            },
            false,
            4,
        ),
    ];
    for (name, how, causal, operands) in cases {
        let (after, trace) = raised(&attention(&how));
        let node = after.graph.nodes().iter().find(|n| matches!(n.op, Op::Attention { .. }));
        let node = node.unwrap_or_else(|| panic!("{name}: {:?}\n{trace}", ops(&after)));
        let Op::Attention { scale, causal: have } = node.op else { unreachable!() };
        assert_eq!((have, node.inputs.len()), (causal, operands), "{name}");
        assert!((scale.0 - 8f64.powf(-0.5)).abs() < 1e-6, "{name}: scale {scale:?}");
        assert!(!ops(&after).contains(&"MatMul"), "{name}: {:?}", ops(&after));
    }
}

#[test]
fn attention_that_is_none_stays() {
    let cases: [(&str, Exported, &str); 2] = [
        ("softmax over queries", Exported { softmax_axis: 2, ..PLAIN }, "the softmax is not over the keys"),
        (
            "a fill that hides little",
            Exported { mask: |s, x| chosen(s, x, -1.0), ..PLAIN },
            "the score of hidden positions is not low enough to hide them",
        ),
    ];
    for (name, how, reason) in cases {
        let (after, trace) = raised(&attention(&how));
        assert!(!ops(&after).contains(&"Attention"), "{name}");
        assert!(trace.skipped.iter().any(|s| s.2 == reason), "{name}: {trace}");
    }
    let mut shown = attention(&PLAIN);
    let p = shown.graph.nodes().iter().find(|n| matches!(n.op, Op::Softmax { .. })).unwrap().outputs[0];
    shown.graph.add_output("attention", p);
    assert!(!ops(&raised(&shown).0).contains(&"Attention"), "the probabilities are an output");
}

#[test]
fn three_dimensional_products_are_no_attention() {
    let before = formula(&[&[2, S, D], &[2, D, S], &[2, S, D]], |s, x| {
        let scores = s.matmul(x[0], x[1])?;
        let p = s.op(Op::Softmax { axis: 2 }, &[scores])?;
        s.matmul(p, x[2])
    });
    let (_, trace) = raised(&before);
    assert!(trace.skipped.iter().any(|s| s.2 == "q, k and v are not [batch, heads, positions, width]"), "{trace}");
}

#[test]
fn bodies_are_raised_too() {
    let mut model = formula(&[&[3]], |s, x| s.relu(x[0]));
    let mut body = penjing_ir::Graph::new("body");
    let x = body.add_input("x", Fact::new(DType::F32, [3usize]));
    let mut s = Scope::new(&mut body, "");
    let gate = s.unary(Unary::Sigmoid, x).unwrap();
    let y = s.mul(x, gate).unwrap();
    body.add_output("y", y);
    model.bodies.push(body);
    raise(&mut model, &mut Trace::new()).unwrap();
    let body = &model.bodies[0];
    assert_eq!(body.node(body.producer(body.outputs[0].value).unwrap()).op, Op::Unary(Unary::Silu));
}

#[test]
fn group_norm_as_torch_exports_it() {
    let build = |per_channel: &'static [usize]| {
        formula(&[&[2, 6, 4, 5]], move |s, x| {
            let split = s.reshape(x[0], &common::dims(&[2, 3, 40]))?;
            let (one, zero) =
                (Tensor::from_vec(&[3], vec![1f32; 3]).unwrap(), Tensor::zeros(DType::F32, &[3]).unwrap());
            let (one, zero) = (s.constant(one), s.constant(zero));
            let y = s.op(Op::GroupNorm { groups: 3, eps: Real(1e-5) }, &[split, one, zero])?;
            let y = s.reshape(y, &common::dims(&[2, 6, 4, 5]))?;
            let (scale, bias) = (constant(s, "scale", per_channel), constant(s, "bias", per_channel));
            let y = s.mul(y, scale)?;
            s.add(y, bias)
        })
    };
    assert_eq!(only_op(&raised(&build(&[6, 1, 1])).0), Op::GroupNorm { groups: 3, eps: Real(1e-5) });
    let (after, trace) = raised(&build(&[5]));
    assert!(ops(&after).contains(&"Mul"));
    assert!(trace.skipped.iter().any(|s| s.2 == "the scale or bias is not one number for each channel"), "{trace}");
}

#[test]
fn a_constant_mask_that_is_the_triangle_makes_attention_causal() {
    let build = |low: f64| {
        formula(&[&[1, 2, S, D], &[1, 2, S, D], &[1, 2, S, D]], move |s, x| {
            let values = (0..S * S).map(|i| if i % S <= i / S { 0.0 } else { low }).collect();
            let mask = s.constant(Tensor::from_f64s(DType::F32, &[S, S], values).unwrap());
            s.op(Op::Attention { scale: Real(0.3), causal: false }, &[x[0], x[1], x[2], mask])
        })
    };
    assert_eq!(only_op(&raised(&build(f64::NEG_INFINITY)).0), Op::Attention { scale: Real(0.3), causal: true });
    assert_eq!(only_op(&raised(&build(-2.0)).0), Op::Attention { scale: Real(0.3), causal: false });
}
