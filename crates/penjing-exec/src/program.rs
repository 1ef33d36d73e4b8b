//! A program: the steps of one bound model in order, each with its kernel and the places it reads and writes.

use crate::{
    ExecError, Target,
    contents::Contents,
    fuse::fuse,
    memory::{Lifetime, plan_offsets},
    schedule::{Schedule, is_alias, schedule},
    select::{Kernel, Run, select},
};
use penjing_ir::{Bindings, Fact, Model, NodeId, Source, Stage, ValueId, cost, verify};
use penjing_tensor::{DType, Tensor};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    panic,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Where bytes live while a program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// At an offset of the arena.
    Arena(usize),
    /// In the state with this index.
    State(usize),
    /// In the constant with this index.
    Const(usize),
}

/// Bytes that a step reads or writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Operand {
    pub(crate) place: Place,
    pub(crate) bytes: usize,
}

/// One kernel call.
pub(crate) struct Step {
    pub(crate) node: String,
    pub(crate) op: &'static str,
    pub(crate) macs: u64,
    pub(crate) kernel: Kernel,
    pub(crate) reads: Vec<Operand>,
    /// With the index of the read that it replaces in place.
    pub(crate) writes: Vec<(Operand, Option<usize>)>,
    /// Dtypes of the writes, for checks of finiteness.
    pub(crate) dtypes: Vec<DType>,
}

/// An input or output of the program.
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) fact: Fact,
    pub(crate) operand: Operand,
    /// The step that writes it, for outputs.
    pub(crate) step: Option<usize>,
}

/// A lowered model.
pub struct Program {
    pub(crate) steps: Vec<Step>,
    pub(crate) inputs: Vec<Slot>,
    pub(crate) outputs: Vec<Slot>,
    pub(crate) states: Vec<(String, Arc<Tensor>)>,
    pub(crate) constants: Vec<Arc<Tensor>>,
    pub(crate) arena_bytes: usize,
    pub(crate) arena_lower_bound: usize,
}

/// One step as reports show it.
#[derive(Clone, Debug)]
pub struct StepInfo {
    /// The node's name.
    pub node: String,
    /// The op's name.
    pub op: &'static str,
    /// The kernel that runs it.
    pub kernel: String,
    /// Multiply-accumulates.
    pub macs: u64,
}

impl Program {
    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// The most intermediate bytes alive at one step: no plan has a smaller arena.
    pub fn arena_lower_bound(&self) -> usize {
        self.arena_lower_bound
    }

    /// The steps in execution order.
    pub fn steps(&self) -> impl Iterator<Item = StepInfo> {
        self.steps.iter().map(|s| StepInfo {
            node: s.node.clone(),
            op: s.op,
            kernel: s.kernel.name.clone(),
            macs: s.macs,
        })
    }

    /// Names and facts of the inputs, in order.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &Fact)> {
        self.inputs.iter().map(|s| (s.name.as_str(), &s.fact))
    }

    /// Names and facts of the outputs, in order.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, &Fact)> {
        self.outputs.iter().map(|s| (s.name.as_str(), &s.fact))
    }

    /// The plan as text: kernel, node, and place and bytes of everything each step reads (`<`) and writes (`>`).
    pub fn text(&self) -> String {
        let mut out = format!("arena {} bytes (lower bound {})\n", self.arena_bytes, self.arena_lower_bound);
        let place = |o: &Operand| match o.place {
            Place::Arena(at) => format!("@{at}+{}", o.bytes),
            Place::State(i) => format!("state:{}+{}", self.states[i].0, o.bytes),
            Place::Const(i) => format!("const:{i}+{}", o.bytes),
        };
        for (i, step) in self.steps.iter().enumerate() {
            let reads: Vec<String> = step.reads.iter().map(place).collect();
            let writes: Vec<String> = step
                .writes
                .iter()
                .map(|(o, replaces)| place(o) + if replaces.is_some() { " in place" } else { "" })
                .collect();
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{i:4} {:<44} {:<40} < {} > {}",
                step.kernel.name,
                step.node,
                reads.join(" "),
                writes.join(" ")
            );
        }
        out
    }
}

