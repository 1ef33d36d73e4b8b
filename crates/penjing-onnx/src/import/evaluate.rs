//! Evaluation of nodes whose operands are known small values, symbolic dims included.
//!
//! A node that is not evaluated here is imported as usual; this only has to cover the arithmetic that exporters put between
//! `Shape` and the operands that must be known.

use super::{
    known::{Known, MAX_KNOWN, Scalar},
    node::{Fault, NodeCx, Res, invalid, normalize_axis},
    shape,
};
use penjing_ir::{Atom, Dim, broadcast};
use penjing_tensor::{DType, Tensor};

/// Largest float tensor that is folded: scale factors and the like, never weights.
const MAX_FLOATS: usize = 64;

/// The node's only output when it is known; `None` when the node has to be imported as an op.
pub(super) fn evaluate(cx: &NodeCx<'_, '_>) -> Res<Option<Known>> {
    let domain = super::functions::plain(&cx.node.proto.domain);
    if !domain.is_empty() || cx.node.proto.output.len() != 1 {
        return Ok(None);
    }
    let op = cx.node.proto.op_type.as_str();
    match op {
        "Shape" => return shape::shape(cx).map(Some),
        "Size" => return shape::size(cx).map(Some),
        _ => {}
    }
    if !EVALUATED.contains(&op) {
        return Ok(None);
    }
    let Some(x) = (0..cx.arity()).map(|i| cx.known(i)).collect::<Option<Vec<Known>>>() else { return Ok(None) };
    let Some(first) = x.first() else { return Ok(None) };
    if x.iter().any(|k| k.dtype.is_float() && k.elems.len() > MAX_FLOATS) {
        return Ok(None);
    }
    let done = match op {
        "Identity" => Some(first.clone()),
        "Cast" => cx.dtype("to")?.and_then(|to| cast(first, to)),
        "Neg" => map(first, |s| match s {
            Scalar::Int(d) => Scalar::Int(Dim::int(0) - d.clone()),
            Scalar::Real(v) => Scalar::Real(-v),
        }),
        "Floor" => map_real(first, f64::floor),
        "Ceil" => map_real(first, f64::ceil),
        "Sqrt" => map_real(first, f64::sqrt),
        "Not" => first.elems.iter().map(Scalar::as_int).collect::<Option<Vec<_>>>().map(|v| Known {
            elems: v.into_iter().map(|b| Scalar::Int(Dim::int(i64::from(b == 0)))).collect(),
            ..first.clone()
        }),
        "Mod" if cx.flag("fmod", 0)? => None,
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Max" | "Min" if x.len() == 2 => {
            pairwise(&x[0], &x[1], x[0].dtype, |a, b| arithmetic(op, x[0].dtype, a, b))
        }
        "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" | "And" | "Or" if x.len() == 2 => {
            pairwise(&x[0], &x[1], DType::Bool, |a, b| compare(op, a, b).map(|v| Scalar::Int(Dim::int(v.into()))))
        }
        "Where" if x.len() == 3 => select(&x[0], &x[1], &x[2]),
        "Concat" => concat(&x, cx.int("axis", 0)?)?,
        "Gather" if x.len() == 2 => gather(first, &x[1], cx.int("axis", 0)?)?,
        "Squeeze" | "Unsqueeze" | "Reshape" => {
            let rank_in: Vec<Dim> = first.shape.iter().map(|&d| Dim::Const(d)).collect();
            let to = match op {
                "Squeeze" => shape::squeezed(cx, &rank_in)?,
                "Unsqueeze" => shape::unsqueezed(cx, &rank_in)?,
                _ => shape::reshaped(cx, &rank_in)?,
            };
            let to: Option<Vec<usize>> = to.iter().map(Dim::as_const).collect();
            to.filter(|s| penjing_tensor::element_count(s) == Some(first.elems.len()))
                .map(|shape| Known { shape, ..first.clone() })
        }
        "Slice" if cx.arity() > 1 => slice(cx, first)?,
        "Transpose" => Some(transpose(cx, first)?),
        "Expand" if x.len() == 2 => expand(first, &x[1]),
        "Range" if x.len() == 3 => range(&x),
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" => reduce_all(cx, op, first)?,
        _ => None,
    };
    Ok(done.filter(|k| k.elems.len() <= MAX_KNOWN))
}

