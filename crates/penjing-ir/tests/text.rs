//! The text form: everything that prints parses back to the same, and nothing that is parsed panics.

#![allow(clippy::unwrap_used)]

mod common;

use common::{cases, normal};
use penjing_ir::{
    Carry, Dim, Fact, Graph, IrError, Model, Op, Real, Role, Scope, Unary,
    text::{parse, parse_op, print, print_op, print_summary},
};
use penjing_tensor::{DType, Rng, Tensor, f16};

fn assert_equal(a: &Model, b: &Model) {
    let states =
        |m: &Model| m.states.iter().map(|s| (s.name.clone(), s.role, s.trainable, s.init.clone())).collect::<Vec<_>>();
    assert_eq!(states(a), states(b));
    assert_eq!(a.carries, b.carries);
    assert_eq!(a.metadata, b.metadata);
    assert_eq!(a.bodies.len(), b.bodies.len());
    for (a, b) in std::iter::once((&a.graph, &b.graph)).chain(a.bodies.iter().zip(&b.bodies)) {
        assert_eq!((&a.name, &a.inputs, &a.outputs), (&b.name, &b.inputs, &b.outputs));
        let values = |g: &Graph| {
            g.values().iter().map(|v| (v.name.clone(), v.fact.clone(), v.source.clone())).collect::<Vec<_>>()
        };
        assert_eq!(values(a), values(b));
        let nodes = |g: &Graph| {
            g.nodes()
                .iter()
                .map(|n| (n.name.clone(), n.op.clone(), n.inputs.clone(), n.outputs.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(nodes(a), nodes(b));
    }
}

#[test]
fn every_op_reads_back() {
    for case in cases() {
        let text = print_op(&case.op);
        assert_eq!(parse_op(&text).as_ref(), Ok(&case.op), "{}: {text}", case.name);
    }
}

#[test]
fn every_op_reads_back_in_a_model() {
    for case in cases().into_iter().filter(|c| !matches!(c.op, Op::If { .. } | Op::Machine(_))) {
        let mut model = Model::new(&case.name);
        let mut inputs = Vec::new();
        for (i, t) in case.inputs.iter().enumerate() {
            inputs.push(match i % 3 {
                0 => model.graph.add_input(&format!("x{i}"), Fact::of(t)),
                1 => model.graph.add_named_const(&format!("c{i}"), t.clone()),
                _ => model.add_state(&format!("s{i}"), Role::Buffer, false, t.clone()),
            });
        }
        let node = model.graph.add_node("", case.op, &inputs).unwrap();
        for (i, v) in model.graph.node(node).outputs.clone().into_iter().enumerate() {
            model.graph.add_output(&format!("y{i}"), v);
        }
        let text = print(&model);
        let back = parse(&text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", case.name));
        assert_equal(&model, &back);
        assert_eq!(print(&back), text);
    }
}

/// Bodies, carries, symbols, odd names, all roles and all dtypes.
fn rich() -> Model {
    let mut m = Model::new("a \"rich\"\nmodel");
    m.metadata.insert("labels".into(), "Katze, 盆景\u{301}\t\\".into());
    let n = Dim::sym("N");
    let odd = Dim::sym("batch size") * Dim::Const(2) * n.clone() - Dim::Const(3);
    let half = (odd.clone() + Dim::Const(8)).floor_div(&Dim::Const(2)).at_least(&n).at_most(&Dim::sym("max"));
    let x = m.graph.add_input("x", Fact { dtype: DType::F32, shape: vec![n.clone(), half, odd] });
    for (i, role) in Role::ALL.into_iter().enumerate() {
        m.add_state(role.name(), role, role == Role::Weight, normal("w", &[i + 14]).cast(DType::F32));
    }
    for dtype in DType::ALL {
        let values = vec![0.0, 1.0, if dtype.int_range().is_some_and(|r| r.0 < 0) { -3.0 } else { 3.0 }];
        m.graph.add_named_const(dtype.name(), Tensor::from_f64s(dtype, &[3], values).unwrap());
        m.graph.add_const(Tensor::zeros(dtype, &[2, 20]).unwrap());
    }
    m.graph.add_const(Tensor::from_vec(&[2], vec![u64::MAX, 1]).unwrap());
    m.graph.add_const(
        Tensor::from_vec(&[6], vec![-0.0f32, f32::INFINITY, f32::MIN_POSITIVE, 1e-45, 0.1, 1.0 / 3.0]).unwrap(),
    );
    m.graph.add_const(Tensor::from_vec(&[2], vec![f32::from_bits(0x7fc0_1234), 1.0]).unwrap());
    m.graph.add_const(Tensor::from_vec(&[2], vec![f16::MAX, f16::EPSILON]).unwrap());
    m.graph.add_const(Tensor::zeros(DType::F32, &[0, 3]).unwrap());
    for scale in [2.0, -1.0] {
        let mut body = Graph::new("branch");
        let x = body.add_input("captured", Fact::new(DType::F32, [2usize]));
        let y = Scope::new(&mut body, "").scale(x, scale).unwrap();
        body.add_output("y", y);
        m.bodies.push(body);
    }
    let condition = m.graph.add_input("condition", Fact::scalar(DType::Bool));
    let capture = m.graph.add_input("capture", Fact::new(DType::F32, [2usize]));
    let op = Op::If { then_body: penjing_ir::BodyId(0), else_body: penjing_ir::BodyId(1) };
    let fact = Fact::new(DType::F32, [2usize]);
    let node = m.graph.add_node_with_facts("choice", op, &[condition, capture], vec![fact]);
    let chosen = m.graph.node(node).outputs[0];
    let cache = m.add_state("two", Role::Cache, false, Tensor::zeros(DType::F32, &[2]).unwrap());
    let mut s = Scope::new(&mut m.graph, "block.1");
    let sum = s.add(chosen, cache).unwrap();
    let y = s.unary(Unary::Elu(Real(0.1 + 0.2)), x).unwrap();
    m.graph.set_value_name(y, "features");
    m.graph.add_output("y", y);
    m.carries.push(Carry { value: sum, state: m.state_of(cache).unwrap() });
    m
}

#[test]
fn a_rich_model_reads_back() {
    let model = rich();
    let text = print(&model);
    let back = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_equal(&model, &back);
    assert_eq!(print(&back), text);
}

/// A rewrite makes early nodes read later values.
#[test]
fn order_of_ids_need_not_be_topological() {
    let mut m = Model::new("t");
    let x = m.graph.add_input("x", Fact::new(DType::F32, [2usize]));
    let mut s = Scope::new(&mut m.graph, "");
    let (a, b) = (s.relu(x).unwrap(), s.unary(Unary::Exp, x).unwrap());
    let c = s.add(a, b).unwrap();
    let late = s.unary(Unary::Tanh, x).unwrap();
    m.graph.add_output("y", c);
    m.graph.replace_uses(a, late);
    assert_equal(&m, &parse(&print(&m)).unwrap());
}

#[test]
fn a_summary_leaves_data_out() {
    let model = rich();
    let summary = print_summary(&model);
    assert!(summary.len() < print(&model).len() && summary.contains("= ..."));
    let error = parse(&summary).unwrap_err();
    assert!(error.to_string().contains("left out"), "{error}");
}

#[test]
fn the_form_is_what_the_documentation_says() {
    let text = "model\n\
        state @0 \"fc.weight\" weight trainable f32[1, 2] = [0.5, -1.0]\n\
        graph \"tiny\"\n  \
          inputs %0\n  \
          %0 \"x\" f32[N, 2] = input\n  \
          %1 \"fc.weight\" f32[1, 2] = @0\n  \
          %2 f32[N, 1] = \"fc\" MatMul(%0, %1) trans_a=false trans_b=true\n  \
          output \"y\" %2\n";
    assert_eq!(print(&parse(text).unwrap()), text);
}

#[test]
fn errors_name_the_line() {
    let good =
        "model\ngraph \"g\"\n  inputs %0\n  %0 \"x\" f32[2] = input\n  %1 f32[2] = \"r\" Relu(%0)\n  output \"y\" %1\n";
    parse(good).unwrap();
    for (from, to, line, why) in [
        ("f32[2] = input", "f33[2] = input", 4, "unknown dtype"),
        ("Relu(%0)", "Relu(%0) alpha=1", 5, "unexpected"),
        ("Relu", "Rely", 5, "unknown op"),
        ("%1 f32", "%2 f32", 5, "expected %1"),
        ("Relu(%0)", "Concat(%0)", 5, "expected `axis`"),
        ("Relu(%0)", "Concat(%0) axis=99999999999999", 5, "too large"),
        ("output \"y\" %1", "output \"y\" %7", 6, "no line describes %7"),
        ("f32[2] = input", "f32[3000000000] = [1.0]", 4, "too large"),
        ("f32[2] = input", "f32[2000000000] = [1.0]", 4, "1 elements for 2000000000"),
        ("f32[2] = input", "f32[2000000000, 2000000000] = x00", 4, "too large"),
        ("f32[2] = input", "f32[2000, 2000] = x00", 4, "2 hexadecimal digits"),
        ("f32[2] = input", "f32[floor_div(N, 0)] = input", 4, "division by 0"),
        ("\"x\"", "\"x", 4, "does not end"),
    ] {
        let bad = good.replacen(from, to, 1);
        match parse(&bad) {
            Err(IrError::Text { line: l, why: w }) => {
                assert_eq!(l, line, "{to}: {w}");
                assert!(w.contains(why), "{to}: {w}");
            }
            other => panic!("{to}: {other:?}"),
        }
    }
    let wrong_fact = good.replacen("%1 f32[2]", "%1 f32[3]", 1);
    assert!(matches!(parse(&wrong_fact), Err(IrError::Verify { .. })));
}

#[test]
fn hostile_text_is_an_error_and_no_panic() {
    let mut seeds: Vec<String> = vec![print(&rich())];
    for case in cases().into_iter().filter(|c| !matches!(c.op, Op::If { .. } | Op::Machine(_))).step_by(3) {
        let mut model = Model::new("m");
        let inputs: Vec<_> = case.inputs.iter().map(|t| model.graph.add_input("", Fact::of(t))).collect();
        model.graph.add_node("n", case.op, &inputs).unwrap();
        seeds.push(print(&model));
    }
    let rng = Rng::new(1, "hostile", 0);
    let pieces = [
        "-1",
        "2147483648",
        "[",
        "]",
        "(",
        "%",
        "@0",
        "\"",
        "nan",
        "0",
        "N*N*N",
        "floor_div(N, -1)",
        "max(",
        "\\u{",
        "é",
        ",",
    ];
    let mut draw = 0;
    let mut next = |below: usize| {
        draw += 1;
        rng.below(draw, below as u64) as usize
    };
    let mut accepted = 0;
    for round in 0..6000 {
        let mut bytes = seeds[round % seeds.len()].clone().into_bytes();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            match next(4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] ^= 1 << next(8),
                2 => drop(bytes.remove(at)),
                _ => drop(bytes.splice(at..at, pieces[next(pieces.len())].bytes())),
            }
        }
        accepted += usize::from(parse(&String::from_utf8_lossy(&bytes)).is_ok());
    }
    assert!(accepted < 3000, "{accepted} mutants were accepted");
}

#[test]
fn nesting_and_terms_are_bounded() {
    let line = |dim: &str| format!("model\ngraph \"g\"\n  inputs %0\n  %0 \"x\" f32[{dim}] = input\n");
    let deep = format!("{}N{}", "max(".repeat(100_000), ", 1)".repeat(100_000));
    assert!(parse(&line(&deep)).unwrap_err().to_string().contains("deep"));
    let wide: Vec<String> = (0..20).map(|i| format!("a{i} + b{i} + c{i}")).collect();
    assert!(parse(&line(&wide.join(", "))).unwrap_err().to_string().contains("complicated"));
}