/// Lowers a model with its symbols bound: fuses, picks a kernel for every node, orders them and lays out memory.
///
/// The model is used up: a constant that its kernels hold in packed form is freed right after it was packed, unless the caller
/// keeps a clone.
pub fn lower(model: Model, bindings: &Bindings, target: &Target) -> Result<Program, ExecError> {
    let bound = model.bind(bindings)?;
    drop(model);
    check_concrete(&bound)?;
    let mut fused = fuse(&bound)?;
    drop(bound);
    verify(&fused, Stage::Machine)?;
    let schedule = schedule(&fused)?;
    let contents = Contents::take(&mut fused);
    let kernels = select_all(&fused, &schedule, &contents, target)?;
    Planner::new(&fused, &contents, schedule).plan(kernels)
}

/// The kernel of each node in the schedule's order, `None` for aliases. Packing weights is most of the work, so that threads
/// share it.
fn select_all(
    model: &Model,
    schedule: &Schedule,
    contents: &Contents,
    target: &Target,
) -> Result<Vec<Option<Kernel>>, ExecError> {
    let order = &schedule.order;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(&id) = order.get(position) else { return done };
            if is_alias(&model.graph.node(id).op) {
                continue;
            }
            let kernel = select(model, id, contents, target);
            if let Ok(kernel) = &kernel {
                contents.selected(model, id, &kernel.reads);
            }
            done.push((position, kernel));
        }
    };
    let shares = thread::scope(|scope| {
        let others: Vec<_> = (1..target.threads.min(order.len())).map(|_| scope.spawn(work)).collect();
        let mut shares = vec![work()];
        shares.extend(others.into_iter().map(|t| t.join().unwrap_or_else(|panic| panic::resume_unwind(panic))));
        shares
    });
    let mut kernels: Vec<Option<Result<Kernel, ExecError>>> = order.iter().map(|_| None).collect();
    for (position, kernel) in shares.into_iter().flatten() {
        kernels[position] = Some(kernel);
    }
    kernels.into_iter().map(Option::transpose).collect()
}

fn check_concrete(model: &Model) -> Result<(), ExecError> {
    for value in model.graph.values() {
        if value.fact.concrete().is_some() {
            continue;
        }
        let node = match value.source {
            Source::Node(id, _) => model.graph.node(id).name.clone(),
            _ => String::new(),
        };
        let mut symbols = std::collections::BTreeSet::new();
        value.fact.shape.iter().for_each(|d| d.symbols(&mut symbols));
        if symbols.iter().any(|s| s.late) {
            return Err(ExecError::Late { node });
        }
        return Err(ExecError::Symbolic { node, value: value.name.clone(), fact: value.fact.clone() });
    }
    Ok(())
}

/// Which storage a value has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Home {
    Block(usize),
    State(usize),
    Const,
}

/// A step whose blocks have no offsets yet.
struct Draft {
    position: usize,
    kernel: Kernel,
    reads: Vec<ValueId>,
    /// Result, its storage, and the read that it replaces in place.
    writes: Vec<(ValueId, Home, Option<usize>)>,
}

struct Planner<'a> {
    model: &'a Model,
    contents: &'a Contents,
    schedule: Schedule,
    /// The value whose bytes a value shares through aliases; itself when none.
    origin: Vec<ValueId>,
    /// The last position at which an origin's bytes are read.
    last_read: Vec<usize>,
    home: Vec<Option<Home>>,
    blocks: Vec<Lifetime>,
    constants: Vec<Arc<Tensor>>,
    const_index: BTreeMap<ValueId, usize>,
}

