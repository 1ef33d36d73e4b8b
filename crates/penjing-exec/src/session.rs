//! Running programs: memory, states, threads, and the loop.

use crate::{
    ExecError, Profile, Program, StepProfile, Target,
    program::{Operand, Place, Slot},
    select::{Call, Run},
};
use penjing_ir::Fact;
use penjing_kernels::{
    Ctx, Pool,
    arena::{BufferId, Buffers, Region, Write},
};
use penjing_tensor::{DType, Tensor};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Sums buckets over ranks; `penjing-parallel` implements it.
pub trait Collective: Send {
    /// Sums the bucket's parts with those of the other ranks, in place. `node` names the step for timelines and errors.
    fn all_reduce(&mut self, node: &str, parts: &mut [&mut [f32]]) -> Result<(), String>;
}

/// Names a program of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgramId(usize);

/// Results of one run by name, in the model's order.
pub type Outputs = Vec<(String, Tensor)>;

/// The memory and threads that programs run on. Programs of one session share states by name, so that a model is evaluated
/// with the weights that another program of it trains.
pub struct Session {
    target: Target,
    pool: Pool,
    buffers: Buffers,
    arena: BufferId,
    states: BTreeMap<String, (BufferId, Fact)>,
    programs: Vec<Loaded>,
    collective: Option<Box<dyn Collective>>,
}

struct Loaded {
    program: Program,
    /// Regions of each step.
    calls: Vec<(Vec<Region>, Vec<Write>)>,
    inputs: Vec<Region>,
    outputs: Vec<Region>,
    /// A step whose result must be finite before anything later runs.
    guard: Option<usize>,
    times: Vec<Duration>,
    runs: usize,
}

impl Session {
    /// An empty session with a pool of the target's threads.
    pub fn new(target: Target) -> Result<Session, ExecError> {
        let mut buffers = Buffers::new();
        let arena = buffers.add(0).map_err(ExecError::Memory)?;
        Ok(Session {
            target,
            pool: Pool::new(target.threads),
            buffers,
            arena,
            states: BTreeMap::new(),
            programs: Vec::new(),
            collective: None,
        })
    }

    /// What programs of this session must be lowered for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Gives the session its rank's all-reduce. Without one, a program's all-reduces change nothing (one rank).
    pub fn set_collective(&mut self, collective: Box<dyn Collective>) {
        self.collective = Some(collective);
    }

    /// Takes in a program. States that the session does not have yet start with the model's content; known ones keep theirs.
    pub fn load(&mut self, program: Program) -> Result<ProgramId, ExecError> {
        self.buffers.grow(self.arena, program.arena_bytes).map_err(ExecError::Memory)?;
        let mut states = Vec::with_capacity(program.states.len());
        for (name, init) in &program.states {
            let want = Fact::of(init);
            if let Some((buffer, have)) = self.states.get(name) {
                if *have != want {
                    return Err(ExecError::StateFact { name: name.clone(), have: have.clone(), want });
                }
                states.push(*buffer);
                continue;
            }
            let buffer = self.buffers.add(init.size_bytes()).map_err(ExecError::Memory)?;
            self.states.insert(name.clone(), (buffer, want));
            self.write_state(buffer, init)?;
            states.push(buffer);
        }
        let constants: Vec<BufferId> =
            program.constants.iter().map(|t| self.buffers.add_constant((**t).clone())).collect();
        let region = |o: &Operand| match o.place {
            Place::Arena(offset) => Region { buffer: self.arena, offset, len: o.bytes },
            Place::State(i) => Region { buffer: states[i], offset: 0, len: o.bytes },
            Place::Const(i) => Region { buffer: constants[i], offset: 0, len: o.bytes },
        };
        let calls = program
            .steps
            .iter()
            .map(|s| {
                let writes = s.writes.iter().map(|(o, in_place)| Write { region: region(o), in_place: *in_place });
                (s.reads.iter().map(region).collect(), writes.collect())
            })
            .collect();
        let slots = |slots: &[Slot]| slots.iter().map(|s| region(&s.operand)).collect();
        let loaded = Loaded {
            calls,
            inputs: slots(&program.inputs),
            outputs: slots(&program.outputs),
            guard: None,
            times: vec![Duration::ZERO; program.steps.len()],
            runs: 0,
            program,
        };
        self.programs.push(loaded);
        Ok(ProgramId(self.programs.len() - 1))
    }

