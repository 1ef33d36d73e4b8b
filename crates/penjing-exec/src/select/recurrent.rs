//! LSTM over time, forward and backward; GRU; both on integers.

use super::{
    Kernel, Site,
    quant::{activation, byte_type, short},
};
use penjing_ir::{Direction, MachineOp, Op, Reset};
use penjing_kernels::recurrent::{
    QWeights, RecurrentDirection, RecurrentShape, Weights,
    gru::{GruReset, PackedGru, PackedQGru, QGruOperands, gru, qgru},
    lstm::{
        LstmGrads, LstmOutputs, LstmTape, LstmWeights, PackedLstm, PackedQLstm, QLstmOperands, lstm, lstm_grad, qlstm,
    },
};

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    match op {
        Op::Machine(MachineOp::QLstm { direction }) => return integer(site, *direction),
        Op::Machine(MachineOp::QGru { direction, reset }) => return integer_gated(site, *direction, *reset),
        _ => {}
    }
    if !site.all_f32() {
        return None;
    }
    match op {
        Op::Lstm { direction, reserve } => Some(forward(site, shape(site, *direction), *reserve)),
        Op::Gru { direction, reset } => Some(gated(site, shape(site, *direction), *reset)),
        Op::LstmGrad { direction } => Some(backward(site, shape(site, *direction))),
        _ => None,
    }
}

fn shape(site: &Site, direction: Direction) -> RecurrentShape {
    extents(&site.operands[0].shape, &site.operands[2].shape, direction)
}

fn extents(x: &[usize], r: &[usize], direction: Direction) -> RecurrentShape {
    let direction = match direction {
        Direction::Forward => RecurrentDirection::Forward,
        Direction::Reverse => RecurrentDirection::Reverse,
        Direction::Bidirectional => RecurrentDirection::Both,
    };
    RecurrentShape { steps: x[0], batch: x[1], input: x[2], hidden: r[2], direction }
}

fn forward(site: &Site, shape: RecurrentShape, reserve: bool) -> Kernel {
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

fn reset_of(reset: Reset) -> GruReset {
    match reset {
        Reset::State => GruReset::State,
        Reset::Product => GruReset::Product,
    }
}

fn gated(site: &Site, shape: RecurrentShape, reset: Reset) -> Kernel {
    let reset = reset_of(reset);
    let constant = |i: usize| site.operands[i].floats();
    let packed = match (constant(1), constant(2), constant(3)) {
        (Some(w), Some(r), Some(b)) => PackedGru::new(site.isa, &shape, Weights { w, r, b }, reset).ok(),
        _ => None,
    };
    let reads = if packed.is_some() { vec![0, 4] } else { (0..5).collect() };
    let h0 = reads.len() - 1;
    let kernel = Kernel::call(site, "f32-f32-f32w-gru", move |call| {
        let v = &mut call.views;
        let (x, h0, y, h) = (v.read(0)?, v.read(h0)?, v.write(0)?, v.write(1)?);
        if let Some(packed) = &packed {
            return Ok(gru(call.ctx, &shape, x, packed, h0, y, h)?);
        }
        let weights = Weights { w: v.read(1)?, r: v.read(2)?, b: v.read(3)? };
        let packed = PackedGru::new(call.ctx.isa, &shape, weights, reset)?;
        Ok(gru(call.ctx, &shape, x, &packed, h0, y, h)?)
    });
    kernel.reading(reads)
}

fn integer(site: &Site, direction: Direction) -> Option<Kernel> {
    let [x, w, r] = [0, 3, 5].map(|i| &site.operands[i]);
    let shape = extents(&x.shape, &r.shape, direction);
    let (w, r) = (w.content.clone()?, r.content.clone()?);
    let weights = QWeights { w: w.as_slice().ok()?, r: r.as_slice().ok()? };
    let packed = PackedQLstm::new(site.isa, &shape, weights, byte_type(x.dtype)).ok()?;
    let dtype = x.dtype;
    let kernel = Kernel::call(site, &format!("q{}-f32-qc8w-lstm", short(dtype)), move |call| {
        let v = &mut call.views;
        let x = activation(dtype, v, 0)?;
        let operands =
            QLstmOperands { w_scale: v.read(3)?, r_scale: v.read(4)?, b: v.read(5)?, h0: v.read(6)?, c0: v.read(7)? };
        let (y, h, c) = (v.write(0)?, v.write(1)?, v.write(2)?);
        Ok(qlstm(call.ctx, &shape, x, &packed, &operands, LstmOutputs { y, h, c, reserve: None })?)
    });
    Some(kernel.reading(vec![0, 1, 2, 4, 6, 7, 8, 9]))
}

fn integer_gated(site: &Site, direction: Direction, reset: Reset) -> Option<Kernel> {
    let [x, w, r] = [0, 3, 5].map(|i| &site.operands[i]);
    let shape = extents(&x.shape, &r.shape, direction);
    let (w, r) = (w.content.clone()?, r.content.clone()?);
    let weights = QWeights { w: w.as_slice().ok()?, r: r.as_slice().ok()? };
    let packed = PackedQGru::new(site.isa, &shape, weights, reset_of(reset), byte_type(x.dtype)).ok()?;
    let dtype = x.dtype;
    let kernel = Kernel::call(site, &format!("q{}-f32-qc8w-gru", short(dtype)), move |call| {
        let v = &mut call.views;
        let x = activation(dtype, v, 0)?;
        let operands = QGruOperands { w_scale: v.read(3)?, r_scale: v.read(4)?, b: v.read(5)?, h0: v.read(6)? };
        let (y, h) = (v.write(0)?, v.write(1)?);
        Ok(qgru(call.ctx, &shape, x, &packed, &operands, y, h)?)
    });
    Some(kernel.reading(vec![0, 1, 2, 4, 6, 7, 8]))
}

fn backward(site: &Site, shape: RecurrentShape) -> Kernel {
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
