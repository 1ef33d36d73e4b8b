//! Every case of the suite through the executor: each instruction set against the reference interpreter, and the same bits at any
//! number of threads.

#![allow(clippy::unwrap_used)]

use penjing_exec::{ExecError, Session, Target, lower};
use penjing_ir::ValueId;
use penjing_kernels::Isa;
use penjing_reference::bind_inputs;
use penjing_tensor::Tensor;
use penjing_testkit::{Case, assert_close, suite};
use std::collections::BTreeMap;

/// Outputs and carried states by name; `None` where the graph has no static plan (control flow, late extents).
fn run(case: &Case, target: Target) -> Option<BTreeMap<String, Tensor>> {
    let bindings = bind_inputs(&case.model.graph, &case.inputs).unwrap();
    let program = match lower(case.model.clone(), &bindings, &target) {
        Err(ExecError::Late { .. } | ExecError::Unsupported { .. }) => return None,
        program => program.unwrap_or_else(|e| panic!("{}: {e}", case.name)),
    };
    let mut session = Session::new(target).unwrap();
    let id = session.load(program).unwrap();
    let inputs: Vec<(&str, &Tensor)> = case.inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let outputs = session.run(id, &inputs).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let mut all: BTreeMap<String, Tensor> = outputs.into_iter().map(|(n, t)| (format!("output {n}"), t)).collect();
    for carry in &case.model.carries {
        let name = &case.model.state(carry.state).name;
        all.insert(format!("state {name}"), session.state(name).unwrap());
    }
    Some(all)
}

/// The suite, and each case once more with everything but its first input constant, which is what packed weights and layouts
/// want.
fn cases() -> impl Iterator<Item = Case> {
    suite().into_iter().flat_map(|case| {
        let fixed = case.model.symbols().is_empty().then(|| constant(&case));
        [Some(case), fixed].into_iter().flatten()
    })
}

fn constant(case: &Case) -> Case {
    let mut case = case.clone();
    case.name.push_str(", constant");
    let graph = &case.model.graph;
    let mut values: Vec<(ValueId, Tensor)> = Vec::new();
    for &v in graph.inputs.iter().skip(1) {
        values.extend(case.inputs.remove(&graph.value(v).name).map(|t| (v, t)));
    }
    for v in graph.value_ids() {
        let state = case.model.state_of(v).filter(|&s| case.model.carries.iter().all(|c| c.state != s));
        values.extend(state.map(|s| (v, (*case.model.state(s).init).clone())));
    }
    for (v, tensor) in values {
        case.model.graph.set_const(v, tensor);
    }
    case
}

#[test]
fn every_case_equals_the_reference_on_every_isa() {
    let mut planned = 0;
    for case in cases() {
        let expected = case.expected().unwrap();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let Some(got) = run(&case, Target::new(isa, 2)) else { continue };
            planned += 1;
            for (name, want) in &expected.outputs {
                let what = format!("{} on {}: {name}", case.name, isa.name());
                assert_close(&got[&format!("output {name}")], want, case.tolerance, &what);
            }
            for (name, want) in &expected.states {
                if let Some(got) = got.get(&format!("state {name}")) {
                    let what = format!("{} on {}: state {name}", case.name, isa.name());
                    assert_close(got, want, case.tolerance, &what);
                }
            }
        }
    }
    assert!(planned > 200, "only {planned} runs had a plan");
}

#[test]
fn threads_do_not_change_a_bit() {
    for case in cases() {
        let Some(one) = run(&case, Target::host(1)) else { continue };
        for threads in [2, 3, 8] {
            assert_eq!(run(&case, Target::host(threads)), Some(one.clone()), "{} at {threads} threads", case.name);
        }
    }
}
