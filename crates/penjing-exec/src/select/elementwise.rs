//! Chains as programs of the block-wise register machine.

use super::{
    Call, Kernel, Run, RunError, Site,
    quant::{activation, grid, limits, short},
};
use penjing_ir::{Binary, ChainInstr, Compare, QuantScheme, Unary, chain_operands};
use penjing_kernels::{
    KernelError,
    elementwise::{BinaryOp, Data, Input, Layout, Output, Program, ProgramBuilder, UnaryOp, Value, run_program},
};
use penjing_tensor::DType;

/// Which element of an operand belongs to an element of the result.
enum Fit {
    Full,
    Scalar,
    Channel { inner: usize },
    Strided(Vec<usize>),
}

impl Fit {
    fn layout<'a>(&'a self, shape: &'a [usize]) -> Layout<'a> {
        match self {
            Fit::Full => Layout::Full,
            Fit::Scalar => Layout::Scalar,
            Fit::Channel { inner } => Layout::Channel { inner: *inner },
            Fit::Strided(strides) => Layout::Strided { shape, strides },
        }
    }
}

pub(super) fn chain(site: &Site, code: &[ChainInstr]) -> Option<Kernel> {
    let program = compile(code, site.operands.len())?;
    let shape = site.results[0].shape.clone();
    let fits: Vec<(DType, Fit)> = site.operands.iter().map(|o| (o.dtype, fit(&o.shape, &shape))).collect();
    let full = (0..fits.len()).filter(|&k| matches!(fits[k], (DType::F32, Fit::Full)));
    Some(Kernel {
        name: format!("{}.f32-f32-chain.{}", site.isa.name(), program.instructions()),
        reads: (0..site.operands.len()).collect(),
        in_place: full.map(|k| (0, k)).collect(),
        run: Run::Call(Box::new(move |call| run(call, &program, &shape, &fits))),
    })
}

/// A chain between int8 and float tensors.
pub(super) fn qchain(site: &Site, code: &[ChainInstr], out: Option<&QuantScheme>) -> Option<Kernel> {
    let dtypes: Vec<DType> = site.operands.iter().map(|o| o.dtype).collect();
    let at = chain_operands(&dtypes, out)?;
    let program = compile(code, at.len())?;
    let shape = site.results[0].shape.clone();
    let operands: Vec<(usize, DType, Fit)> =
        at.into_iter().map(|i| (i, dtypes[i], fit(&site.operands[i].shape, &shape))).collect();
    let out = match out {
        None => None,
        Some(scheme) => Some((scheme.dtype, limits(scheme)?)),
    };
    let grid_at = dtypes.len().saturating_sub(2);
    let kind = out.map_or("f32".into(), |(dtype, _)| format!("q{}", short(dtype)));
    Some(Kernel::call(site, &format!("q8-{kind}-chain.{}", program.instructions()), move |call| {
        let views = &mut call.views;
        let mut inputs = Vec::with_capacity(operands.len());
        for (i, dtype, fit) in &operands {
            let data = match dtype {
                DType::F32 => Data::F32(views.read(*i)?),
                DType::Bool => Data::Bool(views.read(*i)?),
                _ => Data::Int8(activation(*dtype, views, *i)?),
            };
            inputs.push(Input { data, layout: fit.layout(&shape) });
        }
        let result = match out {
            None => Output::F32(views.write(0)?),
            Some((dtype, limits)) => {
                let grid = grid(dtype, limits, views, grid_at)?;
                match dtype {
                    DType::I8 => Output::I8(views.write(0)?, grid),
                    _ => Output::U8(views.write(0)?, grid),
                }
            }
        };
        Ok(run_program(call.ctx, &program, shape.iter().product(), &inputs, &mut [result])?)
    }))
}

fn run(call: &mut Call<'_>, program: &Program, shape: &[usize], fits: &[(DType, Fit)]) -> Result<(), RunError> {
    let out = call.views.write::<f32>(0)?;
    let mut inputs = Vec::with_capacity(fits.len());
    for (k, (dtype, fit)) in fits.iter().enumerate() {
        let data = match (dtype, call.views.read::<u8>(k)) {
            (DType::Bool, Ok(data)) => Data::Bool(data),
            (_, Ok(_)) => Data::F32(call.views.read(k)?),
            (_, Err(KernelError::NoView(_))) => Data::InPlace(0),
            (_, Err(e)) => return Err(e.into()),
        };
        inputs.push(Input { data, layout: fit.layout(shape) });
    }
    Ok(run_program(call.ctx, program, out.len(), &inputs, &mut [Output::F32(out)])?)
}

fn fit(own: &[usize], out: &[usize]) -> Fit {
    if own == out {
        return Fit::Full;
    }
    if own.iter().product::<usize>() == 1 {
        return Fit::Scalar;
    }
    let lead = out.len() - own.len();
    let padded: Vec<usize> = std::iter::repeat_n(1, lead).chain(own.iter().copied()).collect();
    let first = padded.iter().position(|&n| n != 1).unwrap_or(0);
    let last = padded.iter().rposition(|&n| n != 1).unwrap_or(0);
    if padded[first..=last] == out[first..=last] {
        return Fit::Channel { inner: out[last + 1..].iter().product() };
    }
    let strides = penjing_tensor::strides(&padded);
    Fit::Strided(padded.iter().zip(strides).map(|(&n, s)| if n == 1 { 0 } else { s }).collect())
}

