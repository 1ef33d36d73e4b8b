//! Cleaning passes, simplification, folding and the driver's checks.

#![allow(clippy::unwrap_used)]

mod common;

use common::{assert_same, constant, dims, formula, only_op, ops};
use penjing_ir::{
    Carry, Compare, Fact, IrError, Model, Op, PadMode, QuantScheme, Real, Reduction, Role, Scope, SliceRange, Source,
    Unary, ValueId,
};
use penjing_rewrite::{
    FoldConfig, Formula, RewriteError, Skip, Trace, any, common_subexpressions, dead_code, fold_constants, node,
    rewrite, simplify, unary,
};
use penjing_tensor::{DType, Tensor};

fn simplified(before: &Model) -> (Model, Trace) {
    let (mut after, mut trace) = (before.clone(), Trace::new());
    simplify(&mut after, &mut trace).unwrap();
    dead_code(&mut after).unwrap();
    assert_same(before, &after);
    (after, trace)
}

#[test]
fn identities_vanish() {
    let before = formula(&[&[2, 3]], |s, x| {
        let a = s.shift(x[0], 0.0)?;
        let a = s.scale(a, 1.0)?;
        let a = s.op(Op::Cast(DType::F32), &[a])?;
        let a = s.op(Op::Reshape { shape: dims(&[2, 3]) }, &[a])?;
        let a = s.op(Op::Permute { perm: vec![0, 1] }, &[a])?;
        let a = s.slice(a, 0, 0, 2)?;
        let a = s.op(Op::Expand { shape: dims(&[2, 3]) }, &[a])?;
        let a = s.unary(Unary::Neg, a)?;
        let a = s.unary(Unary::Neg, a)?;
        s.concat(&[a], 1)
    });
    assert_eq!(ops(&simplified(&before).0), Vec::<&str>::new());
}

