//! Integer products and the ways between F32 and int8.

use super::{
    Call, Kernel, RunError, Site,
    conv::{activation as function, shape},
    site::{around, channels_first},
};
use crate::costs::int8_row;
use penjing_ir::{Activation, ConvSpec, Layout, MachineOp, Op, QuantScheme, residual_operands};
use penjing_kernels::{
    KernelError,
    arena::Views,
    int8::{
        ByteType, Bytes, BytesMut, Grid, Limits, PackedQConvLast, PackedQGemm, QEpilogue, QOut, QResidual, QTensor,
        Scales, WeightLayout, dequantize, dynamic_quantize, fake_quant, qconv_last, qgemm, qmean, quantize,
    },
};
use penjing_tensor::DType;

/// Views of a fused product, in the order of its operands without the weight.
const X: usize = 0;
const W_SCALE: usize = 3;
const BIAS: usize = 4;
/// Of the residual, if there is one; then of the result's grid.
const REST: usize = 5;
/// The operand that is packed ahead.
const WEIGHT: usize = 3;

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    match op {
        Op::Machine(MachineOp::QConv { spec, act, out, layout: Layout::ChannelsLast }) => {
            conv_last(site, spec, act, out.as_ref())
        }
        Op::Machine(MachineOp::QMatMul { trans_b, act, out }) => matmul(site, *trans_b, act, out.as_ref()),
        Op::Machine(MachineOp::QMean { axes, out, .. }) => mean(site, axes, out.as_ref()),
        Op::Quantize(scheme) | Op::Dequantize(scheme) | Op::FakeQuant(scheme) => convert(site, op, scheme),
        Op::DynamicQuantize => Some(Kernel::call(site, "f32-qu8-dynamic_quantize", |call| {
            let views = &mut call.views;
            let (scale, zero) = dynamic_quantize(call.ctx, views.read(0)?, views.write(0)?)?;
            *views.write::<f32>(1)?.first_mut().ok_or(EMPTY)? = scale;
            *views.write::<u8>(2)?.first_mut().ok_or(EMPTY)? = zero;
            Ok(())
        })),
        _ => None,
    }
}

fn conv_last(site: &Site, spec: &ConvSpec, act: &Activation, out: Option<&QuantScheme>) -> Option<Kernel> {
    let (x, w) = (&site.operands[X], &site.operands[WEIGHT]);
    let shape = shape(spec, &channels_first(&x.shape), &w.shape, &channels_first(&site.results[0].shape))?;
    let (isa, weights, x) = (site.isa, w.content.as_ref()?.as_slice().ok()?, byte_type(x.dtype));
    let methods = PackedQConvLast::candidates(isa, &shape).map(|m| (m, int8_row(isa, m)));
    let method = site.costs.pick(&shape, methods.collect())?;
    let packed = PackedQConvLast::new_with(isa, &shape, weights, x, method);
    let packed = packed.or_else(|_| PackedQConvLast::new(isa, &shape, weights, x)).ok()?;
    let product = Product::new(site, act, out)?;
    let kernel = Kernel::call(site, &product.name(packed.op()), move |call| {
        product.run(call, |call, x, epilogue, y| qconv_last(call.ctx, &shape, x, &packed, epilogue, y))
    });
    Some(kernel.reading(without_weight(site)))
}

fn matmul(site: &Site, trans_b: bool, act: &Activation, out: Option<&QuantScheme>) -> Option<Kernel> {
    let (x, w) = (&site.operands[X].shape, &site.operands[WEIGHT]);
    let (k, m) = (*x.last()?, x[..x.len() - 1].iter().product());
    let n = *site.results[0].shape.last()?;
    let layout = if trans_b { WeightLayout::Transposed } else { WeightLayout::Rows };
    let packed = PackedQGemm::new(
        site.isa,
        k,
        n,
        w.content.as_ref()?.as_slice().ok()?,
        layout,
        byte_type(site.operands[X].dtype),
    )
    .ok()?;
    let product = Product::new(site, act, out)?;
    let kernel = Kernel::call(site, &product.name("gemm"), move |call| {
        product.run(call, |call, x, epilogue, y| qgemm(call.ctx, m, x, &packed, epilogue, y))
    });
    Some(kernel.reading(without_weight(site)))
}

