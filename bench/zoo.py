"""Exports networks with seeded random weights to ONNX and lets ONNX Runtime compute what each should answer.

For every `<name>.onnx` in the output folder there are `<name>.inputs.npz` and `<name>.expected.npz` (keys: the graph's input and
output names; values by ONNX Runtime with its graph optimizer off). import_check.py runs `penjing` on them.
"""

import argparse
import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchvision
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from networks import ResNetCifar, SimpleCnn

OUT = Path(__file__).parent / "out" / "zoo"
NEWEST_OPSET = 25
Axes = dict[str, dict[int, str]]


@dataclass(frozen=True)
class Entry:
    """A network, the inputs it is traced with, and those it is later run with where its axes are dynamic."""

    name: str
    build: Callable[[], nn.Module]
    inputs: dict[str, Tensor]
    outputs: list[str]
    axes: Axes = field(default_factory=dict)
    run_inputs: dict[str, Tensor] | None = None


class Bert(nn.Module):
    """BertModel with positional inputs and two outputs."""

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, attention: str) -> None:
        super().__init__()
        config = BertConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
            vocab_size=vocabulary, attn_implementation=attention)
        self.bert = BertModel(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return answer.last_hidden_state, answer.pooler_output


class Gpt2(nn.Module):
    """GPT-2 with its language-model head, no cache: tokens [N, T] → logits [N, T, V], or those of the last `keep` positions."""

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, attention: str, keep: int = 0) -> None:
        super().__init__()
        config = GPT2Config(
            n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocabulary, n_positions=256, bos_token_id=0,
            eos_token_id=0, use_cache=False, attn_implementation=attention)
        self.gpt2 = GPT2LMHeadModel(config)
        self.keep = keep

    def forward(self, input_ids: Tensor) -> Tensor:
        # Without a mask, transformers looks for packed sequences with `diff`, which opset 17 cannot say.
        return self.gpt2(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), logits_to_keep=self.keep).logits