const EVALUATED: [&str; 35] = [
    "Identity",
    "Cast",
    "Neg",
    "Floor",
    "Ceil",
    "Sqrt",
    "Not",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Mod",
    "Max",
    "Min",
    "Equal",
    "Less",
    "Greater",
    "LessOrEqual",
    "GreaterOrEqual",
    "And",
    "Or",
    "Where",
    "Concat",
    "Gather",
    "Squeeze",
    "Unsqueeze",
    "Reshape",
    "Slice",
    "Transpose",
    "Expand",
    "Range",
    "ReduceProd",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
];

fn map(x: &Known, f: impl Fn(&Scalar) -> Scalar) -> Option<Known> {
    Some(Known { elems: x.elems.iter().map(f).collect(), ..x.clone() })
}

fn map_real(x: &Known, f: impl Fn(f64) -> f64) -> Option<Known> {
    let elems = x.elems.iter().map(|s| match s {
        Scalar::Real(v) => Some(Scalar::Real(round_to(x.dtype, f(*v)))),
        Scalar::Int(_) => None,
    });
    Some(Known { elems: elems.collect::<Option<_>>()?, ..x.clone() })
}

/// A result as a tensor of the dtype holds it.
fn round_to(dtype: DType, v: f64) -> f64 {
    Tensor::scalar(v).cast(dtype).to_f64s()[0]
}

fn cast(x: &Known, to: DType) -> Option<Known> {
    let wide = |d: DType| matches!(d, DType::I64 | DType::I32);
    if wide(to) && wide(x.dtype) {
        let (low, high) = to.int_range()?;
        let fits = |s: &Scalar| s.as_int().is_none_or(|v| (low..=high).contains(&i128::from(v)));
        // Symbolic extents fit 32 bits wherever a model casts them so.
        if x.elems.iter().all(fits) {
            return Some(Known { dtype: to, ..x.clone() });
        }
    }
    Known::of(&x.to_tensor()?.cast(to))
}

fn arithmetic(op: &str, dtype: DType, a: &Scalar, b: &Scalar) -> Option<Scalar> {
    match (a, b) {
        (Scalar::Real(a), Scalar::Real(b)) => {
            let v = match op {
                "Add" => a + b,
                "Sub" => a - b,
                "Mul" => a * b,
                "Div" => a / b,
                "Max" => a.max(*b),
                "Min" => a.min(*b),
                _ => return None,
            };
            Some(Scalar::Real(round_to(dtype, v)))
        }
        (Scalar::Int(a), Scalar::Int(b)) => int_arithmetic(op, dtype, a, b).map(Scalar::Int),
        _ => None,
    }
}

fn int_arithmetic(op: &str, dtype: DType, a: &Dim, b: &Dim) -> Option<Dim> {
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
        let v = match op {
            "Add" => a.checked_add(b)?,
            "Sub" => a.checked_sub(b)?,
            "Mul" => a.checked_mul(b)?,
            "Div" => a.checked_div(b)?,
            "Mod" => a.checked_rem_euclid(b).map(|r| if r != 0 && b < 0 { r + b } else { r })?,
            "Max" => a.max(b),
            "Min" => a.min(b),
            _ => return None,
        };
        let (low, high) = dtype.int_range()?;
        return (low..=high).contains(&i128::from(v)).then(|| Dim::int(v));
    }
    match op {
        "Add" => Some(a.clone() + b.clone()),
        "Sub" => Some(a.clone() - b.clone()),
        "Mul" => Some(a.clone() * b.clone()),
        // Truncation and rounding down agree on extents, which are not negative.
        "Div" if not_negative(a) && not_negative(b) && !b.is(0) => Some(a.floor_div(b)),
        "Mod" if not_negative(a) && not_negative(b) && !b.is(0) => Some(a.clone() - a.floor_div(b) * b.clone()),
        "Max" => Some(a.at_least(b)),
        "Min" => Some(a.at_most(b)),
        _ => None,
    }
}