/// One formula for each rule that the other tests leave out; together with them every rule is applied.
#[test]
fn every_simplification_applies_somewhere() {
    type Build = fn(&mut Scope<'_>, &[ValueId]) -> Result<ValueId, IrError>;
    let formulas: [(&str, Build); 10] = [
        ("double-not", |s, x| {
            let c = negative(s, x[0])?;
            let c = s.unary(Unary::Not, c)?;
            let c = s.unary(Unary::Not, c)?;
            s.select(c, x[0], x[1])
        }),
        ("negated-condition", |s, x| {
            let c = negative(s, x[0])?;
            let c = s.unary(Unary::Not, c)?;
            s.select(c, x[0], x[1])
        }),
        ("same-branches", |s, x| {
            let c = negative(s, x[0])?;
            s.select(c, x[1], x[1])
        }),
        ("relu-of-relu", |s, x| {
            let y = s.relu(x[0])?;
            s.relu(y)
        }),
        ("cast-of-cast", |s, x| {
            let y = s.cast(x[0], DType::F64)?;
            s.cast(y, DType::F32)
        }),
        ("empty-reduction", |s, x| s.reduce(Reduction::Mean, x[0], &[])),
        ("expand-of-expand", |s, x| {
            let y = s.op(Op::Expand { shape: dims(&[2, 3]) }, &x[..1])?;
            s.op(Op::Expand { shape: dims(&[4, 2, 3]) }, &[y])
        }),
        ("expand-left", |s, x| {
            let y = s.expand(x[0], &dims(&[2, 3]))?;
            let z = s.concat(&[y, y], 1)?;
            let w = s.slice(z, 1, 0, 3)?;
            s.add(y, w)
        }),
        ("expand-right", |s, x| {
            let y = s.expand(x[0], &dims(&[2, 3]))?;
            let z = s.concat(&[y, y], 1)?;
            let w = s.slice(z, 1, 0, 3)?;
            s.sub(w, y)
        }),
        ("no-op-pad", |s, x| {
            let mode = PadMode::Constant(Real(1.0));
            s.op(Op::Pad { before: vec![0], after: vec![0], mode }, &x[..1])
        }),
    ];
    for (rule, build) in formulas {
        let (after, trace) = simplified(&formula(&[&[3], &[3]], build));
        assert!(trace.count(rule) > 0, "{rule}: {:?}\n{trace}", ops(&after));
    }
}

fn negative(s: &mut Scope<'_>, x: ValueId) -> Result<ValueId, IrError> {
    let zero = s.scalar_like(x, 0.0);
    s.compare(Compare::Less, x, zero)
}

#[test]
fn what_looks_like_an_identity_stays() {
    let reversed = formula(&[&[2]], |s, x| {
        s.op(Op::Slice { ranges: vec![SliceRange { start: 1.into(), len: 2.into(), step: -1 }] }, x)
    });
    assert_eq!(ops(&simplified(&reversed).0), ["Slice"]);
    // Adding zeros of a larger shape broadcasts.
    let broadcast = formula(&[&[3]], |s, x| {
        let zeros = s.constant(Tensor::zeros(DType::F32, &[2, 3]).unwrap());
        s.add(x[0], zeros)
    });
    let (after, trace) = simplified(&broadcast);
    assert_eq!(ops(&after), ["Add"]);
    assert!(trace.skipped.iter().any(|s| s.2 == "the replacement has another dtype or shape"));
    let lossy = formula(&[&[3]], |s, x| {
        let i = s.cast(x[0], DType::I32)?;
        s.cast(i, DType::F32)
    });
    assert_eq!(ops(&simplified(&lossy).0), ["Cast", "Cast"]);
}

#[test]
fn movements_compose() {
    let permutes = formula(&[&[2, 3, 4]], |s, x| {
        let a = s.permute(x[0], &[2, 0, 1])?;
        s.permute(a, &[0, 2, 1])
    });
    assert_eq!(only_op(&simplified(&permutes).0), Op::Permute { perm: vec![2, 1, 0] });
    let slices = formula(&[&[10]], |s, x| {
        let a = s.op(Op::Slice { ranges: vec![SliceRange { start: 9.into(), len: 5.into(), step: -2 }] }, x)?;
        s.op(Op::Slice { ranges: vec![SliceRange { start: 1.into(), len: 2.into(), step: 2 }] }, &[a])
    });
    let want = Op::Slice { ranges: vec![SliceRange { start: 7.into(), len: 2.into(), step: -4 }] };
    assert_eq!(only_op(&simplified(&slices).0), want);
    let reshapes = formula(&[&[2, 6]], |s, x| {
        let a = s.reshape(x[0], &dims(&[12]))?;
        s.reshape(a, &dims(&[3, 4]))
    });
    assert_eq!(only_op(&simplified(&reshapes).0), Op::Reshape { shape: dims(&[3, 4]) });
}

#[test]
fn products_take_transposes_over() {
    let both = formula(&[&[5, 2], &[4, 5]], |s, x| {
        let (a, b) = (s.permute(x[0], &[1, 0])?, s.permute(x[1], &[1, 0])?);
        s.matmul(a, b)
    });
    assert_eq!(only_op(&simplified(&both).0), Op::MatMul { trans_a: true, trans_b: true });
    let batch = formula(&[&[2, 3, 4], &[2, 4, 5]], |s, x| {
        let a = s.permute(x[0], &[1, 0, 2])?;
        let b = s.slice(x[1], 0, 0, 1)?;
        s.matmul(a, b)
    });
    assert!(ops(&simplified(&batch).0).contains(&"Permute"));
}

#[test]
fn constant_conditions_choose() {
    let before = formula(&[&[2, 3], &[3]], |s, x| {
        let c = s.constant(Tensor::from_bools(&[2, 1], &[false, false]).unwrap());
        s.select(c, x[0], x[1])
    });
    assert_eq!(ops(&simplified(&before).0), ["Expand"]);
}

#[test]
fn equal_nodes_merge_and_unequal_ones_do_not() {
    let before = formula(&[&[3], &[3]], |s, x| {
        let (a, b) = (s.add(x[0], x[1])?, s.add(x[1], x[0])?);
        let (c, d) = (s.sub(x[0], x[1])?, s.sub(x[1], x[0])?);
        let (e, f) = (s.scale(a, 2.0)?, s.scale(b, 2.0)?);
        let all = [e, f, c, d];
        s.concat(&all, 0)
    });
    let mut after = before.clone();
    assert_eq!(common_subexpressions(&mut after, &mut Trace::new()).unwrap(), 2);
    dead_code(&mut after).unwrap();
    assert_eq!(ops(&after), ["Add", "Mul", "Sub", "Sub", "Concat"]);
    assert_same(&before, &after);
}

#[test]
fn random_streams_with_other_names_stay_apart() {
    let draw = |stream: &str| Op::Random {
        kind: penjing_ir::RandomKind::Normal,
        shape: dims(&[4]),
        seed: 1,
        stream: stream.into(),
    };
    let mut model = Model::new("t");
    let step = model.graph.add_input("step", Fact::scalar(DType::I64));
    let mut s = Scope::new(&mut model.graph, "");
    let all: Vec<_> = ["a", "b", "a"].iter().map(|n| s.op(draw(n), &[step]).unwrap()).collect();
    let y = s.concat(&all, 0).unwrap();
    model.graph.add_output("y", y);
    assert_eq!(common_subexpressions(&mut model, &mut Trace::new()).unwrap(), 1);
}

#[test]
fn constants_fold_up_to_a_size() {
    let before = formula(&[&[4]], |s, x| {
        let a = constant(s, "a", &[4]);
        let b = s.scale(a, 3.0)?;
        let b = s.unary(Unary::Exp, b)?;
        s.add(x[0], b)
    });
    let mut after = before.clone();
    assert_eq!(fold_constants(&mut after, &FoldConfig::default(), &mut Trace::new()).unwrap(), 2);
    assert_same(&before, &after);
    assert_eq!(ops(&after), ["Add"]);

    let mut big = formula(&[&[1]], |s, x| {
        let zero = s.scalar_like(x[0], 0.0);
        let a = s.expand(zero, &dims(&[1 << 20, 1 << 20]))?;
        s.add(x[0], a)
    });
    let mut trace = Trace::new();
    assert_eq!(fold_constants(&mut big, &FoldConfig::default(), &mut trace).unwrap(), 0);
    assert!(trace.skipped.iter().any(|s| s.2 == "the result is too large to keep as a constant"));
}

#[test]
fn constants_fold_up_to_a_total() {
    let before = formula(&[&[100]], |s, x| {
        let mut sum = x[0];
        for i in 0..10 {
            let scalar = s.scalar(DType::F32, f64::from(i));
            let wide = s.expand(scalar, &dims(&[100]))?;
            sum = s.add(sum, wide)?;
        }
        Ok(sum)
    });
    let mut after = before.clone();
    let mut trace = Trace::new();
    let config = FoldConfig { total_bytes: 1000, ..FoldConfig::default() };
    assert_eq!(fold_constants(&mut after, &config, &mut trace).unwrap(), 2);
    assert_eq!(trace.skipped.iter().filter(|s| s.2.contains("together")).count(), 8);
    assert_same(&before, &after);
    assert_eq!(fold_constants(&mut before.clone(), &FoldConfig::default(), &mut Trace::new()).unwrap(), 10);
}

#[test]
fn quantized_weights_stay_quantized() {
    let scheme = QuantScheme { dtype: DType::I8, axis: None, narrow: true };
    let mut model = formula(&[&[2]], |s, x| {
        let w = constant(s, "w", &[2]);
        let (scale, zero) = (s.scalar(DType::F32, 0.1), s.scalar(DType::I8, 0.0));
        let q = s.op(Op::Quantize(scheme.clone()), &[w, scale, zero])?;
        let d = s.op(Op::Dequantize(scheme.clone()), &[q, scale, zero])?;
        s.mul(x[0], d)
    });
    fold_constants(&mut model, &FoldConfig::default(), &mut Trace::new()).unwrap();
    assert_eq!(ops(&model), ["Dequantize", "Mul"]);
}

#[test]
fn dead_code_keeps_what_carries_need() {
    let mut model = formula(&[&[2]], |s, x| s.relu(x[0]));
    let memory = model.add_state("memory", Role::Cache, false, Tensor::zeros(DType::F32, &[2]).unwrap());
    let unused = model.add_weight("unused", Tensor::zeros(DType::F32, &[2]).unwrap());
    let x = model.graph.inputs[0];
    let mut s = Scope::new(&mut model.graph, "");
    s.unary(Unary::Exp, unused).unwrap();
    let sum = s.add(memory, x).unwrap();
    let state = model.state_of(memory).unwrap();
    model.carries.push(Carry { value: sum, state });
    assert_eq!(dead_code(&mut model).unwrap(), 1);
    assert_eq!(ops(&model), ["Relu", "Add"]);
    assert_eq!(model.states.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["memory"]);
    assert!(matches!(model.graph.value(model.carries[0].value).source, Source::Node(..)));
}

#[test]
fn stop_after_bounds_the_patches() {
    let mut model = formula(&[&[2]], |s, x| {
        let a = s.shift(x[0], 0.0)?;
        let a = s.scale(a, 1.0)?;
        s.shift(a, 0.0)
    });
    let mut trace = Trace::stopping_after(2);
    simplify(&mut model, &mut trace).unwrap();
    assert_eq!(trace.steps.len(), 2);
    assert_eq!(ops(&model).len(), 1);
    assert_eq!((trace.steps[0].before, trace.steps[0].after), (3, 2));
}

#[test]
fn rules_that_undo_each_other_are_found_out() {
    let flip = |from: Unary, to: fn(&penjing_rewrite::Match<'_>, &mut penjing_rewrite::Patch) -> Result<(), Skip>| {
        Formula::rule("flip", unary(from, any("x")), to)
    };
    let rules = [
        flip(Unary::Sin, |m, p| {
            let x = p.tap_named(m, "x");
            let y = p.scope().unary(Unary::Cos, x)?;
            p.replace(m.result(), y);
            Ok(())
        }),
        flip(Unary::Cos, |m, p| {
            let x = p.tap_named(m, "x");
            let y = p.scope().unary(Unary::Sin, x)?;
            p.replace(m.result(), y);
            Ok(())
        }),
    ];
    let mut model = formula(&[&[2]], |s, x| s.unary(Unary::Sin, x[0]));
    let error = rewrite("flips", &mut model, &rules, &mut Trace::new()).unwrap_err();
    assert!(matches!(error, RewriteError::Endless { pass: "flips", .. }));
}

#[test]
fn a_replacement_may_not_depend_on_what_it_replaces() {
    let wrap = Formula::rule("wrap", node(|op| matches!(op, Op::Unary(Unary::Exp)), [any("x")]), |m, p| {
        let own = p.tap(m.graph, m.result());
        let y = p.scope().relu(own)?;
        p.replace(m.result(), y);
        Ok(())
    });
    let mut model = formula(&[&[2]], |s, x| s.unary(Unary::Exp, x[0]));
    let mut trace = Trace::new();
    assert_eq!(rewrite("wrap", &mut model, &[wrap], &mut trace).unwrap(), 0);
    assert!(trace.skipped.iter().any(|s| s.2 == "the replacement would depend on itself"));
}

#[test]
fn names_survive_a_replacement() {
    let mut model = formula(&[&[2, 2]], |s, x| {
        let t = s.permute(x[0], &[1, 0])?;
        let node = s.graph.add_node("layer1.fc", Op::MatMul { trans_a: false, trans_b: false }, &[x[0], t])?;
        let y = s.graph.node(node).outputs[0];
        s.graph.set_value_name(y, "logits");
        Ok(y)
    });
    simplify(&mut model, &mut Trace::new()).unwrap();
    dead_code(&mut model).unwrap();
    assert_eq!(model.graph.nodes()[0].name, "layer1.fc");
    assert_eq!(model.graph.value(model.graph.output("y").unwrap()).name, "logits");
}