class Recurrent(nn.Module):
    """A recurrent stack with all three of its usual results: sequence, last hidden state, last cell state (LSTM only)."""

    def __init__(
        self, kind: type[nn.LSTM] | type[nn.GRU], batch_first: bool, bidirectional: bool, width_in: int = 40, width: int = 64,
    ) -> None:
        super().__init__()
        self.rnn = kind(width_in, width, num_layers=2, batch_first=batch_first, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        sequence, state = self.rnn(x)
        return (sequence, *state) if isinstance(state, tuple) else (sequence, state)


def images(*shape: int) -> dict[str, Tensor]:
    """One image batch, normal noise."""
    return {"input": torch.randn(*shape)}


def text(batch: int, length: int, vocabulary: int) -> dict[str, Tensor]:
    """BERT's three inputs; the last row is padded from its middle on."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length // 2 :] = 0
    return {
        "input_ids": torch.randint(vocabulary, (batch, length)),
        "attention_mask": mask,
        "token_type_ids": torch.arange(length).ge(length // 3).long().expand(batch, length).contiguous(),
    }


def entries(full: bool) -> list[Entry]:
    """The zoo; `full` adds BERT-base and the twelve-layer GPT-2 (0.4 GB each)."""
    batch_time = {0: "batch", 1: "time"}
    bert_axes: Axes = {name: batch_time for name in ("input_ids", "attention_mask", "token_type_ids")}
    bert_out = ["last_hidden_state", "pooler_output"]
    lstm_out = ["sequence", "hidden", "cell"]
    zoo = [
        Entry("simplecnn", SimpleCnn, images(2, 3, 24, 24), ["logits"]),
        Entry("simplecnn-dynamic", SimpleCnn, images(2, 3, 24, 24), ["logits"], {"input": {0: "batch"}}, images(5, 3, 24, 24)),
        Entry("resnet20", lambda: ResNetCifar(20), images(2, 3, 32, 32), ["logits"]),
        Entry("resnet18", torchvision.models.resnet18, images(1, 3, 224, 224), ["logits"]),
        Entry("mobilenet_v2", torchvision.models.mobilenet_v2, images(1, 3, 96, 96), ["logits"]),
        Entry("bert2", lambda: Bert(2, 128, 2, 1000, "sdpa"), text(2, 16, 1000), bert_out),
        Entry("bert2-eager", lambda: Bert(2, 128, 2, 1000, "eager"), text(2, 16, 1000), bert_out),
        Entry("bert2-dynamic", lambda: Bert(2, 128, 2, 1000, "sdpa"), text(2, 16, 1000), bert_out, bert_axes, text(3, 21, 1000)),
        Entry("gpt2-2", lambda: Gpt2(2, 128, 4, 1000, "sdpa"), gpt_tokens(2, 16, 1000), ["logits"]),
        Entry("gpt2-2-eager", lambda: Gpt2(2, 128, 4, 1000, "eager"), gpt_tokens(2, 16, 1000), ["logits"]),
        Entry("gpt2-2-dynamic", lambda: Gpt2(2, 128, 4, 1000, "sdpa"), gpt_tokens(2, 16, 1000), ["logits"],
              {"input_ids": batch_time}, gpt_tokens(3, 21, 1000)),
        Entry("lstm2", lambda: Recurrent(nn.LSTM, False, False), {"input": torch.randn(12, 3, 40)}, lstm_out),
        Entry("lstm2-batch-first", lambda: Recurrent(nn.LSTM, True, False), {"input": torch.randn(3, 12, 40)}, lstm_out),
        Entry("lstm2-bidirectional", lambda: Recurrent(nn.LSTM, True, True), {"input": torch.randn(3, 12, 40)}, lstm_out),
        Entry("gru2", lambda: Recurrent(nn.GRU, True, False), {"input": torch.randn(3, 12, 40)}, ["sequence", "hidden"]),
    ]
    if full:
        zoo += [
            Entry("bert-base", lambda: Bert(12, 768, 12, 30522, "sdpa"), text(1, 128, 30522), bert_out),
            Entry("gpt2-12", lambda: Gpt2(12, 768, 12, 50257, "sdpa"), gpt_tokens(1, 128, 50257), ["logits"]),
        ]
    return zoo


def gpt_tokens(batch: int, length: int, vocabulary: int) -> dict[str, Tensor]:
    """Random tokens."""
    return {"input_ids": torch.randint(vocabulary, (batch, length))}


def build(entry: Entry) -> nn.Module:
    """The network in eval mode, weights and running statistics seeded."""
    torch.manual_seed(0)
    model = entry.build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.1)
    return model


def export_torchscript(entry: Entry, model: nn.Module, path: Path, opset: int = 17, keep_batch_norm: bool = False) -> None:
    """The TorchScript exporter; `keep_batch_norm` stops it from folding BatchNorm into convolutions."""
    training = torch.onnx.TrainingMode.PRESERVE if keep_batch_norm else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        model, tuple(entry.inputs.values()), path, dynamo=False, opset_version=opset, training=training,
        input_names=list(entry.inputs), output_names=entry.outputs, dynamic_axes=entry.axes or None)


def export_dynamo(entry: Entry, model: nn.Module, path: Path, opset: int | None = None, external: bool = False) -> None:
    """The newer exporter; `external` puts the weights into `<path>.data`."""
    shapes = {name: {axis: torch.export.Dim.DYNAMIC for axis in entry.axes.get(name, {})} for name in entry.inputs}
    torch.onnx.export(
        model, tuple(entry.inputs.values()), path, dynamo=True, opset_version=opset, external_data=external, verbose=False,
        input_names=list(entry.inputs), output_names=entry.outputs,
        dynamic_shapes=tuple(shapes.values()) if entry.axes else None)


def expected(path: Path, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """ONNX Runtime's outputs by name, graph optimizer off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feeds = {name: value.numpy() for name, value in inputs.items()}
    return dict(zip(names, session.run(names, feeds), strict=True))


def write(entry: Entry, model: nn.Module, export: Callable[[Entry, nn.Module, Path], None], path: Path) -> str:
    """One file with its inputs and expected outputs; returns a line for the table."""
    path.unlink(missing_ok=True)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            export(entry, model, path)
    except Exception as error:  # noqa: BLE001 - an exporter may fail in any way; the table says so
        path.unlink(missing_ok=True)
        return f"{path.name:38} not exported: {type(error).__name__}: {str(error).splitlines()[0][:90]}"
    inputs = entry.run_inputs or entry.inputs
    answers = expected(path, inputs)
    with torch.no_grad():
        own = model(*inputs.values())
    own = own if isinstance(own, tuple) else (own,)
    difference = max(np.abs(a - o.numpy()).max() / np.abs(o.numpy()).max() for a, o in zip(answers.values(), own, strict=True))
    stem = str(path.with_suffix(""))
    np.savez(f"{stem}.inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
    np.savez(f"{stem}.expected.npz", **answers)
    return f"{path.name:38} {path.stat().st_size / 1e6:8.2f} MB   ONNX Runtime against PyTorch {difference:.1e}"


def variants(entry: Entry) -> dict[str, Callable[[Entry, nn.Module, Path], None]]:
    """Which exporters a network goes through. Opset 13 has no LayerNormalization: it comes decomposed."""
    ways: dict[str, Callable[[Entry, nn.Module, Path], None]] = {
        "ts17": export_torchscript,
        "dynamo": export_dynamo,
        f"dynamo{NEWEST_OPSET}": partial(export_dynamo, opset=NEWEST_OPSET),
    }
    if entry.name in ("resnet18", "resnet20"):
        ways["ts17-bn"] = partial(export_torchscript, keep_batch_norm=True)
        ways["dynamo-external"] = partial(export_dynamo, external=True)
    if entry.name in ("bert2-eager", "gpt2-2-eager"):
        ways["ts13"] = partial(export_torchscript, opset=13)
    return ways


def main() -> None:
    """Writes the zoo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", default="", help="only networks whose name contains this")
    parser.add_argument("--full", action="store_true", help="also BERT-base and the twelve-layer GPT-2")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)
    torch.manual_seed(1)
    for entry in entries(args.full):
        if args.only in entry.name:
            for variant, export in variants(entry).items():
                print(write(entry, build(entry), export, args.out / f"{entry.name}-{variant}.onnx"), flush=True)


if __name__ == "__main__":
    main()