    /// The program with this id.
    pub fn program(&self, id: ProgramId) -> &Program {
        &self.programs[id.0].program
    }

    /// Makes runs of a program stop with [`ExecError::NotFinite`] as soon as the output `name` is NaN or infinite, before any
    /// later step, such as an optimizer's update, runs.
    pub fn guard(&mut self, id: ProgramId, name: &str) {
        let loaded = &mut self.programs[id.0];
        loaded.guard = loaded.program.outputs.iter().find(|o| o.name == name).and_then(|o| o.step);
    }

    /// Runs a program once.
    pub fn run(&mut self, id: ProgramId, inputs: &[(&str, &Tensor)]) -> Result<Outputs, ExecError> {
        self.set_inputs(id, inputs)?;
        self.steps(id, Check::Guard)?;
        let loaded = &self.programs[id.0];
        let mut outputs = Vec::with_capacity(loaded.outputs.len());
        for (slot, region) in loaded.program.outputs.iter().zip(&loaded.outputs) {
            let bytes = self.buffers.bytes(*region).map_err(ExecError::Memory)?;
            let shape = slot.fact.concrete().unwrap_or_default();
            outputs.push((slot.name.clone(), Tensor::from_bytes(slot.fact.dtype, &shape, bytes)?));
        }
        Ok(outputs)
    }

    /// Runs a program with every float result that is computed, not moved, checked: the first one that is not finite is the
    /// error. States are updated as far as the run gets.
    pub fn find_not_finite(&mut self, id: ProgramId, inputs: &[(&str, &Tensor)]) -> Result<(), ExecError> {
        self.set_inputs(id, inputs)?;
        self.steps(id, Check::All)
    }

    /// Times of the steps since the program was loaded or [`Session::reset_profile`] was called.
    pub fn profile(&self, id: ProgramId) -> Profile {
        let loaded = &self.programs[id.0];
        let steps = loaded.program.steps().zip(&loaded.times).map(|(info, &total)| StepProfile {
            node: info.node,
            op: info.op.into(),
            kernel: info.kernel,
            macs: info.macs,
            total,
        });
        Profile { runs: loaded.runs, steps: steps.collect() }
    }

    /// Forgets the times measured so far.
    pub fn reset_profile(&mut self, id: ProgramId) {
        let loaded = &mut self.programs[id.0];
        loaded.times.fill(Duration::ZERO);
        loaded.runs = 0;
    }

    /// Names of the states, sorted.
    pub fn state_names(&self) -> Vec<String> {
        self.states.keys().cloned().collect()
    }

    /// A copy of a state's content.
    pub fn state(&self, name: &str) -> Result<Tensor, ExecError> {
        let (buffer, fact) = self.find_state(name)?;
        let shape = fact.concrete().unwrap_or_default();
        let len = shape.iter().product::<usize>() * fact.dtype.size();
        let bytes = self.buffers.bytes(Region { buffer: *buffer, offset: 0, len }).map_err(ExecError::Memory)?;
        Ok(Tensor::from_bytes(fact.dtype, &shape, bytes)?)
    }

    /// Replaces a state's content.
    pub fn set_state(&mut self, name: &str, content: &Tensor) -> Result<(), ExecError> {
        let (buffer, want) = self.find_state(name)?;
        let have = Fact::of(content);
        if have != *want {
            return Err(ExecError::StateFact { name: name.into(), have, want: want.clone() });
        }
        self.write_state(*buffer, content)
    }

    fn find_state(&self, name: &str) -> Result<&(BufferId, Fact), ExecError> {
        self.states.get(name).ok_or_else(|| ExecError::NoState { name: name.into() })
    }

