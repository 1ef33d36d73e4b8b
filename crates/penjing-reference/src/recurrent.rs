//! The long short-term memory (Hochreiter & Schmidhuber 1997) with ONNX's gate order i, o, f, c, and its gradient; the gated
//! recurrent unit (Cho et al. 2014) with z, r, h.

use crate::{
    RefError,
    data::{count, store_floats},
    quant::{dequantize, dynamic_quantize},
};
use penjing_ir::{Direction, QuantScheme, Reset};
use penjing_tensor::{DType, Tensor};

/// What the recurrent products read of the hidden state.
#[derive(Clone, Copy)]
pub(crate) enum Hidden {
    /// The state itself.
    Real,
    /// The state of each batch row on the U8 grid of its own range.
    OwnGrid,
}

impl Hidden {
    /// What a product reads of the row `state`.
    fn read(self, state: &[f64]) -> Result<Vec<f64>, RefError> {
        match self {
            Hidden::Real => Ok(state.to_vec()),
            Hidden::OwnGrid => on_own_grid(state),
        }
    }
}

/// The values as `DynamicQuantize` rounds them.
fn on_own_grid(values: &[f64]) -> Result<Vec<f64>, RefError> {
    let x = Tensor::from_vec(&[values.len()], values.iter().map(|&v| v as f32).collect())?;
    let parts = dynamic_quantize(&x)?;
    let scheme = QuantScheme { dtype: DType::U8, axis: None, narrow: false };
    Ok(dequantize([&parts[0], &parts[1], &parts[2]], &scheme)?.to_f64s())
}

/// Extents T, D, B, I and H of one LSTM.
#[derive(Clone, Copy)]
struct Extents {
    t: usize,
    d: usize,
    b: usize,
    i: usize,
    h: usize,
}

impl Extents {
    fn of(x: &Tensor, r: &Tensor) -> Extents {
        Extents { t: x.shape()[0], d: r.shape()[0], b: x.shape()[1], i: x.shape()[2], h: r.shape()[2] }
    }

    /// Row-major offset of the row (t, d, b) in [T, D, B, width].
    fn row(self, t: usize, d: usize, b: usize, width: usize) -> usize {
        ((t * self.d + d) * self.b + b) * width
    }
}

/// The order in which direction `d` of the D axis visits time.
fn times(direction: Direction, d: usize, t: usize) -> Vec<usize> {
    match (direction, d) {
        (Direction::Forward, _) | (Direction::Bidirectional, 0) => (0..t).collect(),
        (Direction::Reverse | Direction::Bidirectional, _) => (0..t).rev().collect(),
    }
}

pub(crate) fn lstm(
    [x, w, r, b, h0, c0]: [&Tensor; 6],
    direction: Direction,
    reserve: bool,
    hidden: Hidden,
) -> Result<Vec<Tensor>, RefError> {
    let n = Extents::of(x, r);
    let (y_shape, state_shape, kept_shape) = ([n.t, n.d, n.b, n.h], [n.d, n.b, n.h], [n.t, n.d, n.b, 5 * n.h]);
    let mut y = vec![0.0; count(&y_shape)?];
    let mut kept = vec![0.0; count(&kept_shape)?];
    let (xs, ws, rs, bs) = (x.to_f64s(), w.to_f64s(), r.to_f64s(), b.to_f64s());
    let (mut hs, mut cs) = (h0.to_f64s(), c0.to_f64s());
    for d in 0..n.d {
        for t in times(direction, d, n.t) {
            for b in 0..n.b {
                let state = (d * n.b + b) * n.h;
                let before = hidden.read(&hs[state..state + n.h])?;
                let x_row = &xs[(t * n.b + b) * n.i..][..n.i];
                let gates: Vec<f64> = (0..4 * n.h)
                    .map(|g| {
                        let w_row = &ws[(d * 4 * n.h + g) * n.i..][..n.i];
                        let r_row = &rs[(d * 4 * n.h + g) * n.h..][..n.h];
                        let bias = bs[d * 8 * n.h + g] + bs[d * 8 * n.h + 4 * n.h + g];
                        dot(w_row, x_row) + dot(r_row, &before) + bias
                    })
                    .collect();
                let out = &mut kept[n.row(t, d, b, 5 * n.h)..][..5 * n.h];
                for j in 0..n.h {
                    let [i, o, f] = [0, 1, 2].map(|g| sigmoid(gates[g * n.h + j]));
                    let candidate = gates[3 * n.h + j].tanh();
                    let c = f * cs[state + j] + i * candidate;
                    let h = o * c.tanh();
                    for (slot, v) in [i, o, f, candidate, c].into_iter().enumerate() {
                        out[slot * n.h + j] = v;
                    }
                    cs[state + j] = c;
                    hs[state + j] = h;
                    y[n.row(t, d, b, n.h) + j] = h;
                }
            }
        }
    }
    let dtype = x.dtype();
    let mut out = vec![
        store_floats(dtype, &y_shape, y)?,
        store_floats(dtype, &state_shape, hs)?,
        store_floats(dtype, &state_shape, cs)?,
    ];
    if reserve {
        out.push(store_floats(dtype, &kept_shape, kept)?);
    }
    Ok(out)
}

