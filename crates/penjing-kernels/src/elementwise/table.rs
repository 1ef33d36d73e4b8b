//! Programs of one integer: a result for each of its 256 values, computed once and then picked.

use super::{
    program::Program,
    run::{Data, Input, Layout, Output, run_blocks},
};
use crate::{
    Ctx, Isa,
    int8::{ByteType, Bytes, QTensor},
    pool::Disjoint,
};

/// Elements from which the 256 results pay.
const WORTH: usize = 2048;
/// Elements of a task.
const TASK: usize = 1 << 15;

/// Runs checked operands where they are integers of the result's shape, scalars besides, and one integer result; whether they are.
pub(super) fn run(
    cx: Ctx<'_>,
    program: &Program,
    len: usize,
    inputs: &[Input<'_>],
    outputs: &mut [Output<'_>],
) -> bool {
    let full = |input: &&Input<'_>| !matches!(input.layout, Layout::Scalar);
    let mut varying = inputs.iter().filter(full);
    let (Some(Input { data: Data::Int8(x), layout: Layout::Full }), None) = (varying.next(), varying.next()) else {
        return false;
    };
    let grid = match outputs {
        [Output::I8(_, grid) | Output::U8(_, grid)] if len >= WORTH => *grid,
        _ => return false,
    };
    let codes: [u8; 256] = std::array::from_fn(|i| i as u8);
    let data = match x.data.byte_type() {
        ByteType::I8 => Bytes::I8(bytemuck::cast_slice(&codes)),
        ByteType::U8 => Bytes::U8(&codes),
    };
    let each: Vec<Input<'_>> = inputs
        .iter()
        .map(|input| if full(&input) { Input { data: Data::Int8(QTensor { data, ..*x }), ..*input } } else { *input })
        .collect();
    let mut table = [0u8; 256];
    let signed = matches!(outputs, [Output::I8(..)]);
    let result =
        if signed { Output::I8(bytemuck::cast_slice_mut(&mut table), grid) } else { Output::U8(&mut table, grid) };
    run_blocks(cx, program, codes.len(), &each, &mut [result]);
    let y: &mut [u8] = match outputs {
        [Output::I8(y, _)] => bytemuck::cast_slice_mut(y),
        [Output::U8(y, _)] => y,
        _ => return false,
    };
    let (x, y) = (x.data.raw(), Disjoint::new(y));
    cx.pool.run(len.div_ceil(TASK), &|t| {
        let part = t * TASK..len.min((t + 1) * TASK);
        // SAFETY: each task has its own elements.
        pick(cx.isa, &table, &x[part.clone()], unsafe { y.slice(part.start, part.len()) });
    });
    true
}

/// `y[i] = table[x[i]]`.
fn pick(isa: Isa, table: &[u8; 256], x: &[u8], y: &mut [u8]) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if isa.usable() >= Isa::Avx512 && is_x86_feature_detected!("avx512vbmi") {
        let (x, y) = (x.as_chunks().0, y.as_chunks_mut().0);
        // SAFETY: the host has the instructions.
        unsafe { x86::pick(table, x, y) };
        done = x.len().min(y.len()) * x86::BYTES;
    }
    let _ = isa;
    for (y, &x) in y[done..].iter_mut().zip(&x[done..]) {
        *y = table[usize::from(x)];
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Bytes of a register.
    pub(super) const BYTES: usize = 64;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    pub(super) fn pick(table: &[u8; 256], x: &[[u8; BYTES]], y: &mut [[u8; BYTES]]) {
        // SAFETY: a quarter of the table is a register.
        let part = |i: usize| unsafe { _mm512_loadu_si512(table.as_ptr().add(i * BYTES).cast()) };
        let table = [part(0), part(1), part(2), part(3)];
        for (x, y) in x.iter().zip(y) {
            // SAFETY: both have 64 bytes.
            unsafe {
                let x = _mm512_loadu_si512(x.as_ptr().cast());
                let low = _mm512_permutex2var_epi8(table[0], x, table[1]);
                let high = _mm512_permutex2var_epi8(table[2], x, table[3]);
                let picked = _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
                _mm512_storeu_si512(y.as_mut_ptr().cast(), picked);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Pool,
        elementwise::{BinaryOp, ProgramBuilder, run_program},
        int8::{Grid, Limits},
    };

    /// `a · b` of an integer tensor and a scalar, on a grid of u8, element by element.
    fn want(x: &[i8], b: f32) -> Vec<u8> {
        let real = |q: i8| (f32::from(q) - 3.0) * 0.5 * b;
        x.iter().map(|&q| ((real(q) * 4.0).round_ties_even() + 128.0).clamp(0.0, 255.0) as u8).collect()
    }

    #[test]
    fn a_table_gives_what_the_program_gives() {
        let mut program = ProgramBuilder::new();
        let (a, b) = (program.input(), program.input());
        let product = program.binary(BinaryOp::Mul, a, b);
        program.output(product);
        let program = program.build().unwrap();
        let grid = Grid { scale: 0.25, zero: 128, limits: Limits::U8 };
        let pool = Pool::new(2);
        for isa in Isa::ALL {
            let cx = Ctx { isa, pool: &pool };
            for len in [WORTH - 1, WORTH, 3 * WORTH + 37, TASK + 65] {
                let x: Vec<i8> = (0..len).map(|i| (i * 37 % 256) as u8 as i8).collect();
                let integers = Data::Int8(QTensor { data: Bytes::I8(&x), scale: 0.5, zero: 3 });
                let inputs = [Input { data: integers, layout: Layout::Full }, Input::scalar(&[0.75])];
                let mut y = vec![0; len];
                run_program(cx, &program, len, &inputs, &mut [Output::U8(&mut y, grid)]).unwrap();
                assert_eq!(y, want(&x, 0.75), "{} of {}", len, isa.name());
            }
        }
    }

    #[test]
    fn two_tensors_have_no_table() {
        let mut program = ProgramBuilder::new();
        let (a, b) = (program.input(), program.input());
        let sum = program.binary(BinaryOp::Add, a, b);
        program.output(sum);
        let program = program.build().unwrap();
        let pool = Pool::new(1);
        let cx = Ctx { isa: Isa::detect(), pool: &pool };
        let (x, reals) = (vec![0u8; WORTH], vec![0f32; WORTH]);
        let integers = Data::Int8(QTensor { data: Bytes::U8(&x), scale: 1.0, zero: 0 });
        let inputs = [Input { data: integers, layout: Layout::Full }, Input::full(&reals)];
        let (mut y, grid) = (vec![0; WORTH], Grid { scale: 1.0, zero: 0, limits: Limits::U8 });
        assert!(!run(cx, &program, WORTH, &inputs, &mut [Output::U8(&mut y, grid)]));
        assert!(!run(cx, &program, WORTH, &inputs[..1], &mut [Output::F32(&mut vec![0.0; WORTH])]));
    }
}
