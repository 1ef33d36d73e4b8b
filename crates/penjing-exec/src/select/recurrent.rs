//! LSTM over time, forward and backward.

use super::{Kernel, Site};
use penjing_ir::{Direction, Op};
use penjing_kernels::lstm::{
    LstmDirection, LstmGrads, LstmOutputs, LstmShape, LstmTape, LstmWeights, PackedLstm, Weights, lstm, lstm_grad,
};

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    if !site.all_f32() {
        return None;
    }
    match op {
        Op::Lstm { direction, reserve } => Some(forward(site, shape(site, *direction), *reserve)),
        Op::LstmGrad { direction } => Some(backward(site, shape(site, *direction))),
        _ => None,
    }
}

fn shape(site: &Site, direction: Direction) -> LstmShape {
    let [x, r] = [&site.operands[0].shape, &site.operands[2].shape];
    let direction = match direction {
        Direction::Forward => LstmDirection::Forward,
        Direction::Reverse => LstmDirection::Reverse,
        Direction::Bidirectional => LstmDirection::Both,
    };
    LstmShape { steps: x[0], batch: x[1], input: x[2], hidden: r[2], direction }
}

fn forward(site: &Site, shape: LstmShape, reserve: bool) -> Kernel {
    let constant = |i: usize| site.operands[i].floats();
    let packed = match (constant(1), constant(2), constant(3)) {
        (Some(w), Some(r), Some(b)) => PackedLstm::new(site.isa, &shape, Weights { w, r, b }).ok(),
        _ => None,
    };
    let reads = if packed.is_some() { vec![0, 4, 5] } else { (0..6).collect() };
    // h0 and c0 follow x, or the weights when these are read.
    let h0 = reads.len() - 2;
    let kernel = Kernel::call(site, "f32-f32-f32w-lstm", move |call| {
        let v = &mut call.views;
        let weights = match &packed {
            Some(packed) => LstmWeights::Packed(packed),
            None => LstmWeights::Plain(Weights { w: v.read(1)?, r: v.read(2)?, b: v.read(3)? }),
        };
        let (x, h0, c0) = (v.read(0)?, v.read(h0)?, v.read(h0 + 1)?);
        let (y, h, c) = (v.write(0)?, v.write(1)?, v.write(2)?);
        let reserve = if reserve { Some(v.write(3)?) } else { None };
        Ok(lstm(call.ctx, &shape, x, weights, h0, c0, LstmOutputs { y, h, c, reserve })?)
    });
    kernel.reading(reads)
}

fn backward(site: &Site, shape: LstmShape) -> Kernel {
    Kernel::call(site, "f32-f32-lstm_grad", move |call| {
        let v = &mut call.views;
        let tape = LstmTape {
            x: v.read(0)?,
            w: v.read(1)?,
            r: v.read(2)?,
            h0: v.read(3)?,
            c0: v.read(4)?,
            y: v.read(5)?,
            reserve: v.read(6)?,
            dy: v.read(7)?,
            dh: v.read(8)?,
            dc: v.read(9)?,
        };
        let grads = LstmGrads {
            dx: v.write(0)?,
            dw: v.write(1)?,
            dr: v.write(2)?,
            db: v.write(3)?,
            dh0: v.write(4)?,
            dc0: v.write(5)?,
        };
        Ok(lstm_grad(call.ctx, &shape, &tape, grads)?)
    })
}
