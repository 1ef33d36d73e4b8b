//! Running a program block by block.

use super::{
    ops,
    program::{Operation, Place, Program},
    table,
};
use crate::{
    Ctx, Isa, KernelError,
    int8::{Byte, Bytes, Grid, Limits, QTensor, round_i8, round_u8},
    isa::{Math, per_isa},
    pool::Disjoint,
    scratch::with_scratch,
};

const NAME: &str = "elementwise";

/// Elements of a register: 2 KiB, so that a dozen registers stay in the first-level cache.
const BLOCK: usize = 512;
/// Elements of a task.
const TASK: usize = 16 * BLOCK;

/// What an input's memory holds.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Numbers.
    F32(&'a [f32]),
    /// Truth values: any byte but 0 reads as 1.
    Bool(&'a [u8]),
    /// Integers; the program sees the real values.
    Int8(QTensor<'a>),
    /// What output `.0`, an f32 output, holds before it is overwritten.
    InPlace(usize),
}

/// Which element of an input's memory belongs to element `i` of the result.
#[derive(Clone, Copy, Debug)]
pub enum Layout<'a> {
    /// `i`.
    Full,
    /// The only one.
    Scalar,
    /// `i / inner % channels`, with as many channels as the memory has elements.
    Channel {
        /// Elements after the channel axis.
        inner: usize,
    },
    /// Row-major index of `i` in `shape`, dotted with `strides` (in elements; 0 broadcasts).
    Strided {
        /// The result's shape.
        shape: &'a [usize],
        /// One stride an axis.
        strides: &'a [usize],
    },
}

/// An operand of a program.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Input<'a> {
    pub data: Data<'a>,
    pub layout: Layout<'a>,
}

