//! What an import decides: roles, names, bindings, and what older operator sets mean.

use penjing_ir::{Dim, Model, Role};
use penjing_onnx::{
    ImportOptions, ModelFile, OnnxError, export, import,
    proto::{
        AttributeProto, AttributeType, DimensionProto, DimensionValue, ElemType, GraphProto, ModelProto, NodeProto,
        OperatorSetIdProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, ValueType,
    },
    read_model_bytes, tensor_to_proto,
};
use penjing_reference::{Precision, run};
use penjing_tensor::{DType, Tensor};
use prost::Message;
use regex::Regex;
use std::collections::BTreeMap;

#[test]
fn slots_tell_weights_from_constants() {
    let model = imported(&embedding_model(), &ImportOptions::default());
    let role = |name: &str| model.states.iter().find(|s| s.name == name).map(|s| (s.role, s.trainable));
    assert_eq!(role("table"), Some((Role::Weight, true)), "gathered and multiplied: one state");
    assert_eq!(role("bias"), Some((Role::Weight, true)));
    assert_eq!(role("gamma"), Some((Role::Weight, true)));
    assert_eq!(role("mean"), Some((Role::Buffer, false)));
    assert_eq!(role("epsilon"), None, "one element added is no bias");
    assert_eq!(role("mask"), None, "a table of −∞ is no bias");
    assert_eq!(model.states.iter().filter(|s| s.name.starts_with("table")).count(), 1);
    let again = round_trip(&model);
    assert_eq!(again.states.len(), model.states.len());
}