fn compile(code: &[ChainInstr], operands: usize) -> Option<Program> {
    let mut b = ProgramBuilder::new();
    let mut registers: Vec<Value> = (0..operands).map(|_| b.input()).collect();
    for instr in code {
        let at = |r: u16| registers[usize::from(r)];
        let value = match *instr {
            ChainInstr::Const(v) => b.constant(v.0 as f32),
            ChainInstr::Unary(f, x) => {
                let x = at(x);
                unary(&mut b, f, x)?
            }
            ChainInstr::Binary(f, x, y) => {
                let (x, y) = (at(x), at(y));
                b.binary(binary(f)?, x, y)
            }
            ChainInstr::Compare(f, x, y) => {
                let op = match f {
                    Compare::Equal => BinaryOp::Eq,
                    Compare::Less => BinaryOp::Lt,
                    Compare::LessEqual => BinaryOp::Le,
                };
                let (x, y) = (at(x), at(y));
                b.binary(op, x, y)
            }
            ChainInstr::Select(c, x, y) => {
                let (c, x, y) = (at(c), at(x), at(y));
                b.select(c, x, y)
            }
        };
        registers.push(value);
    }
    b.output(*registers.last()?);
    b.build().ok()
}

fn binary(f: Binary) -> Option<BinaryOp> {
    Some(match f {
        Binary::Add => BinaryOp::Add,
        Binary::Sub => BinaryOp::Sub,
        Binary::Mul => BinaryOp::Mul,
        Binary::Div => BinaryOp::Div,
        Binary::Pow => BinaryOp::Pow,
        Binary::Max => BinaryOp::Max,
        Binary::Min => BinaryOp::Min,
        _ => return None,
    })
}

fn unary(b: &mut ProgramBuilder, f: Unary, x: Value) -> Option<Value> {
    let direct = match f {
        Unary::Neg => UnaryOp::Neg,
        Unary::Abs => UnaryOp::Abs,
        Unary::Exp => UnaryOp::Exp,
        Unary::Log => UnaryOp::Log,
        Unary::Sqrt => UnaryOp::Sqrt,
        Unary::Recip => UnaryOp::Recip,
        Unary::Sin => UnaryOp::Sin,
        Unary::Cos => UnaryOp::Cos,
        Unary::Tan => UnaryOp::Tan,
        Unary::Asin => UnaryOp::Asin,
        Unary::Acos => UnaryOp::Acos,
        Unary::Atan => UnaryOp::Atan,
        Unary::Sinh => UnaryOp::Sinh,
        Unary::Cosh => UnaryOp::Cosh,
        Unary::Tanh => UnaryOp::Tanh,
        Unary::Asinh => UnaryOp::Asinh,
        Unary::Acosh => UnaryOp::Acosh,
        Unary::Atanh => UnaryOp::Atanh,
        Unary::Erf => UnaryOp::Erf,
        Unary::Sigmoid => UnaryOp::Sigmoid,
        Unary::Relu => UnaryOp::Relu,
        Unary::Floor => UnaryOp::Floor,
        Unary::Ceil => UnaryOp::Ceil,
        Unary::Round => UnaryOp::Round,
        Unary::Sign => UnaryOp::Sign,
        Unary::Softplus => UnaryOp::Softplus,
        Unary::Gelu => UnaryOp::Gelu,
        Unary::GeluTanh => UnaryOp::GeluTanh,
        _ => return composite(b, f, x),
    };
    Some(b.unary(direct, x))
}

/// Activations that are a formula of other instructions.
fn composite(b: &mut ProgramBuilder, f: Unary, x: Value) -> Option<Value> {
    Some(match f {
        Unary::Silu => {
            let gate = b.unary(UnaryOp::Sigmoid, x);
            b.binary(BinaryOp::Mul, x, gate)
        }
        Unary::HardSwish => {
            let gate = hard_sigmoid(b, x, 1.0 / 6.0, 0.5);
            b.binary(BinaryOp::Mul, x, gate)
        }
        Unary::HardSigmoid { alpha, beta } => hard_sigmoid(b, x, alpha.0 as f32, beta.0 as f32),
        Unary::LeakyRelu(alpha) => {
            let alpha = b.constant(alpha.0 as f32);
            let below = b.binary(BinaryOp::Mul, x, alpha);
            at_least_zero(b, x, below)
        }
        Unary::Elu(alpha) => {
            let (alpha, one) = (b.constant(alpha.0 as f32), b.constant(1.0));
            let exp = b.unary(UnaryOp::Exp, x);
            let below = b.binary(BinaryOp::Sub, exp, one);
            let below = b.binary(BinaryOp::Mul, below, alpha);
            at_least_zero(b, x, below)
        }
        _ => return None,
    })
}

/// clamp(αx + β, 0, 1).
fn hard_sigmoid(b: &mut ProgramBuilder, x: Value, alpha: f32, beta: f32) -> Value {
    let (alpha, beta, zero, one) = (b.constant(alpha), b.constant(beta), b.constant(0.0), b.constant(1.0));
    let line = b.binary(BinaryOp::Mul, x, alpha);
    let line = b.binary(BinaryOp::Add, line, beta);
    let line = b.binary(BinaryOp::Max, line, zero);
    b.binary(BinaryOp::Min, line, one)
}

/// x where x ≥ 0, `below` elsewhere.
fn at_least_zero(b: &mut ProgramBuilder, x: Value, below: Value) -> Value {
    let zero = b.constant(0.0);
    let positive = b.binary(BinaryOp::Ge, x, zero);
    b.select(positive, x, below)
}
