//! Damaged and absurd files: an error value or a valid graph, never a panic, a hang or a huge allocation.

use penjing_ir::{Stage, verify};
use penjing_onnx::{
    ImportOptions, OnnxError, export, import,
    proto::{
        AttributeProto, AttributeType, DimensionProto, DimensionValue, ElemType, FunctionProto, GraphProto, ModelProto,
        NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
        ValueType,
    },
    read_model_bytes, tensor_to_proto,
};
use penjing_tensor::{Rng, Tensor};
use prost::Message;

#[test]
fn damaged_bytes_never_panic() {
    let models = [convnet(), shapes(), functions()];
    let mut imported = 0;
    for (m, model) in models.iter().enumerate() {
        assert!(try_import(&model.encode_to_vec()).is_ok(), "model {m} is meant to be sound");
        let bytes = model.encode_to_vec();
        for cut in 0..bytes.len() {
            let _ = try_import(&bytes[..cut]);
        }
        for round in 0..4000 {
            let rng = Rng::new(round, "damage", m as u64);
            let mut damaged = bytes.clone();
            for k in 0..1 + rng.below(0, 4) {
                let at = rng.below(2 * k + 1, bytes.len() as u64) as usize;
                damaged[at] ^= 1 << rng.below(2 * k + 2, 8);
            }
            imported += usize::from(try_import(&damaged).is_ok());
        }
    }
    // Most flips hit names and weights, so that the graph stays sound: the importer has been reached.
    assert!(imported > 100, "{imported}");
}

#[test]
fn absurd_graphs_are_errors() {
    let big = i64::MAX;
    let cases: Vec<(&str, GraphProto)> = vec![
        ("a cycle", graph(vec![node("Relu", &["b"], &["a"]), node("Relu", &["a"], &["b"])], &["b"])),
        ("a missing input", graph(vec![node("Relu", &["nowhere"], &["y"])], &["y"])),
        ("no operands", graph(vec![node("Add", &[], &["y"])], &["y"])),
        ("a name defined twice", graph(vec![node("Relu", &["x"], &["y"]), node("Exp", &["x"], &["y"])], &["y"])),
        ("an output that nothing makes", graph(vec![], &["y"])),
        ("an attribute of another type", graph(vec![node("Softmax", &["x"], &["y"]).with_float("axis")], &["y"])),
        (
            "an axis out of range",
            graph(vec![node("Softmax", &["x"], &["y"]).with_ints("axis", &[]).with_int("axis", 99)], &["y"]),
        ),
        ("the lowest axis", graph(vec![node("Softmax", &["x"], &["y"]).with_int("axis", i64::MIN)], &["y"])),
        ("a huge kernel", graph(vec![node("MaxPool", &["x"], &["y"]).with_ints("kernel_shape", &[big, big])], &["y"])),
        ("huge pads", graph(vec![node("Pad", &["x", "huge"], &["y"])], &["y"])),
        (
            "huge repeats",
            graph(vec![node("Tile", &["x", "huge4"], &["y"]), node("Reshape", &["y", "one"], &["z"])], &["z"]),
        ),
        ("a zero step", graph(vec![node("Slice", &["x", "one", "one", "one", "zero"], &["y"])], &["y"])),
        (
            "a permutation with repeats",
            graph(vec![node("Transpose", &["x"], &["y"]).with_ints("perm", &[0, 0, 1, 2])], &["y"]),
        ),
        ("zero groups", graph(vec![node("Conv", &["x", "w"], &["y"]).with_int("group", 0)], &["y"])),
        ("a huge dilation", graph(vec![node("Conv", &["x", "w"], &["y"]).with_ints("dilations", &[big, big])], &["y"])),
        ("a zero stride", graph(vec![node("Conv", &["x", "w"], &["y"]).with_ints("strides", &[0, 0])], &["y"])),
        ("an endless split", graph(vec![node("Split", &["x"], &["y"]).with_int("num_outputs", big)], &["y"])),
        (
            "a scan of a scalar",
            graph(vec![node("Scan", &["one"], &["y"]).with_graph("body", GraphProto::default())], &["y"]),
        ),
        ("an If without branches", graph(vec![node("If", &["x"], &["y"])], &["y"])),
    ];
    for (what, graph) in cases {
        let error =
            try_import(&model(graph, vec![]).encode_to_vec()).err().unwrap_or_else(|| panic!("{what} is imported"));
        assert!(!error.to_string().is_empty(), "{what}");
    }
}