fn without_weight(site: &Site) -> Vec<usize> {
    (0..site.operands.len()).filter(|&i| i != WEIGHT).collect()
}

/// What convolution and matrix product share.
struct Product {
    x: DType,
    act: penjing_kernels::Activation,
    residual: Option<DType>,
    out: Option<(DType, Limits)>,
}

impl Product {
    fn new(site: &Site, act: &Activation, out: Option<&QuantScheme>) -> Option<Product> {
        let residual = match residual_operands(site.operands.len(), out)? {
            0 => None,
            _ => Some(site.operands[WEIGHT + 3].dtype),
        };
        let out = match out {
            Some(scheme) => Some((scheme.dtype, limits(scheme)?)),
            None => None,
        };
        let x = site.operands[X].dtype;
        matches!(x, DType::I8 | DType::U8).then_some(Product { x, act: function(act), residual, out })
    }

    fn name(&self, op: &str) -> String {
        let op = if self.residual.is_some() { format!("{op}_add") } else { op.into() };
        format!("q{}-{}-qc8w-{op}", short(self.x), self.out.map_or("f32".into(), |(d, _)| format!("q{}", short(d))))
    }

    fn run<'c>(
        &self,
        call: &mut Call<'c>,
        kernel: impl Fn(&Call<'c>, QTensor<'_>, &QEpilogue<'_>, QOut<'_>) -> Result<(), KernelError>,
    ) -> Result<(), RunError> {
        let views = &mut call.views;
        let x = activation(self.x, views, X)?;
        let (w_scale, bias) = (views.read(W_SCALE)?, Some(views.read(BIAS)?));
        let (residual, rest) = match self.residual {
            None => (None, REST),
            Some(DType::F32) => (Some(QResidual::F32(views.read(REST)?)), REST + 1),
            Some(dtype) => (Some(QResidual::Int(activation(dtype, views, REST)?)), REST + 3),
        };
        let epilogue = QEpilogue { w_scale, bias, residual, act: self.act };
        let y = result(self.out, views, rest)?;
        Ok(kernel(call, x, &epilogue, y)?)
    }
}

/// Neighbouring axes are one.
fn mean(site: &Site, axes: &[usize], out: Option<&QuantScheme>) -> Option<Kernel> {
    let x = &site.operands[X];
    let first = axes.first().copied().unwrap_or(x.shape.len());
    if axes.iter().enumerate().any(|(i, &a)| a != first + i) {
        return None;
    }
    let end = first + axes.len();
    let shape = [&x.shape[..first], &x.shape[first..end], &x.shape[end..]].map(|part| part.iter().product());
    let dtype = x.dtype;
    let out = match out {
        Some(scheme) => Some((scheme.dtype, limits(scheme)?)),
        None => None,
    };
    let name = format!("q{}-{}-mean", short(dtype), out.map_or("f32".into(), |(d, _)| format!("q{}", short(d))));
    Some(Kernel::call(site, &name, move |call| {
        let x = activation(dtype, &call.views, X)?;
        Ok(qmean(call.ctx, x, shape, result(out, &mut call.views, X + 3)?)?)
    }))
}

/// The result: F32, or on the grid whose scale is view `i`.
fn result<'a>(out: Option<(DType, Limits)>, views: &mut Views<'a>, i: usize) -> Result<QOut<'a>, RunError> {
    let Some((dtype, limits)) = out else { return Ok(QOut::F32(views.write(0)?)) };
    let grid = grid(dtype, limits, views, i)?;
    Ok(match dtype {
        DType::I8 => QOut::I8(views.write(0)?, grid),
        _ => QOut::U8(views.write(0)?, grid),
    })
}