fn compare(op: &str, a: &Scalar, b: &Scalar) -> Option<bool> {
    // Integers as integers: beyond 2⁵³ floats cannot tell them apart.
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
        return Some(compare_numbers(op, a, b));
    }
    if let (Some(a), Some(b)) = (a.as_f64(), b.as_f64()) {
        return Some(compare_numbers(op, a, b));
    }
    let (Scalar::Int(a), Scalar::Int(b)) = (a, b) else { return None };
    let negative = |d: &Dim| d.as_int().is_some_and(|v| v < 0);
    match op {
        "Equal" if a == b => Some(true),
        "Equal" if (negative(a) && not_negative(b)) || (negative(b) && not_negative(a)) => Some(false),
        "Less" | "LessOrEqual" if negative(a) && not_negative(b) => Some(true),
        "Less" | "LessOrEqual" if negative(b) && not_negative(a) => Some(false),
        "Greater" | "GreaterOrEqual" if negative(b) && not_negative(a) => Some(true),
        "Greater" | "GreaterOrEqual" if negative(a) && not_negative(b) => Some(false),
        "LessOrEqual" | "GreaterOrEqual" if a == b => Some(true),
        "Less" | "Greater" if a == b => Some(false),
        _ => None,
    }
}

fn compare_numbers<T: PartialOrd + Default>(op: &str, a: T, b: T) -> bool {
    let zero = T::default();
    match op {
        "Equal" => a == b,
        "Less" => a < b,
        "Greater" => a > b,
        "LessOrEqual" => a <= b,
        "GreaterOrEqual" => a >= b,
        "And" => a != zero && b != zero,
        _ => a != zero || b != zero,
    }
}

/// Whether a dim cannot be negative whatever its symbols, which are extents, stand for: a sum of products of what is not.
fn not_negative(d: &Dim) -> bool {
    d.terms().iter().all(|(atoms, k)| {
        *k >= 0
            && atoms.iter().all(|atom| match atom {
                Atom::Sym(_) => true,
                Atom::FloorDiv(a, b) | Atom::Min(a, b) => not_negative(a) && not_negative(b),
                Atom::Max(a, b) => not_negative(a) || not_negative(b),
            })
    })
}

fn pairwise(a: &Known, b: &Known, dtype: DType, f: impl Fn(&Scalar, &Scalar) -> Option<Scalar>) -> Option<Known> {
    let shape = broadcast_known(&[&a.shape, &b.shape])?;
    let (left, right) = (spread(a, &shape), spread(b, &shape));
    let elems = left.into_iter().zip(right).map(|(a, b)| f(a, b)).collect::<Option<Vec<_>>>()?;
    Some(Known { dtype, shape, elems })
}

fn select(condition: &Known, a: &Known, b: &Known) -> Option<Known> {
    let shape = broadcast_known(&[&condition.shape, &a.shape, &b.shape])?;
    let picks = spread(condition, &shape);
    let (left, right) = (spread(a, &shape), spread(b, &shape));
    let elems = picks.into_iter().zip(left.into_iter().zip(right)).map(|(c, (a, b))| {
        let c = c.as_int()?;
        Some(if c != 0 { a.clone() } else { b.clone() })
    });
    Some(Known { dtype: a.dtype, elems: elems.collect::<Option<_>>()?, shape })
}

/// The broadcast of shapes when it is small enough to be tracked.
fn broadcast_known(shapes: &[&[usize]]) -> Option<Vec<usize>> {
    let mut out: Vec<Dim> = Vec::new();
    for shape in shapes {
        let dims: Vec<Dim> = shape.iter().map(|&d| Dim::Const(d)).collect();
        out = broadcast(&out, &dims).ok()?;
    }
    let out: Vec<usize> = out.iter().map(Dim::as_const).collect::<Option<_>>()?;
    penjing_tensor::element_count(&out).filter(|&n| n <= MAX_KNOWN).map(|_| out)
}

/// The elements of `x` repeated to `shape`, which it broadcasts to.
fn spread<'a>(x: &'a Known, shape: &[usize]) -> Vec<&'a Scalar> {
    let count = shape.iter().product();
    let lead = shape.len() - x.shape.len();
    let strides = penjing_tensor::strides(&x.shape);
    (0..count)
        .map(|flat: usize| {
            let mut rest = flat;
            let mut at = 0;
            for axis in (0..shape.len()).rev() {
                let i = rest % shape[axis];
                rest /= shape[axis];
                if axis >= lead && x.shape[axis - lead] != 1 {
                    at += i * strides[axis - lead];
                }
            }
            &x.elems[at]
        })
        .collect()
}