#[test]
fn huge_shapes_cost_nothing() {
    // Broadcast constants, ranges and repeats are symbolic in the graph: their elements are never made.
    let cases = [
        vec![node("ConstantOfShape", &["huge2"], &["y"])],
        vec![node("Expand", &["scalar", "huge2"], &["y"])],
        vec![node("EyeLike", &["wide"], &["y"])],
    ];
    for nodes in cases {
        let mut g = graph(nodes, &["y"]);
        g.input.push(input("wide", &[1 << 30, 1 << 30]));
        let _ = try_import(&model(g, vec![]).encode_to_vec());
    }
}

#[test]
fn negative_and_overflowing_dims_are_errors() {
    for dims in [vec![-1, 4], vec![i64::MAX, i64::MAX, 2], vec![1 << 62, 1 << 62]] {
        let bad = TensorProto { name: "bad".into(), dims, data_type: ElemType::Float as i32, ..TensorProto::default() };
        let mut g = graph(vec![node("Add", &["x", "bad"], &["y"])], &["y"]);
        g.initializer.push(bad);
        let error = try_import(&model(g, vec![]).encode_to_vec()).unwrap_err();
        assert!(matches!(&error, OnnxError::Tensor { tensor, .. } if tensor == "bad"), "{error}");
    }
}

#[test]
fn functions_that_call_themselves_or_explode_are_errors() {
    let call =
        |name: &str, input: &str, output: &str| NodeProto { domain: "f".into(), ..node(name, &[input], &[output]) };
    let recursive = function("again", vec![call("again", "a", "b")]);
    let g = graph(vec![call("again", "x", "y")], &["y"]);
    assert!(matches!(try_import(&model(g, vec![recursive]).encode_to_vec()), Err(OnnxError::InvalidGraph { .. })));

    // Ten levels of ten calls each: ten thousand million nodes when written out.
    let mut library = vec![function("f0", vec![node("Relu", &["a"], &["b"])])];
    for level in 1..=10 {
        let inner = format!("f{}", level - 1);
        let mut nodes: Vec<NodeProto> =
            (0..10).map(|i| call(&inner, &format!("v{i}"), &format!("v{}", i + 1))).collect();
        nodes[0].input[0] = "a".into();
        nodes[9].output[0] = "b".into();
        library.push(function(&format!("f{level}"), nodes));
    }
    let g = graph(vec![call("f10", "x", "y")], &["y"]);
    assert!(matches!(try_import(&model(g, library).encode_to_vec()), Err(OnnxError::InvalidGraph { .. })));

    // Thirty levels of a hundred calls each of a function without nodes: nothing is ever written out.
    let mut library = vec![function("f0", vec![])];
    for level in 1..=30 {
        let inner = format!("f{}", level - 1);
        let nodes = (0..100).map(|i| call(&inner, "a", &format!("v{i}"))).collect();
        library.push(function(&format!("f{level}"), nodes));
    }
    let g = graph(vec![call("f30", "x", "y")], &["y"]);
    assert!(matches!(try_import(&model(g, library).encode_to_vec()), Err(OnnxError::InvalidGraph { .. })));

    // Recursion hidden in a branch, which is inlined only later.
    let branch =
        GraphProto { output: vec![input("t", &[1])], node: vec![call("deep", "a", "t")], ..GraphProto::default() };
    let hidden = function(
        "deep",
        vec![node("If", &["a"], &["b"]).with_graph("then_branch", branch.clone()).with_graph("else_branch", branch)],
    );
    let g = graph(vec![call("deep", "x", "y")], &["y"]);
    assert!(try_import(&model(g, vec![hidden]).encode_to_vec()).is_err());
}

#[test]
fn symbolic_extents_do_not_grow_without_bound() {
    let mut nodes = Vec::new();
    let mut at = "s".to_string();
    for i in 0..2000 {
        let next = format!("s{i}");
        nodes.push(node("Concat", &[&at, &at, "row"], &[&next]).with_int("axis", 2));
        let pooled = format!("p{i}");
        nodes.push(node("MaxPool", &[&next], &[&pooled]).with_ints("kernel_shape", &[2]).with_ints("strides", &[3]));
        at = pooled;
    }
    let mut g = graph(nodes, &[&at]);
    g.input.push(symbolic("s", &["A", "B", "C"]));
    g.input.push(symbolic("row", &["A", "B", "D"]));
    refused_as_too_large(g);
}

