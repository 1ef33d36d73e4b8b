//! Elementwise programs and their registers.

use super::ops::{BinaryOp, UnaryOp};
use crate::KernelError;

/// A value of a program under construction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Value(usize);

/// Builds a [`Program`]: every call names one value, used as often as wanted.
#[derive(Default)]
pub struct ProgramBuilder {
    nodes: Vec<Node>,
    inputs: usize,
    outputs: Vec<Value>,
}

#[derive(Clone, Copy)]
enum Node {
    Input(usize),
    Constant(f32),
    Unary(UnaryOp, Value),
    Binary(BinaryOp, Value, Value),
    Select(Value, Value, Value),
}

impl ProgramBuilder {
    /// A program without instructions.
    pub fn new() -> ProgramBuilder {
        ProgramBuilder::default()
    }

    /// The next input; inputs are numbered in the order of these calls.
    pub fn input(&mut self) -> Value {
        self.inputs += 1;
        self.push(Node::Input(self.inputs - 1))
    }

    /// The same number for every element.
    pub fn constant(&mut self, value: f32) -> Value {
        self.push(Node::Constant(value))
    }

    /// op(a).
    pub fn unary(&mut self, op: UnaryOp, a: Value) -> Value {
        self.push(Node::Unary(op, a))
    }

    /// op(a, b).
    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Value {
        self.push(Node::Binary(op, a, b))
    }

    /// `then` where `condition` is not 0, `otherwise` elsewhere.
    pub fn select(&mut self, condition: Value, then: Value, otherwise: Value) -> Value {
        self.push(Node::Select(condition, then, otherwise))
    }

    /// Makes `value` the next output; outputs are numbered in the order of these calls.
    pub fn output(&mut self, value: Value) {
        self.outputs.push(value);
    }

    fn push(&mut self, node: Node) -> Value {
        self.nodes.push(node);
        Value(self.nodes.len() - 1)
    }

    /// Assigns registers by liveness. An error when there is no output or a value of another builder was used.
    pub fn build(self) -> Result<Program, KernelError> {
        let fail = |why| Err(KernelError::Geometry { kernel: "elementwise", why });
        if self.outputs.is_empty() {
            return fail("a program needs an output");
        }
        let mut last_use = vec![0; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for v in node.operands() {
                if v.0 >= i {
                    return fail("a value of another builder");
                }
                last_use[v.0] = i;
            }
        }
        for v in &self.outputs {
            match last_use.get_mut(v.0) {
                Some(last) => *last = usize::MAX,
                None => return fail("a value of another builder"),
            }
        }
        let mut program = Program {
            constants: Vec::new(),
            steps: Vec::new(),
            registers: 0,
            inputs: self.inputs,
            outputs: Vec::new(),
        };
        let mut place = Vec::with_capacity(self.nodes.len());
        let mut free: Vec<usize> = Vec::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let operation = match *node {
                Node::Input(index) => {
                    place.push(Place::Input(index));
                    continue;
                }
                Node::Constant(value) => {
                    program.constants.push(value);
                    place.push(Place::Constant(program.constants.len() - 1));
                    continue;
                }
                Node::Unary(op, a) => Operation::Unary(op, place[a.0]),
                Node::Binary(op, a, b) => Operation::Binary(op, place[a.0], place[b.0]),
                Node::Select(c, a, b) => Operation::Select(place[c.0], place[a.0], place[b.0]),
            };
            // The result's register is taken before the operands' are freed: an instruction never overwrites what it reads.
            let register = free.pop().unwrap_or_else(|| {
                program.registers += 1;
                program.registers - 1
            });
            place.push(Place::Register(register));
            program.steps.push(Step { operation, register });
            let mut freed = Vec::new();
            for v in node.operands() {
                if let Place::Register(r) = place[v.0]
                    && last_use[v.0] == i
                    && !freed.contains(&r)
                {
                    freed.push(r);
                }
            }
            if last_use[i] == 0 {
                freed.push(register);
            }
            free.extend(freed);
        }
        for v in &self.outputs {
            // An input may lie in the memory of an output: it is read before any output is written.
            let place = match place[v.0] {
                input @ Place::Input(_) => {
                    program.registers += 1;
                    let register = program.registers - 1;
                    program.steps.push(Step { operation: Operation::Copy(input), register });
                    Place::Register(register)
                }
                other => other,
            };
            program.outputs.push(place);
        }
        Ok(program)
    }
}

impl Node {
    fn operands(&self) -> impl Iterator<Item = Value> {
        let list = match *self {
            Node::Input(_) | Node::Constant(_) => [None; 3],
            Node::Unary(_, a) => [Some(a), None, None],
            Node::Binary(_, a, b) => [Some(a), Some(b), None],
            Node::Select(c, a, b) => [Some(c), Some(a), Some(b)],
        };
        list.into_iter().flatten()
    }
}

/// A chain of elementwise instructions.
#[derive(Clone, Debug)]
pub struct Program {
    pub(super) constants: Vec<f32>,
    pub(super) steps: Vec<Step>,
    pub(super) registers: usize,
    pub(super) inputs: usize,
    pub(super) outputs: Vec<Place>,
}

impl Program {
    /// The number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs.len()
    }

    /// The number of instructions.
    pub fn instructions(&self) -> usize {
        self.steps.len()
    }
}

/// Where a value stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Register(usize),
    Input(usize),
    Constant(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) operation: Operation,
    /// Where the result goes; never a register that the operation reads.
    pub(super) register: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Copy(Place),
    Unary(UnaryOp, Place),
    Binary(BinaryOp, Place, Place),
    Select(Place, Place, Place),
}