#[test]
fn the_caller_chooses_what_trains() {
    let regex = |r: &str| Some(Regex::new(r).unwrap());
    let options = ImportOptions { train: regex("^eps"), freeze: regex("table|gamma"), ..ImportOptions::default() };
    let model = imported(&embedding_model(), &options);
    let trains = |m: &Model| {
        let mut names: Vec<String> = m.trainable().iter().map(|&s| m.state(s).name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(trains(&model), ["beta", "bias", "epsilon"]);
    // What was chosen travels with the file.
    assert_eq!(trains(&round_trip(&model)), ["beta", "bias", "epsilon"]);
}

#[test]
fn names_are_kept() {
    let model = imported(&embedding_model(), &ImportOptions::default());
    assert!(model.graph.input("ids").is_some() && model.graph.output("y").is_some());
    assert!(model.graph.nodes().iter().any(|n| n.name == "lookup"));
    assert!(model.graph.values().iter().any(|v| v.name == "h"));
    let proto = export(&model).unwrap();
    let graph = proto.graph.unwrap();
    assert!(graph.node.iter().any(|n| n.name == "lookup" && n.output == ["h"]));
    assert!(graph.initializer.iter().any(|t| t.name == "table"));
    assert_eq!((graph.input[0].name.as_str(), graph.output[0].name.as_str()), ("ids", "y"));
}

#[test]
fn a_dynamic_batch_stays_symbolic_until_it_is_bound() {
    let file = flatten_by_shape();
    let model = imported(&file, &ImportOptions::default());
    assert_eq!(model.graph.fact(model.graph.output("y").unwrap()).shape, [Dim::sym("N"), Dim::Const(12)]);
    let options = ImportOptions { bind_dims: BTreeMap::from([("N".to_string(), 5)]), ..ImportOptions::default() };
    let bound = imported(&file, &options);
    assert_eq!(bound.graph.fact(bound.graph.output("y").unwrap()).concrete(), Some(vec![5, 12]));
    let proto = export(&model).unwrap();
    let kind = proto.graph.unwrap().input[0].r#type.clone();
    let Some(ValueType::Tensor(tensor)) = kind.and_then(|t| t.value) else { panic!("a tensor") };
    assert_eq!(tensor.shape.unwrap().dim[0].value, Some(DimensionValue::Param("N".into())));
}

#[test]
fn a_shape_that_is_an_input_must_be_given() {
    let g = GraphProto {
        node: vec![node("Reshape", &["x", "shape"], &["y"])],
        input: vec![floats("x", &[2, 6]), typed("shape", ElemType::Int64, &[2])],
        output: vec![floats("y", &[])],
        ..GraphProto::default()
    };
    let file = file(g, 21);
    match import(&file, &ImportOptions::default()) {
        Err(OnnxError::NeedsInput { input, slot, .. }) => {
            assert_eq!((input.as_str(), slot.as_str()), ("shape", "shape"))
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
    let shape = Tensor::from_vec(&[2], vec![3i64, -1]).unwrap();
    let options = ImportOptions { bind_inputs: BTreeMap::from([("shape".into(), shape)]), ..ImportOptions::default() };
    let model = import(&file, &options).unwrap();
    assert_eq!(model.graph.inputs.len(), 1);
    let wrong =
        ImportOptions { bind_inputs: BTreeMap::from([("s".into(), Tensor::scalar(1i64))]), ..ImportOptions::default() };
    assert!(matches!(import(&file, &wrong), Err(OnnxError::Option { .. })));
}

#[test]
fn errors_name_node_operator_and_opset() {
    let g = GraphProto {
        node: vec![NodeProto { name: "odd".into(), ..node("Fancy", &["x"], &["y"]) }],
        input: vec![floats("x", &[1])],
        output: vec![floats("y", &[1])],
        ..GraphProto::default()
    };
    let error = import(&file(g.clone(), 17), &ImportOptions::default()).unwrap_err();
    assert!(error.is_unsupported());
    let text = error.to_string();
    assert!(text.contains("'odd'") && text.contains("Fancy") && text.contains("opset 17"), "{text}");
    assert!(matches!(import(&file(g, 99), &ImportOptions::default()), Err(OnnxError::UnsupportedModel { .. })));
}

/// Operator sets before the present ones, whose meaning differs; expected values are worked out by hand.
#[test]
fn old_operator_sets_mean_what_they_meant() {
    let ln = |v: &[f64]| v.iter().map(|x| x.ln()).collect::<Vec<f64>>();
    // Before 13, Softmax is over all axes from `axis` (default 1) on, flattened.
    let y = one_node(11, node("Softmax", &["x"], &["y"]), &[1, 2, 2], &ln(&[1.0, 2.0, 3.0, 4.0]));
    close(&y, &[0.1, 0.2, 0.3, 0.4]);
    let y = one_node(13, node("Softmax", &["x"], &["y"]), &[1, 2, 2], &ln(&[1.0, 3.0, 1.0, 1.0]));
    close(&y, &[0.25, 0.75, 0.5, 0.5]);
    let clip = node("Clip", &["x"], &["y"]).float("min", -1.0).float("max", 1.0);
    close(&one_node(6 + 1, clip, &[3], &[-5.0, 0.5, 5.0]), &[-1.0, 0.5, 1.0]);
    let slice = node("Slice", &["x"], &["y"]).ints("starts", &[1]).ints("ends", &[-1]);
    close(&one_node(9, slice, &[4], &[1.0, 2.0, 3.0, 4.0]), &[2.0, 3.0]);
    let pad = node("Pad", &["x"], &["y"]).ints("pads", &[1, 0]).float("value", 9.0);
    close(&one_node(10, pad, &[2], &[1.0, 2.0]), &[9.0, 1.0, 2.0]);
    let sum = node("ReduceSum", &["x"], &["y"]).ints("axes", &[1]).int("keepdims", 0);
    close(&one_node(11, sum, &[2, 2], &[1.0, 2.0, 3.0, 4.0]), &[3.0, 7.0]);
    let squeeze = node("Squeeze", &["x"], &["y"]).ints("axes", &[0]);
    close(&one_node(11, squeeze, &[1, 2], &[1.0, 2.0]), &[1.0, 2.0]);
    let split = node("Split", &["x"], &["y", "z"]).ints("split", &[1, 2]);
    close(&one_node(11, split, &[3], &[1.0, 2.0, 3.0]), &[1.0]);
    let up = node("Upsample", &["x"], &["y"]).floats("scales", &[1.0, 1.0, 2.0]);
    close(&one_node(8, up, &[1, 1, 2], &[1.0, 2.0]), &[1.0, 1.0, 2.0, 2.0]);
    let top = node("TopK", &["x"], &["y", "i"]).int("k", 1);
    close(&one_node(9, top, &[3], &[1.0, 7.0, 3.0]), &[7.0]);
    close(&one_node(7, node("Dropout", &["x"], &["y"]).float("ratio", 0.5), &[2], &[1.0, 2.0]), &[1.0, 2.0]);
}

/// Operands of integer products are `Dequantize` of their codes, as in a QDQ file; scales that are laid out to broadcast over a
/// batch of matrices have no grid and are written out.
#[test]
fn integer_operators_import_as_grids() {
    let case = |scale_dims: &[usize]| {
        let codes =
            |name: &str, shape: &[usize], v: Vec<u8>| tensor_to_proto(name, &Tensor::from_vec(shape, v).unwrap());
        let scale =
            |name: &str, shape: &[usize], v: Vec<f32>| tensor_to_proto(name, &Tensor::from_vec(shape, v).unwrap());
        let n = scale_dims.iter().product::<usize>();
        let scales = if n == 2 { vec![0.5, 0.25] } else { vec![0.5] };
        let inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"];
        let g = GraphProto {
            node: vec![node("QLinearMatMul", &inputs, &["y"])],
            input: vec![typed("x", ElemType::Uint8, &[1, 2])],
            output: vec![typed("y", ElemType::Uint8, &[1, 2])],
            initializer: vec![
                scale("xs", &[], vec![0.1]),
                codes("xz", &[], vec![10]),
                codes("w", &[2, 2], vec![3, 5, 7, 9]),
                scale("ws", scale_dims, scales),
                codes("wz", scale_dims, vec![1; n]),
                scale("ys", &[], vec![0.05]),
                codes("yz", &[], vec![4]),
            ],
            ..GraphProto::default()
        };
        let model = imported(&file(g, 21), &ImportOptions::default());
        let x = BTreeMap::from([("x".to_string(), Tensor::from_vec(&[1, 2], vec![12u8, 15]).unwrap())]);
        let y = run(&model, &x, &BTreeMap::new(), Precision::Declared).unwrap().outputs["y"].to_f64s();
        (model.graph.nodes().iter().filter(|n| n.op.name() == "Dequantize").count(), y)
    };
    // (2·2 + 5·6)·0.1·0.5 / 0.05 + 4 and (2·4 + 5·8)·0.1·s / 0.05 + 4.
    assert_eq!(case(&[]), (2, vec![38.0, 52.0]));
    assert_eq!(case(&[2]), (2, vec![38.0, 28.0]));
    assert_eq!(case(&[1, 2]), (1, vec![38.0, 28.0]));
}

fn one_node(opset: i64, node: NodeProto, shape: &[usize], x: &[f64]) -> Vec<f64> {
    let dims: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    let g = GraphProto {
        node: vec![node],
        input: vec![floats("x", &dims)],
        output: vec![floats("y", &[])],
        ..GraphProto::default()
    };
    let model = imported(&file(g, opset), &ImportOptions::default());
    let x = Tensor::from_f64s(DType::F32, shape, x.to_vec()).expect("as many values as the shape says");
    let inputs = BTreeMap::from([("x".to_string(), x)]);
    let mut result = run(&model, &inputs, &BTreeMap::new(), Precision::Declared).expect("a sound graph runs");
    result.outputs.remove("y").expect("the output is called y").to_f64s()
}

fn close(have: &[f64], want: &[f64]) {
    assert_eq!(have.len(), want.len(), "{have:?}");
    assert!(have.iter().zip(want).all(|(h, w)| (h - w).abs() < 1e-6), "{have:?}, expected {want:?}");
}

/// y = LayerNorm(table[ids] · tableᵀ + bias + mask + epsilon), then a batch normalization.
fn embedding_model() -> ModelFile {
    let vector = |name: &str, n: usize| tensor_to_proto(name, &tensor(&[n], 0.5));
    let g = GraphProto {
        node: vec![
            NodeProto { name: "lookup".into(), ..node("Gather", &["table", "ids"], &["h"]) },
            node("Transpose", &["table"], &["t"]).ints("perm", &[1, 0]),
            node("MatMul", &["h", "t"], &["m"]),
            node("Add", &["m", "bias"], &["b"]),
            node("Add", &["b", "mask"], &["k"]),
            node("Add", &["k", "epsilon"], &["e"]),
            node("LayerNormalization", &["e", "gamma", "beta"], &["l"]),
            node("BatchNormalization", &["l", "gamma", "beta", "mean", "var"], &["y"]),
        ],
        input: vec![typed("ids", ElemType::Int64, &[3])],
        output: vec![floats("y", &[3, 4])],
        initializer: vec![
            tensor_to_proto("table", &tensor(&[4, 2], 0.25)),
            vector("bias", 4),
            tensor_to_proto("mask", &tensor(&[3, 4], f32::NEG_INFINITY)),
            tensor_to_proto("epsilon", &Tensor::scalar(1e-5f32)),
            vector("gamma", 4),
            vector("beta", 4),
            vector("mean", 4),
            vector("var", 4),
        ],
        ..GraphProto::default()
    };
    file(g, 17)
}

/// y = x reshaped to [shape(x)[0], −1], as PyTorch writes `x.flatten(1)` of a dynamic batch.
fn flatten_by_shape() -> ModelFile {
    let ints = |name: &str, v: Vec<i64>| tensor_to_proto(name, &Tensor::from_vec(&[v.len()], v).expect("a vector"));
    let g = GraphProto {
        node: vec![
            node("Shape", &["x"], &["s"]),
            node("Gather", &["s", "zero"], &["n"]).int("axis", 0),
            node("Concat", &["n", "rest"], &["to"]).int("axis", 0),
            node("Reshape", &["x", "to"], &["y"]),
        ],
        input: vec![ValueInfoProto {
            r#type: kind(ElemType::Float, vec![param("N"), value(3), value(4)]),
            ..floats("x", &[])
        }],
        output: vec![floats("y", &[])],
        initializer: vec![ints("zero", vec![0]), ints("rest", vec![-1])],
        ..GraphProto::default()
    };
    file(g, 17)
}

fn imported(file: &ModelFile, options: &ImportOptions) -> Model {
    import(file, options).expect("a sound model imports")
}

fn round_trip(model: &Model) -> Model {
    let proto = export(model).expect("a canonical graph exports");
    let file = read_model_bytes(proto.encode_to_vec(), "again.onnx").expect("what was written is readable");
    imported(&file, &ImportOptions::default())
}

fn tensor(shape: &[usize], v: f32) -> Tensor {
    Tensor::from_vec(shape, vec![v; shape.iter().product()]).expect("as many values as the shape says")
}

fn file(graph: GraphProto, opset: i64) -> ModelFile {
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: opset }];
    let model = ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() };
    read_model_bytes(model.encode_to_vec(), "test.onnx").expect("a readable model")
}

fn floats(name: &str, shape: &[i64]) -> ValueInfoProto {
    typed(name, ElemType::Float, shape)
}

fn typed(name: &str, elem: ElemType, shape: &[i64]) -> ValueInfoProto {
    let r#type = kind(elem, shape.iter().map(|&d| value(d)).collect());
    ValueInfoProto { name: name.into(), r#type, ..ValueInfoProto::default() }
}

fn kind(elem: ElemType, dim: Vec<DimensionProto>) -> Option<TypeProto> {
    let tensor = TensorTypeProto { elem_type: elem as i32, shape: Some(TensorShapeProto { dim }) };
    Some(TypeProto { value: Some(ValueType::Tensor(tensor)) })
}

fn value(d: i64) -> DimensionProto {
    DimensionProto { value: Some(DimensionValue::Value(d)) }
}

fn param(name: &str) -> DimensionProto {
    DimensionProto { value: Some(DimensionValue::Param(name.into())) }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(|n| n.to_string()).collect();
    NodeProto { op_type: op.into(), input: names(inputs), output: names(outputs), ..NodeProto::default() }
}

trait With: Sized {
    fn with(self, attribute: AttributeProto) -> Self;

    fn int(self, name: &str, i: i64) -> Self {
        self.with(AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) })
    }

    fn ints(self, name: &str, ints: &[i64]) -> Self {
        self.with(AttributeProto { ints: ints.to_vec(), ..attribute(name, AttributeType::Ints) })
    }

    fn float(self, name: &str, f: f32) -> Self {
        self.with(AttributeProto { f: Some(f), ..attribute(name, AttributeType::Float) })
    }

    fn floats(self, name: &str, floats: &[f32]) -> Self {
        self.with(AttributeProto { floats: floats.to_vec(), ..attribute(name, AttributeType::Floats) })
    }
}

impl With for NodeProto {
    fn with(mut self, attribute: AttributeProto) -> NodeProto {
        self.attribute.push(attribute);
        self
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: kind as i32, ..AttributeProto::default() }
}
