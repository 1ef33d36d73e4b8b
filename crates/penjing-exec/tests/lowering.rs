//! What lowering keeps of a model that it uses up.
#![allow(clippy::unwrap_used)]

use penjing_exec::{Session, Target, lower};
use penjing_ir::{Binary, Bindings, Fact, Model, Op};
use penjing_tensor::{DType, Tensor, map_file};
use std::sync::Arc;

const SIDE: usize = 16;

/// y = (x · w) · w + b, w and b constants.
fn model() -> Model {
    let ramp = |n: usize| (0..n).map(|i| (i % 7) as f32 - 3.0).collect::<Vec<f32>>();
    let mut m = Model::default();
    let g = &mut m.graph;
    let x = g.add_input("x", Fact::new(DType::F32, [SIDE; 2]));
    let w = g.add_named_const("w", Tensor::from_vec(&[SIDE; 2], ramp(SIDE * SIDE)).unwrap());
    let b = g.add_named_const("b", Tensor::from_vec(&[SIDE], ramp(SIDE)).unwrap());
    let product = Op::MatMul { trans_a: false, trans_b: false };
    let once = g.apply("once", product.clone(), &[x, w]).unwrap();
    let twice = g.apply("twice", product, &[once, w]).unwrap();
    let y = g.apply("sum", Op::Binary(Binary::Add), &[twice, b]).unwrap();
    g.add_output("y", y);
    m
}

#[test]
fn a_constant_that_every_kernel_packs_is_freed_and_one_that_is_read_stays() {
    for threads in [1, 2, 3] {
        let model = model();
        let weak = |name: &str| {
            let v = model.graph.value_ids().find(|&v| model.graph.value(v).name == name).unwrap();
            Arc::downgrade(model.graph.as_const(v).unwrap())
        };
        let (w, b) = (weak("w"), weak("b"));
        let target = Target::host(threads);
        let program = lower(model, &Bindings::default(), &target).unwrap();
        assert!(w.upgrade().is_none(), "both products hold the weight packed");
        assert!(b.upgrade().is_some(), "the sum reads the bias");

        let mut session = Session::new(target).unwrap();
        let id = session.load(program).unwrap();
        let eye = (0..SIDE * SIDE).map(|i| if i / SIDE == i % SIDE { 1.0f32 } else { 0.0 }).collect();
        let x = Tensor::from_vec(&[SIDE; 2], eye).unwrap();
        let outputs = session.run(id, &[("x", &x)]).unwrap();
        let at = |i: usize| (i % 7) as f32 - 3.0;
        let want: Vec<f32> = (0..SIDE * SIDE)
            .map(|i| (0..SIDE).map(|k| at(i / SIDE * SIDE + k) * at(k * SIDE + i % SIDE)).sum::<f32>() + at(i % SIDE))
            .collect();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), want);
    }
}

#[test]
fn rows_of_a_mapped_table_are_read_wherever_it_lies_in_its_file() {
    let path = std::env::temp_dir().join(format!("penjing-table-{}", std::process::id()));
    let table: Vec<f32> = (0..600).map(|i| i as f32 - 100.0).collect();
    let bytes: Vec<u8> = table.iter().flat_map(|v| v.to_ne_bytes()).collect();
    for gap in 0..5 {
        std::fs::write(&path, [vec![1; gap], bytes.clone()].concat()).unwrap();
        let file = Arc::new(map_file(&path).unwrap());
        let mapped = Tensor::mapped(DType::F32, &[100, 6], &file, gap..gap + bytes.len()).unwrap();
        let mut m = Model::default();
        let rows = m.graph.add_input("rows", Fact::new(DType::I64, [3]));
        let mapped = m.graph.add_const(mapped);
        let y = m.graph.apply("pick", Op::Gather { axis: 0 }, &[mapped, rows]).unwrap();
        m.graph.add_output("y", y);
        let mut session = Session::new(Target::host(1)).unwrap();
        let id = session.load(lower(m, &Bindings::default(), &Target::host(1)).unwrap()).unwrap();
        let rows = Tensor::from_vec(&[3], vec![99i64, 0, -2]).unwrap();
        let y = &session.run(id, &[("rows", &rows)]).unwrap()[0].1;
        assert_eq!(y.as_slice::<f32>().unwrap(), [&table[594..], &table[..6], &table[588..594]].concat(), "gap {gap}");
    }
    std::fs::remove_file(path).unwrap();
}