/// y and h.
pub(crate) fn gru(
    [x, w, r, b, h0]: [&Tensor; 5],
    direction: Direction,
    reset: Reset,
    hidden: Hidden,
) -> Result<Vec<Tensor>, RefError> {
    let n = Extents::of(x, r);
    let (y_shape, state_shape) = ([n.t, n.d, n.b, n.h], [n.d, n.b, n.h]);
    let mut y = vec![0.0; count(&y_shape)?];
    let (xs, ws, rs, bs) = (x.to_f64s(), w.to_f64s(), r.to_f64s(), b.to_f64s());
    let mut hs = h0.to_f64s();
    for d in 0..n.d {
        for t in times(direction, d, n.t) {
            for b in 0..n.b {
                let state = (d * n.b + b) * n.h;
                let before = hs[state..state + n.h].to_vec();
                let read = hidden.read(&before)?;
                let x_row = &xs[(t * n.b + b) * n.i..][..n.i];
                let of_x = |gate: usize, j: usize| {
                    let row = d * 3 * n.h + gate * n.h + j;
                    dot(&ws[row * n.i..][..n.i], x_row) + bs[d * 6 * n.h + gate * n.h + j]
                };
                let of_h = |gate: usize, j: usize, h: &[f64]| {
                    let row = d * 3 * n.h + gate * n.h + j;
                    dot(&rs[row * n.h..][..n.h], h) + bs[d * 6 * n.h + (3 + gate) * n.h + j]
                };
                let gate = |k: usize, j: usize| sigmoid(of_x(k, j) + of_h(k, j, &read));
                let resets: Vec<f64> = (0..n.h).map(|j| gate(1, j)).collect();
                let shown = hidden.read(&resets.iter().zip(&before).map(|(r, h)| r * h).collect::<Vec<_>>())?;
                for j in 0..n.h {
                    let inner = match reset {
                        Reset::State => of_h(2, j, &shown),
                        Reset::Product => resets[j] * of_h(2, j, &read),
                    };
                    let (z, candidate) = (gate(0, j), (of_x(2, j) + inner).tanh());
                    let h = (1.0 - z) * candidate + z * before[j];
                    hs[state + j] = h;
                    y[n.row(t, d, b, n.h) + j] = h;
                }
            }
        }
    }
    Ok(vec![store_floats(x.dtype(), &y_shape, y)?, store_floats(x.dtype(), &state_shape, hs)?])
}

/// Back-propagation through time. dy, dh and dc are the gradients of all hidden states, the last one and the last cell state.
pub(crate) fn lstm_grad(
    [x, w, r, h0, c0, y, reserve, dy, dh, dc]: [&Tensor; 10],
    direction: Direction,
) -> Result<Vec<Tensor>, RefError> {
    let n = Extents::of(x, r);
    let (xs, ws, rs) = (x.to_f64s(), w.to_f64s(), r.to_f64s());
    let (h0s, c0s, ys, kept, dys) = (h0.to_f64s(), c0.to_f64s(), y.to_f64s(), reserve.to_f64s(), dy.to_f64s());
    let (mut dx, mut dw, mut dr) = (vec![0.0; xs.len()], vec![0.0; ws.len()], vec![0.0; rs.len()]);
    let db_shape = [n.d, 8 * n.h];
    let mut db = vec![0.0; count(&db_shape)?];
    let (mut dhs, mut dcs) = (dh.to_f64s(), dc.to_f64s());
    for d in 0..n.d {
        let order = times(direction, d, n.t);
        for (step, &t) in order.iter().enumerate().rev() {
            for b in 0..n.b {
                let state = (d * n.b + b) * n.h;
                let before = step.checked_sub(1).map(|s| order[s]);
                let (h_before, c_before) = match before {
                    None => (&h0s[state..][..n.h], &c0s[state..][..n.h]),
                    Some(p) => (&ys[n.row(p, d, b, n.h)..][..n.h], &kept[n.row(p, d, b, 5 * n.h) + 4 * n.h..][..n.h]),
                };
                let row = &kept[n.row(t, d, b, 5 * n.h)..][..5 * n.h];
                let mut dgates = vec![0.0; 4 * n.h];
                for j in 0..n.h {
                    let [i, o, f, candidate, c] = [0, 1, 2, 3, 4].map(|slot| row[slot * n.h + j]);
                    let dh = dhs[state + j] + dys[n.row(t, d, b, n.h) + j];
                    let tanh_c = c.tanh();
                    let dc = dcs[state + j] + dh * o * (1.0 - tanh_c * tanh_c);
                    dgates[j] = dc * candidate * i * (1.0 - i);
                    dgates[n.h + j] = dh * tanh_c * o * (1.0 - o);
                    dgates[2 * n.h + j] = dc * c_before[j] * f * (1.0 - f);
                    dgates[3 * n.h + j] = dc * i * (1.0 - candidate * candidate);
                    dcs[state + j] = dc * f;
                    dhs[state + j] = 0.0;
                }
                let x_at = (t * n.b + b) * n.i;
                for (g, &dg) in dgates.iter().enumerate() {
                    let (w_at, r_at) = ((d * 4 * n.h + g) * n.i, (d * 4 * n.h + g) * n.h);
                    for k in 0..n.i {
                        dx[x_at + k] += dg * ws[w_at + k];
                        dw[w_at + k] += dg * xs[x_at + k];
                    }
                    for k in 0..n.h {
                        dhs[state + k] += dg * rs[r_at + k];
                        dr[r_at + k] += dg * h_before[k];
                    }
                    db[d * 8 * n.h + g] += dg;
                    db[d * 8 * n.h + 4 * n.h + g] += dg;
                }
            }
        }
    }
    let dtype = x.dtype();
    Ok(vec![
        store_floats(dtype, x.shape(), dx)?,
        store_floats(dtype, w.shape(), dw)?,
        store_floats(dtype, r.shape(), dr)?,
        store_floats(dtype, &db_shape, db)?,
        store_floats(dtype, h0.shape(), dhs)?,
        store_floats(dtype, c0.shape(), dcs)?,
    ])
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