impl<'a> Input<'a> {
    /// A tensor of the result's shape.
    pub fn full(x: &'a [f32]) -> Input<'a> {
        Input { data: Data::F32(x), layout: Layout::Full }
    }

    /// A tensor of one element.
    pub fn scalar(x: &'a [f32]) -> Input<'a> {
        Input { data: Data::F32(x), layout: Layout::Scalar }
    }

    /// One value a channel; see [`Layout::Channel`].
    pub fn channel(x: &'a [f32], inner: usize) -> Input<'a> {
        Input { data: Data::F32(x), layout: Layout::Channel { inner } }
    }

    /// The old content of an f32 output.
    pub fn in_place(output: usize) -> Input<'a> {
        Input { data: Data::InPlace(output), layout: Layout::Full }
    }
}

/// A result of a program.
pub enum Output<'a> {
    /// Numbers.
    F32(&'a mut [f32]),
    /// Truth values: 1 where the value is not 0, else 0.
    Bool(&'a mut [u8]),
    /// On a grid of i8.
    I8(&'a mut [i8], Grid),
    /// On a grid of u8.
    U8(&'a mut [u8], Grid),
}

/// Runs `program` for `len` elements. Inputs and outputs are as many as the program has; every output has `len` elements.
pub fn run_program(
    cx: Ctx<'_>,
    program: &Program,
    len: usize,
    inputs: &[Input<'_>],
    outputs: &mut [Output<'_>],
) -> Result<(), KernelError> {
    check(program, len, inputs, outputs)?;
    if !table::run(cx, program, len, inputs, outputs) {
        run_blocks(cx, program, len, inputs, outputs);
    }
    Ok(())
}

/// Runs operands that passed [`check`], each element of the result by the program.
pub(super) fn run_blocks(cx: Ctx<'_>, program: &Program, len: usize, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
    let outs: Vec<Out<'_>> = outputs
        .iter_mut()
        .map(|o| match o {
            Output::F32(o) => Out::F32(Disjoint::new(o)),
            Output::Bool(o) => Out::Bool(Disjoint::new(o)),
            Output::I8(o, grid) => Out::I8(Disjoint::new(o), *grid),
            Output::U8(o, grid) => Out::U8(Disjoint::new(o), *grid),
        })
        .collect();
    let run = Run { program, inputs, outputs: &outs };
    cx.pool.run(len.div_ceil(TASK), &|t| {
        let end = len.min((t + 1) * TASK);
        // SAFETY: `check` made sure that every input covers `len` elements; each task has its own range of the outputs.
        unsafe { run.range(cx.isa, t * TASK, end) };
    });
}

fn check(program: &Program, len: usize, inputs: &[Input<'_>], outputs: &[Output<'_>]) -> Result<(), KernelError> {
    let wrong = |operand, need, have| Err(KernelError::Length { kernel: NAME, operand, need, have });
    if inputs.len() != program.inputs {
        return wrong("inputs", program.inputs, inputs.len());
    }
    if outputs.len() != program.outputs.len() {
        return wrong("outputs", program.outputs.len(), outputs.len());
    }
    for output in outputs {
        let have = match output {
            Output::F32(o) => o.len(),
            Output::Bool(o) => o.len(),
            Output::I8(o, grid) => {
                grid.check(NAME, Limits::I8)?;
                o.len()
            }
            Output::U8(o, grid) => {
                grid.check(NAME, Limits::U8)?;
                o.len()
            }
        };
        if have != len {
            return wrong("output", len, have);
        }
    }
    for input in inputs {
        let have = match input.data {
            Data::F32(x) => x.len(),
            Data::Bool(x) => x.len(),
            Data::Int8(x) => {
                x.check(NAME, x.data.byte_type())?;
                x.data.len()
            }
            Data::InPlace(o) => {
                let full = matches!(input.layout, Layout::Full);
                if !full || !matches!(outputs.get(o), Some(Output::F32(_))) {
                    return Err(KernelError::Geometry { kernel: NAME, why: "an input in place of no f32 output" });
                }
                continue;
            }
        };
        match input.layout {
            Layout::Full if have != len => return wrong("full input", len, have),
            Layout::Scalar if have != 1 => return wrong("scalar input", 1, have),
            Layout::Channel { inner } if len > 0 && (have == 0 || inner == 0) => {
                return wrong("channel input", 1, have.min(inner));
            }
            Layout::Strided { shape, strides } => {
                let last = shape
                    .iter()
                    .zip(strides)
                    .try_fold(0usize, |last, (&d, &s)| last.checked_add(d.saturating_sub(1).checked_mul(s)?));
                if shape.len() != strides.len() || penjing_tensor::element_count(shape) != Some(len) {
                    return wrong("strided input's shape", len, penjing_tensor::element_count(shape).unwrap_or(0));
                }
                match last {
                    _ if len == 0 => {}
                    Some(last) if last < have => {}
                    last => return wrong("strided input", last.map_or(usize::MAX, |l| l.saturating_add(1)), have),
                }
            }
            _ => {}
        }
    }
    Ok(())
}

enum Out<'a> {
    F32(Disjoint<'a, f32>),
    Bool(Disjoint<'a, u8>),
    I8(Disjoint<'a, i8>, Grid),
    U8(Disjoint<'a, u8>, Grid),
}

struct Run<'a> {
    program: &'a Program,
    inputs: &'a [Input<'a>],
    outputs: &'a [Out<'a>],
}

/// Where the operands of one block are.
struct Slots<'a> {
    registers: *mut f32,
    constants: &'a [f32],
    inputs: &'a [*const f32],
    len: usize,
}

impl Slots<'_> {
    /// The block's elements of `place`.
    ///
    /// # Safety
    /// `place` belongs to the program that the slots were made for, and nothing writes it while the slice lives.
    #[inline(always)]
    unsafe fn get(&self, place: Place) -> &[f32] {
        let start = match place {
            // SAFETY: there is a block of memory for each register.
            Place::Register(r) => unsafe { self.registers.cast_const().add(r * BLOCK) },
            Place::Constant(c) => self.constants[c * BLOCK..].as_ptr(),
            Place::Input(i) => self.inputs[i],
        };
        // SAFETY: each of them holds at least `len` elements, `len <= BLOCK`.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }
}

impl Run<'_> {
    /// Computes the elements `start..end`.
    ///
    /// # Safety
    /// The operands passed `check`, and no other thread touches these elements of the outputs.
    unsafe fn range(&self, isa: Isa, start: usize, end: usize) {
        let p = self.program;
        let (n_registers, n_constants, n_inputs) = (p.registers, p.constants.len(), self.inputs.len());
        with_scratch::<f32, _>((n_registers + n_constants + n_inputs) * BLOCK, |memory| {
            let (registers, memory) = memory.split_at_mut(n_registers * BLOCK);
            let (constants, buffers) = memory.split_at_mut(n_constants * BLOCK);
            for (block, &value) in constants.chunks_exact_mut(BLOCK).zip(&p.constants) {
                block.fill(value);
            }
            for (buffer, input) in buffers.chunks_exact_mut(BLOCK).zip(self.inputs) {
                if let Layout::Scalar = input.layout {
                    load(isa, input, start, buffer);
                }
            }
            // One pointer for all buffers, so that loading one of them leaves the pointers into the others valid.
            let base = buffers.as_mut_ptr();
            let mut pointers = vec![std::ptr::null::<f32>(); n_inputs];
            for at in (start..end).step_by(BLOCK) {
                let len = BLOCK.min(end - at);
                for (i, input) in self.inputs.iter().enumerate() {
                    pointers[i] = match (input.data, input.layout) {
                        (Data::F32(x), Layout::Full) => x[at..at + len].as_ptr(),
                        (Data::InPlace(o), _) => match &self.outputs[o] {
                            // SAFETY: inside the output (checked); read before the block is stored.
                            Out::F32(o) => unsafe { o.as_ptr().add(at) }.cast_const(),
                            _ => continue,
                        },
                        (_, layout) => {
                            // SAFETY: there is a block of memory for each input.
                            let buffer = unsafe { base.add(i * BLOCK) };
                            if !matches!(layout, Layout::Scalar) {
                                // SAFETY: the block has `BLOCK` elements, and nothing else reads it meanwhile.
                                load(isa, input, at, unsafe { std::slice::from_raw_parts_mut(buffer, len) });
                            }
                            buffer.cast_const()
                        }
                    };
                }
                let slots = Slots { registers: registers.as_mut_ptr(), constants, inputs: &pointers, len };
                execute_steps(isa, p, &slots);
                for (output, &place) in self.outputs.iter().zip(&p.outputs) {
                    // SAFETY: `place` is a register or a constant of this program, never memory of an output.
                    let value = unsafe { slots.get(place) };
                    match output {
                        // SAFETY: these elements belong to this task; what was read in place is not read any more.
                        Out::F32(o) => unsafe { o.slice(at, len) }.copy_from_slice(value),
                        Out::Bool(o) => {
                            // SAFETY: as above.
                            let out = unsafe { o.slice(at, len) };
                            out.iter_mut().zip(value).for_each(|(o, &v)| *o = u8::from(v != 0.0));
                        }
                        // SAFETY: as above.
                        Out::I8(o, grid) => round_i8(isa, value, *grid, unsafe { o.slice(at, len) }),
                        // SAFETY: as above.
                        Out::U8(o, grid) => round_u8(isa, value, *grid, unsafe { o.slice(at, len) }),
                    }
                }
            }
        });
    }
}

/// Copies the elements of an input that belong to the results from `start` on.
fn load(isa: Isa, input: &Input<'_>, start: usize, out: &mut [f32]) {
    match input.data {
        Data::Int8(QTensor { data, scale, zero }) => match (data, input.layout) {
            (Bytes::I8(q), Layout::Full) => real_i8(isa, &q[start..start + out.len()], scale, zero, out),
            (Bytes::U8(q), Layout::Full) => real_u8(isa, &q[start..start + out.len()], scale, zero, out),
            (Bytes::I8(q), layout) => gather(layout, q.len(), start, out, |i| (i32::from(q[i]) - zero) as f32 * scale),
            (Bytes::U8(q), layout) => gather(layout, q.len(), start, out, |i| (i32::from(q[i]) - zero) as f32 * scale),
        },
        Data::F32(x) => gather(input.layout, x.len(), start, out, |i| x[i]),
        Data::Bool(x) => gather(input.layout, x.len(), start, out, |i| if x[i] == 0 { 0.0 } else { 1.0 }),
        Data::InPlace(_) => {}
    }
}

#[inline(always)]
fn gather(layout: Layout<'_>, have: usize, start: usize, out: &mut [f32], value: impl Fn(usize) -> f32) {
    match layout {
        Layout::Full => out.iter_mut().enumerate().for_each(|(i, v)| *v = value(start + i)),
        Layout::Scalar => out.fill(value(0)),
        Layout::Channel { inner } => {
            let (mut channel, mut left) = (start / inner % have, inner - start % inner);
            let mut i = 0;
            while i < out.len() {
                let run = left.min(out.len() - i);
                out[i..i + run].fill(value(channel));
                i += run;
                left = inner;
                channel = if channel + 1 == have { 0 } else { channel + 1 };
            }
        }
        Layout::Strided { shape, strides } => walk(shape, strides, start, out, value),
    }
}

#[inline(always)]
fn walk(shape: &[usize], strides: &[usize], start: usize, out: &mut [f32], value: impl Fn(usize) -> f32) {
    let Some((&inner, outer)) = shape.split_last() else {
        out.fill(value(0));
        return;
    };
    let step = strides[outer.len()];
    let mut i = 0;
    while i < out.len() {
        let (mut rest, col) = ((start + i) / inner, (start + i) % inner);
        let mut base = 0;
        for axis in (0..outer.len()).rev() {
            base += rest % shape[axis] * strides[axis];
            rest /= shape[axis];
        }
        let run = (inner - col).min(out.len() - i);
        for (j, v) in out[i..i + run].iter_mut().enumerate() {
            *v = value(base + (col + j) * step);
        }
        i += run;
    }
}

per_isa! {
    fn real_i8(q: &[i8], scale: f32, zero: i32, out: &mut [f32]) = real_body
}

per_isa! {
    fn real_u8(q: &[u8], scale: f32, zero: i32, out: &mut [f32]) = real_body
}

#[inline(always)]
fn real_body<M: Math>(q: &[impl Byte], scale: f32, zero: i32, out: &mut [f32]) {
    for (out, q) in out.iter_mut().zip(q) {
        *out = (q.widen() - zero) as f32 * scale;
    }
}

per_isa! {
    fn execute_steps(program: &Program, slots: &Slots<'_>) = execute_body
}

#[inline(always)]
fn execute_body<M: Math>(program: &Program, slots: &Slots<'_>) {
    for step in &program.steps {
        // SAFETY: the register has a block, and no operand of the step is this register (`ProgramBuilder::build`).
        let out = unsafe { std::slice::from_raw_parts_mut(slots.registers.add(step.register * BLOCK), slots.len) };
        // SAFETY: as above; the places are the program's own.
        unsafe {
            match step.operation {
                Operation::Copy(a) => out.copy_from_slice(slots.get(a)),
                Operation::Unary(op, a) => ops::unary::<M>(op, slots.get(a), out),
                Operation::Binary(op, a, b) => ops::binary::<M>(op, slots.get(a), slots.get(b), out),
                Operation::Select(c, a, b) => {
                    let (c, a, b) = (slots.get(c), slots.get(a), slots.get(b));
                    for i in 0..out.len() {
                        out[i] = if c[i] != 0.0 { a[i] } else { b[i] };
                    }
                }
            }
        }
    }
}