    fn write_state(&mut self, buffer: BufferId, content: &Tensor) -> Result<(), ExecError> {
        let region = Region { buffer, offset: 0, len: content.size_bytes() };
        self.buffers.bytes_mut(region).map_err(ExecError::Memory)?.copy_from_slice(content.bytes());
        Ok(())
    }

    fn set_inputs(&mut self, id: ProgramId, inputs: &[(&str, &Tensor)]) -> Result<(), ExecError> {
        let loaded = &self.programs[id.0];
        let slots = &loaded.program.inputs;
        if let Some((name, _)) = inputs.iter().find(|(name, _)| !slots.iter().any(|s| s.name == *name)) {
            let known = slots.iter().map(|s| s.name.clone()).collect();
            return Err(ExecError::UnknownInput { name: (*name).into(), known });
        }
        for (slot, &region) in slots.iter().zip(&loaded.inputs) {
            let missing = || ExecError::MissingInput { name: slot.name.clone(), want: slot.fact.clone() };
            let (_, tensor) = inputs.iter().find(|(name, _)| *name == slot.name).ok_or_else(missing)?;
            let have = Fact::of(tensor);
            if have != slot.fact {
                return Err(ExecError::InputFact { name: slot.name.clone(), have, want: slot.fact.clone() });
            }
            self.buffers.bytes_mut(region).map_err(ExecError::Memory)?.copy_from_slice(tensor.bytes());
        }
        Ok(())
    }

    fn steps(&mut self, id: ProgramId, check: Check) -> Result<(), ExecError> {
        let Session { target, pool, buffers, programs, collective, .. } = self;
        let loaded = &mut programs[id.0];
        let ctx = Ctx { isa: target.isa, pool };
        for (i, step) in loaded.program.steps.iter().enumerate() {
            let (reads, writes) = &loaded.calls[i];
            let start = Instant::now();
            let failed =
                |source| ExecError::Kernel { node: step.node.clone(), kernel: step.kernel.name.clone(), source };
            let views = buffers.views(reads, writes).map_err(failed)?;
            let mut call = Call { ctx, views };
            match &step.kernel.run {
                Run::Call(run) => run(&mut call).map_err(|e| e.at(&step.node, &step.kernel.name))?,
                Run::Copy => {
                    let from = call.views.read::<u8>(0).map_err(failed)?;
                    call.views.write::<u8>(0).map_err(failed)?.copy_from_slice(from);
                }
                Run::AllReduce => {
                    let mut parts = Vec::with_capacity(writes.len());
                    for (j, write) in writes.iter().enumerate() {
                        let part = call.views.write::<f32>(j).map_err(failed)?;
                        if write.in_place.is_none() {
                            part.copy_from_slice(call.views.read::<f32>(j).map_err(failed)?);
                        }
                        parts.push(part);
                    }
                    if let Some(collective) = collective {
                        let why = |why| ExecError::Collective { node: step.node.clone(), why };
                        collective.all_reduce(&step.node, &mut parts).map_err(why)?;
                    }
                }
            }
            loaded.times[i] += start.elapsed();
            // A reorder moves what an input holds; where that matters comes after it.
            let computes = step.op != "Permute";
            if (check == Check::All && computes) || loaded.guard == Some(i) {
                check_finite(buffers, writes, &step.dtypes).then_some(()).ok_or_else(|| ExecError::NotFinite {
                    node: step.node.clone(),
                    kernel: step.kernel.name.clone(),
                })?;
            }
        }
        loaded.runs += 1;
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Guard,
    All,
}

fn check_finite(buffers: &Buffers, writes: &[Write], dtypes: &[DType]) -> bool {
    writes.iter().zip(dtypes).filter(|(_, d)| **d == DType::F32).all(|(w, _)| {
        let bytes = buffers.bytes(w.region).unwrap_or_default();
        bytes.chunks_exact(4).all(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]).is_finite())
    })
}