impl<'a> Planner<'a> {
    fn new(model: &'a Model, contents: &'a Contents, schedule: Schedule) -> Planner<'a> {
        let n = model.graph.values().len();
        let mut planner = Planner {
            model,
            contents,
            schedule,
            origin: model.graph.value_ids().collect(),
            last_read: vec![0; n],
            home: vec![None; n],
            blocks: Vec::new(),
            constants: Vec::new(),
            const_index: BTreeMap::new(),
        };
        planner.find_origins_and_reads();
        planner
    }

    /// Position of the epilogue: after every node, where outputs are read and late carries copied.
    fn end(&self) -> usize {
        self.schedule.order.len() + 1
    }

    fn find_origins_and_reads(&mut self) {
        for (position, id) in self.schedule.order.clone().into_iter().enumerate() {
            let node = self.model.graph.node(id);
            if is_alias(&node.op) {
                self.origin[node.outputs[0].index()] = self.origin[node.inputs[0].index()];
                continue;
            }
            for &v in &node.inputs {
                let o = self.origin[v.index()].index();
                self.last_read[o] = self.last_read[o].max(position + 1);
            }
        }
        let end = self.end();
        for v in self.model.roots() {
            let o = self.origin[v.index()].index();
            self.last_read[o] = end;
        }
    }

    fn plan(mut self, kernels: Vec<Option<Kernel>>) -> Result<Program, ExecError> {
        for v in self.model.graph.value_ids() {
            self.home[v.index()] = match &self.model.graph.value(v).source {
                Source::Const(_) => Some(Home::Const),
                Source::State(s) => Some(Home::State(s.index())),
                Source::Input => Some(self.new_block(v, 0)),
                Source::Node(..) => None,
            };
        }
        let mut prologue = Vec::new();
        let carried: Vec<usize> = self.model.carries.iter().map(|c| c.state.index()).collect();
        for root in self.model.roots() {
            let o = self.origin[root.index()];
            // An old state content that is wanted at the end must be saved before a carry overwrites it.
            if let Some(Home::State(s)) = self.home[o.index()]
                && carried.contains(&s)
                && !prologue.iter().any(|(saved, _)| *saved == o)
            {
                let block = self.new_block(o, 0);
                prologue.push((o, block));
            }
        }

        let mut steps: Vec<Draft> = Vec::new();
        let mut maker: BTreeMap<ValueId, usize> = BTreeMap::new();
        for (position, kernel) in kernels.into_iter().enumerate() {
            let Some(kernel) = kernel else { continue };
            let node = self.model.graph.node(self.schedule.order[position]).clone();
            let reads: Vec<ValueId> = kernel.reads.iter().map(|&k| node.inputs[k]).collect();
            let mut writes = Vec::new();
            for (slot, &out) in node.outputs.iter().enumerate() {
                let (home, replaces) = self.home_of_result(position, slot, out, &kernel, &reads);
                self.home[out.index()] = Some(home);
                maker.insert(out, prologue.len() + steps.len());
                writes.push((out, home, replaces));
            }
            steps.push(Draft { position, kernel, reads, writes });
        }

        let plan = plan_offsets(&self.blocks);
        let mut program = Program {
            steps: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            states: self.model.states.iter().map(|s| (s.name.clone(), Arc::clone(&s.init))).collect(),
            constants: Vec::new(),
            arena_bytes: plan.size,
            arena_lower_bound: plan.lower_bound,
        };
        for &(value, block) in &prologue {
            let (from, to) = (self.operand(value, &plan.offsets), self.at(value, block, &plan.offsets));
            program.steps.push(copy_step(&self.model.graph.value(value).name, from, to));
        }
        for Draft { position, kernel, reads, writes } in steps {
            let id = self.schedule.order[position];
            let reads = reads.iter().map(|&v| self.operand(v, &plan.offsets)).collect();
            let dtypes = writes.iter().map(|(v, ..)| self.model.graph.fact(*v).dtype).collect();
            let writes = writes.iter().map(|(v, home, r)| (self.at(*v, *home, &plan.offsets), *r)).collect();
            program.steps.push(self.step(id, kernel, reads, writes, dtypes));
        }
        for (value, block) in prologue {
            self.home[value.index()] = Some(block);
        }
        for carry in &self.model.carries {
            let state = Operand { place: Place::State(carry.state.index()), bytes: self.bytes(carry.value) };
            let value = self.operand(carry.value, &plan.offsets);
            if value != state {
                program.steps.push(copy_step(&self.model.state(carry.state).name, value, state));
            }
        }
        for &v in &self.model.graph.inputs {
            let value = self.model.graph.value(v);
            let operand = self.operand(v, &plan.offsets);
            program.inputs.push(Slot { name: value.name.clone(), fact: value.fact.clone(), operand, step: None });
        }
        for o in &self.model.graph.outputs {
            let operand = self.operand(o.value, &plan.offsets);
            let step = maker.get(&self.origin[o.value.index()]).copied();
            let fact = self.model.graph.fact(o.value).clone();
            program.outputs.push(Slot { name: o.name.clone(), fact, operand, step });
        }
        program.constants = self.constants;
        Ok(program)
    }

    fn step(
        &self,
        id: NodeId,
        kernel: Kernel,
        reads: Vec<Operand>,
        writes: Vec<(Operand, Option<usize>)>,
        dtypes: Vec<DType>,
    ) -> Step {
        let node = self.model.graph.node(id);
        let facts = |vs: &[ValueId]| vs.iter().map(|&v| self.model.graph.fact(v).clone()).collect::<Vec<_>>();
        let macs = cost(&node.op, &facts(&node.inputs), &facts(&node.outputs)).map_or(0, |c| c.macs);
        Step { node: node.name.clone(), op: node.op.name(), macs, kernel, reads, writes, dtypes }
    }

    /// Where a result goes: into its state, in place of an operand that dies here, or into a block of its own.
    fn home_of_result(
        &mut self,
        position: usize,
        slot: usize,
        out: ValueId,
        kernel: &Kernel,
        reads: &[ValueId],
    ) -> (Home, Option<usize>) {
        let origins: Vec<ValueId> = reads.iter().map(|&v| self.origin[v.index()]).collect();
        let replaceable: Vec<usize> = kernel
            .in_place
            .iter()
            .filter(|(o, _)| *o == slot)
            .filter_map(|(_, k)| kernel.reads.iter().position(|r| r == k))
            .filter(|&r| {
                origins.iter().filter(|o| **o == origins[r]).count() == 1 && self.bytes(reads[r]) == self.bytes(out)
            })
            .collect();
        if let Some(state) = self.schedule.direct.get(&out) {
            let home = Home::State(state.index());
            let own: Vec<usize> = (0..reads.len()).filter(|&r| self.home[origins[r].index()] == Some(home)).collect();
            match own.as_slice() {
                [] => return (home, None),
                [r] if replaceable.contains(r) => return (home, Some(*r)),
                // The kernel cannot overwrite what it reads: a block, and a copy in the epilogue.
                _ => {}
            }
        } else {
            for r in replaceable {
                let o = origins[r];
                if let Some(Home::Block(b)) = self.home[o.index()]
                    && self.last_read[o.index()] == position + 1
                    && self.blocks[b].last == position + 1
                {
                    self.blocks[b].last = self.last_read[out.index()].max(position + 1);
                    return (Home::Block(b), Some(r));
                }
            }
        }
        (self.new_block(out, position + 1), None)
    }

    fn new_block(&mut self, v: ValueId, first: usize) -> Home {
        let last = self.last_read[v.index()].max(first);
        self.blocks.push(Lifetime { bytes: self.bytes(v), first, last });
        Home::Block(self.blocks.len() - 1)
    }

    fn bytes(&self, v: ValueId) -> usize {
        let fact = self.model.graph.fact(v);
        let count = fact.concrete().as_deref().and_then(penjing_tensor::element_count);
        // A product that overflows cannot be allocated either; the session reports it.
        count.and_then(|n| n.checked_mul(fact.dtype.size())).unwrap_or(isize::MAX as usize / 2)
    }

    fn operand(&mut self, v: ValueId, offsets: &[usize]) -> Operand {
        let o = self.origin[v.index()];
        let home = self.home[o.index()].unwrap_or(Home::Const);
        if home == Home::Const
            && !self.const_index.contains_key(&o)
            && let Some(tensor) = self.contents.get(o)
        {
            self.const_index.insert(o, self.constants.len());
            self.constants.push(tensor);
        }
        self.at(o, home, offsets)
    }

    fn at(&self, v: ValueId, home: Home, offsets: &[usize]) -> Operand {
        let place = match home {
            Home::Block(b) => Place::Arena(offsets[b]),
            Home::State(s) => Place::State(s),
            Home::Const => Place::Const(self.const_index.get(&v).copied().unwrap_or(0)),
        };
        Operand { place, bytes: self.bytes(v) }
    }
}

fn copy_step(name: &str, from: Operand, to: Operand) -> Step {
    Step {
        node: name.into(),
        op: "copy",
        macs: 0,
        kernel: Kernel { name: "generic.copy".into(), reads: vec![0], in_place: Vec::new(), run: Run::Copy },
        reads: vec![from],
        writes: vec![(to, None)],
        dtypes: vec![DType::U8],
    }
}