fn expand(x: &Known, target: &Known) -> Option<Known> {
    let target: Vec<usize> = target.elems.iter().map(|s| usize::try_from(s.as_int()?).ok()).collect::<Option<_>>()?;
    let shape = broadcast_known(&[&x.shape, &target])?;
    Some(Known { dtype: x.dtype, elems: spread(x, &shape).into_iter().cloned().collect(), shape })
}

fn concat(x: &[Known], axis: i64) -> Res<Option<Known>> {
    // Only vectors: shapes are nothing else.
    if x.iter().any(|k| k.shape.len() != 1 || k.dtype != x[0].dtype) {
        return Ok(None);
    }
    normalize_axis(axis, 1)?;
    let elems: Vec<Scalar> = x.iter().flat_map(|k| k.elems.iter().cloned()).collect();
    Ok(Some(Known { dtype: x[0].dtype, shape: vec![elems.len()], elems }))
}

fn gather(data: &Known, indices: &Known, axis: i64) -> Res<Option<Known>> {
    if data.shape.len() != 1 {
        return Ok(None);
    }
    normalize_axis(axis, 1)?;
    let n = data.elems.len() as i64;
    let picked: Option<Vec<Scalar>> = indices
        .elems
        .iter()
        .map(|s| {
            let i = s.as_int()?;
            let i = if i < 0 { i + n } else { i };
            data.elems.get(usize::try_from(i).ok()?).cloned()
        })
        .collect();
    Ok(picked.map(|elems| Known { dtype: data.dtype, shape: indices.shape.clone(), elems }))
}

fn slice(cx: &NodeCx<'_, '_>, x: &Known) -> Res<Option<Known>> {
    let dims: Vec<Dim> = x.shape.iter().map(|&d| Dim::Const(d)).collect();
    let ranges = shape::slice_ranges(cx, &dims)?;
    let numbers: Option<Vec<(i64, usize, i64)>> =
        ranges.iter().map(|r| Some((r.start.as_int()?, r.len.as_const()?, r.step))).collect();
    let Some(numbers) = numbers else { return Ok(None) };
    let lens: Vec<usize> = numbers.iter().map(|n| n.1).collect();
    Ok(pick(x, lens, |axis, i| numbers[axis].0 + i as i64 * numbers[axis].2, |axis| axis))
}

fn transpose(cx: &NodeCx<'_, '_>, x: &Known) -> Res<Known> {
    let rank = x.shape.len();
    let perm = match cx.ints("perm")? {
        Some(perm) => perm.iter().map(|&p| normalize_axis(p, rank)).collect::<Res<Vec<_>>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..rank) {
        return invalid(format!("{perm:?} is not a permutation of {rank} axes"));
    }
    let lens = perm.iter().map(|&p| x.shape[p]).collect();
    pick(x, lens, |_, i| i as i64, |axis| perm[axis]).ok_or_else(|| Fault::Invalid("a transposition".into()))
}

/// The elements of `x` under a new shape: along output axis a, element i is element `at(a, i)` of input axis `from(a)`.
fn pick(x: &Known, lens: Vec<usize>, at: impl Fn(usize, usize) -> i64, from: impl Fn(usize) -> usize) -> Option<Known> {
    let strides = penjing_tensor::strides(&x.shape);
    let count = penjing_tensor::element_count(&lens).filter(|&n| n <= MAX_KNOWN)?;
    let elems = (0..count).map(|flat| {
        let (mut rest, mut index) = (flat, 0);
        for axis in (0..lens.len()).rev() {
            let i = usize::try_from(at(axis, rest % lens[axis])).ok().filter(|&i| i < x.shape[from(axis)])?;
            index += i * strides[from(axis)];
            rest /= lens[axis];
        }
        x.elems.get(index).cloned()
    });
    Some(Known { dtype: x.dtype, elems: elems.collect::<Option<_>>()?, shape: lens })
}