fn convert(site: &Site, op: &Op, scheme: &QuantScheme) -> Option<Kernel> {
    let limits = limits(scheme)?;
    let dtype = scheme.dtype;
    let inner = match scheme.axis {
        Some(axis) => around(&site.operands[0].shape, axis)[2],
        None => site.operands[0].shape.iter().product::<usize>().max(1),
    };
    let zeros = move |raw: &[u8]| raw.iter().map(|&z| one_code(dtype, z)).collect::<Vec<i32>>();
    let code_name = short(dtype);
    Some(match op {
        Op::Quantize(_) => Kernel::call(site, &format!("f32-q{code_name}-quantize"), move |call| {
            let zero = zeros(call.views.read(2)?);
            let scales = Scales { scale: call.views.read(1)?, zero: &zero, inner };
            let x = call.views.read(0)?;
            let y = match dtype {
                DType::I8 => BytesMut::I8(call.views.write(0)?),
                _ => BytesMut::U8(call.views.write(0)?),
            };
            Ok(quantize(call.ctx, x, scales, limits, y)?)
        }),
        Op::Dequantize(_) => Kernel::call(site, &format!("q{code_name}-f32-dequantize"), move |call| {
            let zero = zeros(call.views.read(2)?);
            let scales = Scales { scale: call.views.read(1)?, zero: &zero, inner };
            Ok(dequantize(call.ctx, bytes(dtype, call.views.read(0)?), scales, call.views.write(0)?)?)
        }),
        _ => Kernel::call(site, &format!("f32-f32-fake_q{code_name}"), move |call| {
            let zero = zeros(call.views.read(2)?);
            let scales = Scales { scale: call.views.read(1)?, zero: &zero, inner };
            Ok(fake_quant(call.ctx, call.views.read(0)?, scales, limits, call.views.write(0)?)?)
        }),
    })
}

/// The int8 tensor of view `i`, which views of its scale and zero point follow.
pub(super) fn activation<'a>(dtype: DType, views: &Views<'a>, i: usize) -> Result<QTensor<'a>, RunError> {
    let data = bytes(dtype, views.read(i)?);
    Ok(QTensor { data, scale: first(views.read::<f32>(i + 1)?)?, zero: code(dtype, views.read(i + 2)?)? })
}

/// The grid whose scale is view `i` and whose zero point is the next.
pub(super) fn grid(dtype: DType, limits: Limits, views: &Views<'_>, i: usize) -> Result<Grid, RunError> {
    Ok(Grid { scale: first(views.read::<f32>(i)?)?, zero: code(dtype, views.read(i + 1)?)?, limits })
}

/// The grid's integers when the dtype has a kernel.
pub(super) fn limits(scheme: &QuantScheme) -> Option<Limits> {
    let (lo, hi) = scheme.range();
    matches!(scheme.dtype, DType::I8 | DType::U8).then_some(Limits { lo: lo as i32, hi: hi as i32 })
}

pub(super) fn byte_type(dtype: DType) -> ByteType {
    if dtype == DType::I8 { ByteType::I8 } else { ByteType::U8 }
}

pub(super) fn short(dtype: DType) -> &'static str {
    if dtype == DType::I8 { "s8" } else { "u8" }
}

fn bytes(dtype: DType, raw: &[u8]) -> Bytes<'_> {
    match dtype {
        DType::I8 => Bytes::I8(penjing_kernels::arena::as_i8(raw)),
        _ => Bytes::U8(raw),
    }
}

fn one_code(dtype: DType, raw: u8) -> i32 {
    if dtype == DType::I8 { i32::from(raw as i8) } else { i32::from(raw) }
}

fn code(dtype: DType, raw: &[u8]) -> Result<i32, RunError> {
    Ok(one_code(dtype, first(raw)?))
}

fn first<T: Copy>(v: &[T]) -> Result<T, RunError> {
    v.first().copied().ok_or(EMPTY)
}

const EMPTY: RunError = RunError::Kernel(KernelError::Geometry { kernel: "qscale", why: "a scalar operand is empty" });
