//! A program is found again by the shapes of its inputs, whatever the order in which they come.

use penjing_exec::Target;
use penjing_ir::text::parse;
use penjing_tensor::Tensor;
use penjing_train::Inference;

fn run(inference: &mut Inference, inputs: &[(&str, &Tensor)]) -> (Vec<usize>, Vec<f32>) {
    let outputs = inference.run(inputs).unwrap();
    let y = &outputs[0].1;
    (y.shape().to_vec(), y.as_slice::<f32>().unwrap().to_vec())
}

#[test]
fn a_model_without_free_extents_keeps_its_weights() {
    let model = parse(
        "model\ngraph \"g\"\n  inputs %0 %1\n  %0 \"a\" f32[1, 2] = input\n  %1 \"b\" f32[1, 1] = input\n  \
         %2 \"w\" f32[2, 1] = [10.0, 1.0]\n  %3 f32[1, 1] = \"m\" MatMul(%0, %2) trans_a=false trans_b=false\n  \
         %4 f32[1, 1] = \"s\" Add(%3, %1)\n  output \"y\" %4\n",
    )
    .unwrap();
    let mut inference = Inference::new(&model, Target::host(1)).unwrap();
    let a = Tensor::from_vec(&[1, 2], vec![2.0f32, 3.0]).unwrap();
    let b = Tensor::from_vec(&[1, 1], vec![0.5f32]).unwrap();
    for inputs in [[("a", &a), ("b", &b)], [("b", &b), ("a", &a)]] {
        assert_eq!(run(&mut inference, &inputs), (vec![1, 1], vec![23.5]));
    }
    assert!(inference.run(&[("a", &b), ("b", &a)]).is_err(), "shapes of other inputs");
    assert!(inference.run(&[("a", &a)]).is_err(), "an input too few");
    assert_eq!(run(&mut inference, &[("a", &a), ("b", &b)]).1, [23.5]);
}

#[test]
fn shapes_belong_to_names() {
    let model = parse(
        "model\ngraph \"g\"\n  inputs %0 %1\n  %0 \"a\" f32[N, K] = input\n  %1 \"b\" f32[K, M] = input\n  \
         %2 f32[N, M] = \"m\" MatMul(%0, %1) trans_a=false trans_b=false\n  output \"y\" %2\n",
    )
    .unwrap();
    let mut inference = Inference::new(&model, Target::host(1)).unwrap();
    let wide = Tensor::from_vec(&[1, 2], vec![2.0f32, 3.0]).unwrap();
    let tall = Tensor::from_vec(&[2, 1], vec![5.0f32, 7.0]).unwrap();
    assert_eq!(run(&mut inference, &[("a", &wide), ("b", &tall)]), (vec![1, 1], vec![31.0]));
    let outer = (vec![2, 2], vec![10.0, 15.0, 14.0, 21.0]);
    assert_eq!(run(&mut inference, &[("b", &wide), ("a", &tall)]), outer);
}