fn range(x: &[Known]) -> Option<Known> {
    let [start, limit, delta] = [0, 1, 2].map(|i: usize| x[i].elems.first().and_then(Scalar::as_int));
    let (start, limit, delta) = (i128::from(start?), i128::from(limit?), i128::from(delta?));
    if delta == 0 {
        return None;
    }
    let span = (limit - start) * delta.signum();
    let count = if span <= 0 { 0 } else { (span + delta.abs() - 1) / delta.abs() };
    let count = usize::try_from(count).ok().filter(|&n| n <= MAX_KNOWN)?;
    let elems = (0..count as i128).map(|i| i64::try_from(start + i * delta).ok().map(|v| Scalar::Int(Dim::int(v))));
    Some(Known { dtype: x[0].dtype, shape: vec![count], elems: elems.collect::<Option<_>>()? })
}

/// A reduction of a vector to one element.
fn reduce_all(cx: &NodeCx<'_, '_>, op: &str, x: &Known) -> Res<Option<Known>> {
    if x.shape.len() != 1 || x.dtype.is_float() || cx.flag("noop_with_empty_axes", 0)? {
        return Ok(None);
    }
    let keep = cx.flag("keepdims", 1)?;
    let Some(dims) = x.to_dims() else { return Ok(None) };
    let fold = |name: &str| {
        let mut rest = dims.iter().cloned();
        let first = rest.next()?;
        rest.try_fold(first, |a, b| int_arithmetic(name, x.dtype, &a, &b))
    };
    let total = match op {
        "ReduceProd" => int_fold(&dims, "Mul", 1, x.dtype),
        "ReduceSum" => int_fold(&dims, "Add", 0, x.dtype),
        "ReduceMax" => fold("Max"),
        _ => fold("Min"),
    };
    Ok(total.map(|v| Known { dtype: x.dtype, shape: if keep { vec![1] } else { vec![] }, elems: vec![Scalar::Int(v)] }))
}

fn int_fold(dims: &[Dim], op: &str, start: i64, dtype: DType) -> Option<Dim> {
    dims.iter().try_fold(Dim::int(start), |a, b| int_arithmetic(op, dtype, &a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(v: i64) -> Scalar {
        Scalar::Int(Dim::int(v))
    }

    #[test]
    fn integers_are_compared_as_integers() {
        let (big, next) = (int(1 << 53), int((1 << 53) + 1));
        assert_eq!(compare("Equal", &next, &big), Some(false));
        assert_eq!(compare("Less", &big, &next), Some(true));
        assert_eq!(compare("GreaterOrEqual", &big, &next), Some(false));
        assert_eq!(compare("Equal", &Scalar::Real(0.5), &Scalar::Real(0.5)), Some(true));
        assert_eq!(compare("And", &int(2), &int(0)), Some(false));
    }

    #[test]
    fn casts_wrap_where_the_dtype_is_narrower() {
        let wide = Known { dtype: DType::I64, shape: vec![2], elems: vec![int((1 << 32) + 7), int(-1)] };
        assert_eq!(cast(&wide, DType::I32).map(|k| k.elems), Some(vec![int(7), int(-1)]));
        let extent = Known::dims(vec![Dim::sym("N")]);
        assert_eq!(cast(&extent, DType::I32).map(|k| k.elems), Some(extent.elems));
    }

    #[test]
    fn only_sums_of_extents_are_never_negative() {
        let n = Dim::sym("N");
        let shifted = n.clone() - Dim::Const(1);
        let parabola = n.clone() * n.clone() - Dim::Const(999) * n.clone() + Dim::Const(2000);
        for d in [&shifted, &parabola, &shifted.floor_div(&Dim::Const(2)), &shifted.at_most(&n)] {
            assert!(!not_negative(d), "{d}");
        }
        let pooled = (n.clone() + Dim::Const(1)).floor_div(&Dim::Const(2));
        for d in [&n, &pooled, &(n.clone() * pooled.clone()), &shifted.at_least(&Dim::Const(0)), &Dim::Const(0)] {
            assert!(not_negative(d), "{d}");
        }
        // Truncation and rounding down differ below zero, so such a quotient is not an extent's.
        assert_eq!(int_arithmetic("Div", DType::I64, &shifted, &Dim::Const(2)), None);
        assert_eq!(int_arithmetic("Div", DType::I64, &n, &shifted), None);
    }
}
