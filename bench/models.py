"""The models that Penjing and its peers are measured on, exported to ONNX opset 17 with static shapes.

For every `<name>.onnx` in the output folder there are `<name>.inputs.npz` and `<name>.expected.npz`, as zoo.py writes them, and
`<name>.pt`, the module itself for PyTorch.
Weights are random and seeded, drawn as torchvision and transformers draw them; statistics of batch norms are those of seeded
noise, and are folded into the convolutions, so that activations keep their scale from layer to layer.
"""

import argparse
import logging
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from networks import ResNetCifar, SimpleCnn
from zoo import Bert, Entry, Gpt2, Recurrent, build, export_torchscript, gpt_tokens, images, text, write

OUT = Path(__file__).parent / "out" / "models"
BERT_VOCABULARY, GPT_VOCABULARY, SEQUENCE = 30522, 50257, 128
SETTLING_BATCHES = 4
SETTLING_SIZE = 16


class Vit(nn.Module):
    """ViT-S/16: x [N, 3, 224, 224] → logits [N, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        config = ViTConfig(
            hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, num_labels=1000,
            attn_implementation="sdpa")
        self.vit = ViTForImageClassification(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(pixel_values=x).logits


def entries() -> list[Entry]:
    """The models, one entry a batch size."""
    bert_out = ["last_hidden_state", "pooler_output"]
    zoo = []
    for batch in (1, 64):
        zoo += [
            Entry(f"simplecnn-b{batch}", SimpleCnn, images(batch, 3, 24, 24), ["logits"]),
            Entry(f"resnet20-b{batch}", lambda: ResNetCifar(20), images(batch, 3, 32, 32), ["logits"]),
            Entry(f"resnet56-b{batch}", lambda: ResNetCifar(56), images(batch, 3, 32, 32), ["logits"]),
        ]
    return [
        *zoo,
        Entry("mobilenetv2-b1", torchvision.models.mobilenet_v2, images(1, 3, 224, 224), ["logits"]),
        Entry("resnet50-b1", torchvision.models.resnet50, images(1, 3, 224, 224), ["logits"]),
        Entry("resnet50-b8", torchvision.models.resnet50, images(8, 3, 224, 224), ["logits"]),
        Entry("vits16-b1", Vit, images(1, 3, 224, 224), ["logits"]),
        Entry("bert-b1", lambda: Bert(12, 768, 12, BERT_VOCABULARY, "sdpa"), text(1, SEQUENCE, BERT_VOCABULARY), bert_out),
        Entry("minilm-b1", lambda: Bert(6, 384, 12, BERT_VOCABULARY, "sdpa"), text(1, SEQUENCE, BERT_VOCABULARY), bert_out),
        Entry("gpt2-b1", lambda: Gpt2(12, 768, 12, GPT_VOCABULARY, "sdpa", keep=1), gpt_tokens(1, SEQUENCE, GPT_VOCABULARY),
              ["logits"]),
        Entry("lstm2-b1", lambda: Recurrent(nn.LSTM, False, False, 512, 512), {"input": torch.randn(64, 1, 512)},
              ["sequence", "hidden", "cell"]),
    ]


def settle_batch_norms(model: nn.Module, example: Tensor) -> None:
    """Running statistics become the averages over a few seeded batches of noise."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    torch.manual_seed(2)
    with torch.no_grad():
        for _ in range(SETTLING_BATCHES):
            model(torch.randn(SETTLING_SIZE, *example.shape[1:]))
    model.eval()


def write_model(entry: Entry, out: Path) -> str:
    """One model's files; returns a line for the table."""
    model = build(entry)
    settle_batch_norms(model, next(iter(entry.inputs.values())))
    torch.save(model, out / f"{entry.name}.pt")
    return write(entry, model, export_torchscript, out / f"{entry.name}.onnx")


def write_missing(out: Path, only: str = "") -> list[str]:
    """Writes the models that are not there yet; returns the names of all."""
    out.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)
    torch.manual_seed(1)
    names = []
    for entry in entries():
        if only not in entry.name:
            continue
        names.append(entry.name)
        if not all((out / f"{entry.name}{ending}").is_file() for ending in (".pt", ".expected.npz")):
            print(write_model(entry, out), flush=True)
    return names


def main() -> None:
    """Writes the models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", default="", help="only models whose name contains this")
    args = parser.parse_args()
    names = write_missing(args.out, args.only)
    print(f"{len(names)} models in {args.out}: {' '.join(names)}")


if __name__ == "__main__":
    main()