#[test]
fn known_formulas_do_not_grow_without_bound() {
    // A power of 2⁴⁰ factors, and quotients nested as deep as there are nodes.
    let shape = node("Shape", &["s"], &["v"]);
    let mut squares = vec![shape.clone()];
    let mut quotients = vec![shape];
    let at = |prefix: &str, i: usize| if i == 0 { "v".into() } else { format!("{prefix}{i}") };
    for i in 0..40 {
        squares.push(node("Mul", &[&at("q", i), &at("q", i)], &[&at("q", i + 1)]));
    }
    for i in 0..50_000 {
        quotients.push(node("Add", &[&at("d", i), "one"], &[&format!("sum{i}")]));
        quotients.push(node("Div", &[&format!("sum{i}"), "three"], &[&at("d", i + 1)]));
    }
    for (nodes, last) in [(squares, at("q", 40)), (quotients, at("d", 50_000))] {
        let mut g = graph(nodes, &[&last]);
        g.input.push(symbolic("s", &["N"]));
        g.initializer.push(tensor_to_proto("three", &Tensor::from_vec(&[1], vec![3i64]).expect("one value")));
        refused_as_too_large(g);
    }
}

#[test]
fn products_of_many_sums_are_not_multiplied_out() {
    // Thirty extents of two terms each: a number of elements of 2³⁰ terms.
    let names = |letter: &str| (0..30).map(|i| format!("{letter}{i}")).collect::<Vec<_>>();
    let both = |g: &mut GraphProto| {
        for letter in ["A", "B"] {
            g.input.push(symbolic(letter, &names(letter).iter().map(String::as_str).collect::<Vec<_>>()));
        }
    };
    // As the extents of a value: every axis is padded by one.
    let pads = Tensor::from_vec(&[60], (0..60).map(|i| i64::from(i >= 30)).collect()).expect("sixty values");
    let mut padded = graph(vec![node("Pad", &["A", "pads"], &["wide"]), node("Size", &["wide"], &["y"])], &["y"]);
    // As the elements of a known vector.
    let summed = graph(
        vec![
            node("Shape", &["A"], &["a"]),
            node("Shape", &["B"], &["b"]),
            node("Add", &["a", "b"], &["sum"]),
            node("ReduceProd", &["sum"], &["y"]),
        ],
        &["y"],
    );
    padded.initializer.push(tensor_to_proto("pads", &pads));
    for mut g in [padded, summed] {
        both(&mut g);
        refused_as_too_large(g);
    }
}

#[test]
fn long_names_are_not_copied_into_every_extent_or_call() {
    let long = "n".repeat(1 << 20);
    let mut g = graph(vec![node("Relu", &["s"], &["y"])], &["y"]);
    g.input.push(symbolic("s", &[&long]));
    let error = try_import(&model(g, vec![]).encode_to_vec()).unwrap_err();
    assert!(matches!(error, OnnxError::UnsupportedModel { .. }));

    let inner = (0..1000).map(|i| node("Relu", &["a"], &[&format!("v{i}")])).chain([node("Relu", &["a"], &["b"])]);
    let library = vec![function("many", inner.collect())];
    let call = NodeProto { domain: "f".into(), ..node("many", &["x"], &["y"]) };
    for call in [NodeProto { name: long.clone(), ..call.clone() }, NodeProto { output: vec![long], ..call }] {
        let output = call.output[0].clone();
        let bytes = model(graph(vec![call], &[&output]), library.clone()).encode_to_vec();
        assert!(matches!(try_import(&bytes), Err(OnnxError::UnsupportedModel { .. })));
    }
}

#[test]
fn names_that_come_to_one_identifier_stay_apart() {
    // As many dimensions as fit: each name cleans to the same identifier.
    let names: Vec<String> = (0..20_000u32)
        .map(|i| (0..15).map(|bit| if i >> bit & 1 == 1 { '.' } else { '-' }).collect())
        .chain(["_______________".into(), "________________2".into()])
        .collect();
    let mut g = graph(vec![], &["x"]);
    for (i, name) in names.iter().enumerate() {
        g.input.push(symbolic(&format!("s{i}"), &[name]));
    }
    let bytes = model(g, vec![]).encode_to_vec();
    let file = read_model_bytes(bytes, "names.onnx").expect("a sound file");
    let model = import(&file, &ImportOptions::default()).expect("a sound model");
    let graph = &model.graph;
    let extents: std::collections::BTreeSet<String> =
        graph.inputs.iter().skip(1).map(|i| graph.fact(*i).shape[0].to_string()).collect();
    assert_eq!(extents.len(), names.len());
}

