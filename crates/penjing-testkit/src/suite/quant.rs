//! Cases of quantization.

use super::{Case, one};
use crate::{Tolerance, floats, integers, uniform};
use penjing_ir::{Op, QuantScheme};
use penjing_tensor::{DType, Tensor};

pub(super) fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for (name, dtype, narrow, zero) in [
        ("i8", DType::I8, false, 0),
        ("i8 narrow", DType::I8, true, 0),
        ("u8", DType::U8, false, 131),
        ("i16", DType::I16, false, -7),
        ("i32", DType::I32, false, 0),
    ] {
        let x = uniform(&[3, 37], -20.0, 20.0, "x");
        let z = |shape: &[usize]| integers(dtype, shape, zero, zero, "z");
        let grids: [(&str, Option<usize>, Tensor, Tensor); 4] = [
            ("tensor", None, floats(&[], &[0.1]), z(&[])),
            ("axis 0", Some(0), uniform(&[3], 0.05, 0.2, "s"), z(&[3])),
            ("axis 1", Some(1), uniform(&[37], 0.05, 0.2, "s"), z(&[37])),
            ("halves", None, floats(&[], &[0.5]), z(&[])),
        ];
        for (grid, axis, scale, zero) in grids {
            let scheme = QuantScheme { dtype, axis, narrow };
            let halves = floats(&[6], &[0.25, 0.75, -0.25, -0.75, 1.25, 1e9]);
            let x = if grid == "halves" { halves } else { x.clone() };
            let (lo, hi) = if dtype == DType::U8 { (0, 255) } else { (-127, 127) };
            let q = integers(dtype, x.shape(), lo, hi, "q");
            let floats = [x, scale.clone(), zero.clone()];
            out.push(one(
                &format!("quant/Quantize/{name} {grid}"),
                Op::Quantize(scheme.clone()),
                &floats,
                Tolerance::Exact,
            ));
            out.push(one(
                &format!("quant/FakeQuant/{name} {grid}"),
                Op::FakeQuant(scheme.clone()),
                &floats,
                Tolerance::Ulps(1),
            ));
            let ints = [q, scale, zero];
            out.push(one(
                &format!("quant/Dequantize/{name} {grid}"),
                Op::Dequantize(scheme),
                &ints,
                Tolerance::Ulps(1),
            ));
        }
    }
    for (name, x) in [
        ("normal", uniform(&[5, 41], -3.0, 2.0, "x")),
        ("positive", uniform(&[3, 7], 1.0, 2.0, "x")),
        ("negative", uniform(&[2, 9], -9.0, -1.0, "x")),
        ("zeros", floats(&[4], &[0.0; 4])),
        ("nothing", floats(&[0, 3], &[])),
    ] {
        out.push(one(&format!("quant/DynamicQuantize/{name}"), Op::DynamicQuantize, &[x], Tolerance::Exact));
    }
    let scheme = QuantScheme { dtype: DType::I8, axis: None, narrow: false };
    let empty = [floats(&[0, 2], &[]), floats(&[], &[1.0]), integers(DType::I8, &[], 0, 0, "z")];
    out.push(one("quant/Quantize/nothing", Op::Quantize(scheme), &empty, Tolerance::Exact));
    out
}