fn refused_as_too_large(graph: GraphProto) {
    let error = try_import(&model(graph, vec![]).encode_to_vec()).err().unwrap_or_else(|| panic!("it is imported"));
    assert!(matches!(&error, OnnxError::Unsupported { opset: 21, why, .. } if why.contains("formula")), "{error}");
}

fn try_import(bytes: &[u8]) -> Result<(), OnnxError> {
    let file = read_model_bytes(bytes.to_vec(), "hostile.onnx")?;
    let model = import(&file, &ImportOptions::default())?;
    verify(&model, Stage::Canonical).expect("what is imported is sound");
    let _ = export(&model);
    Ok(())
}

// ---- small sound models ----

fn convnet() -> ModelProto {
    let mut g = graph(
        vec![
            node("Conv", &["x", "w", "b"], &["c"]).with_ints("pads", &[1, 1, 1, 1]),
            node("BatchNormalization", &["c", "b", "b", "b", "v"], &["n"]),
            node("Relu", &["n"], &["r"]),
            node("MaxPool", &["r"], &["p"]).with_ints("kernel_shape", &[2, 2]).with_ints("strides", &[2, 2]),
            node("Flatten", &["p"], &["f"]),
            node("Gemm", &["f", "fc"], &["g"]).with_int("transB", 1),
            node("QuantizeLinear", &["g", "scale", "zp"], &["q"]),
            node("DequantizeLinear", &["q", "scale", "zp"], &["d"]),
            node("Softmax", &["d"], &["y"]).with_int("axis", -1),
        ],
        &["y"],
    );
    let floats = |name: &str, shape: &[usize]| {
        let n: usize = shape.iter().product();
        tensor_to_proto(
            name,
            &Tensor::from_vec(shape, (0..n).map(|i| i as f32 * 0.1).collect())
                .expect("as many values as the shape says"),
        )
    };
    g.initializer.retain(|t| t.name != "w");
    g.initializer.extend([floats("w", &[2, 3, 3, 3]), floats("b", &[2]), floats("v", &[2]), floats("fc", &[5, 8])]);
    g.initializer.push(tensor_to_proto("scale", &Tensor::scalar(0.5f32)));
    g.initializer.push(tensor_to_proto("zp", &Tensor::scalar(3u8)));
    model(g, vec![])
}

fn shapes() -> ModelProto {
    let mut g = graph(
        vec![
            node("Shape", &["s"], &["shape"]),
            node("Slice", &["shape", "zero", "one"], &["batch"]),
            node("Concat", &["batch", "minus"], &["target"]).with_int("axis", 0),
            node("Reshape", &["s", "target"], &["flat"]),
            node("Split", &["s"], &["left", "right"]).with_int("axis", 2).with_int("num_outputs", 2),
            node("Concat", &["right", "left"], &["joined"]).with_int("axis", 2),
            node("Transpose", &["joined"], &["t"]).with_ints("perm", &[0, 2, 1]),
            node("ReduceMean", &["t", "one"], &["m"]),
            node("Add", &["m", "scalar"], &["y"]),
        ],
        &["y", "flat"],
    );
    g.input.push(ValueInfoProto { ..dims("s", vec![param("N"), value(3), value(4)]) });
    g.initializer.push(tensor_to_proto("minus", &Tensor::from_vec(&[1], vec![-1i64]).expect("one value")));
    model(g, vec![])
}

fn functions() -> ModelProto {
    let branch = |name: &str, op: &str| GraphProto {
        node: vec![node(op, &["h"], &[name])],
        output: vec![input(name, &[1, 3, 4, 4])],
        ..GraphProto::default()
    };
    let f = function("twice", vec![node("Relu", &["a"], &["m"]), node("Exp", &["m"], &["b"])]);
    let mut g = graph(
        vec![
            NodeProto { domain: "f".into(), ..node("twice", &["x"], &["h"]) },
            node("If", &["condition"], &["y"])
                .with_graph("then_branch", branch("t", "Abs"))
                .with_graph("else_branch", branch("e", "Neg")),
        ],
        &["y"],
    );
    let boolean = TensorTypeProto { elem_type: ElemType::Bool as i32, shape: Some(TensorShapeProto::default()) };
    let kind = Some(TypeProto { value: Some(ValueType::Tensor(boolean)) });
    g.input.push(ValueInfoProto { name: "condition".into(), r#type: kind, ..ValueInfoProto::default() });
    model(g, vec![f])
}

// ---- building messages ----

/// A graph with input x [1, 3, 4, 4], a few constants and outputs.
fn graph(node: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
    let ints = |name: &str, v: Vec<i64>| tensor_to_proto(name, &Tensor::from_vec(&[v.len()], v).expect("a vector"));
    let weight = Tensor::from_vec(&[1, 3, 1, 1], vec![1f32, 2.0, 3.0]).expect("three values");
    GraphProto {
        node,
        input: vec![input("x", &[1, 3, 4, 4])],
        output: outputs.iter().map(|name| input(name, &[1])).collect(),
        initializer: vec![
            ints("zero", vec![0]),
            ints("one", vec![1]),
            ints("huge", vec![i64::MAX; 8]),
            ints("huge2", vec![1 << 40; 2]),
            ints("huge4", vec![i64::MAX; 4]),
            tensor_to_proto("scalar", &Tensor::scalar(2f32)),
            tensor_to_proto("w", &weight),
        ],
        ..GraphProto::default()
    }
}

fn model(graph: GraphProto, functions: Vec<FunctionProto>) -> ModelProto {
    ModelProto { ir_version: 10, opset_import: opsets(), graph: Some(graph), functions, ..ModelProto::default() }
}

fn opsets() -> Vec<OperatorSetIdProto> {
    let id = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    vec![id("", 21), id("f", 1)]
}

fn function(name: &str, node: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "f".into(),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node,
        opset_import: opsets(),
        ..FunctionProto::default()
    }
}

fn input(name: &str, shape: &[i64]) -> ValueInfoProto {
    dims(name, shape.iter().map(|&d| value(d)).collect())
}

fn symbolic(name: &str, shape: &[&str]) -> ValueInfoProto {
    dims(name, shape.iter().map(|d| param(d)).collect())
}

fn value(d: i64) -> DimensionProto {
    DimensionProto { value: Some(DimensionValue::Value(d)) }
}

fn param(name: &str) -> DimensionProto {
    DimensionProto { value: Some(DimensionValue::Param(name.into())) }
}

fn dims(name: &str, dim: Vec<DimensionProto>) -> ValueInfoProto {
    let tensor = TensorTypeProto { elem_type: ElemType::Float as i32, shape: Some(TensorShapeProto { dim }) };
    let kind = Some(TypeProto { value: Some(ValueType::Tensor(tensor)) });
    ValueInfoProto { name: name.into(), r#type: kind, ..ValueInfoProto::default() }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(|n| n.to_string()).collect();
    NodeProto { op_type: op.into(), input: names(inputs), output: names(outputs), ..NodeProto::default() }
}

trait With {
    fn with(self, attribute: AttributeProto) -> Self;
    fn with_int(self, name: &str, i: i64) -> Self;
    fn with_ints(self, name: &str, ints: &[i64]) -> Self;
    fn with_float(self, name: &str) -> Self;
    fn with_graph(self, name: &str, g: GraphProto) -> Self;
}

impl With for NodeProto {
    fn with(mut self, attribute: AttributeProto) -> NodeProto {
        self.attribute.push(attribute);
        self
    }

    fn with_int(self, name: &str, i: i64) -> NodeProto {
        self.with(AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) })
    }

    fn with_ints(self, name: &str, ints: &[i64]) -> NodeProto {
        self.with(AttributeProto { ints: ints.to_vec(), ..attribute(name, AttributeType::Ints) })
    }

    fn with_float(self, name: &str) -> NodeProto {
        self.with(AttributeProto { f: Some(1.0), ..attribute(name, AttributeType::Float) })
    }

    fn with_graph(self, name: &str, g: GraphProto) -> NodeProto {
        self.with(AttributeProto { g: Some(g), ..attribute(name, AttributeType::Graph) })
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: kind as i32, ..AttributeProto::default() }
}
