"""Training speed of SimpleCNN on CIFAR-10 crops of 24, batch 64, SGD with Nesterov momentum: Penjing against PyTorch.

The two take turns (A B A B …) in one run, so that the wander of a shared machine hits both. Each figure is of the training step
alone (forward, backward, update); data are prepared outside the clock. Reported: the ratio of the medians, and the fraction of
the machine's fused-multiply-add peak, which `penjing bench` measures, for both and for each layer of Penjing.
"""

import argparse
import io
import os
import statistics
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from networks import SimpleCnn
from penjing import ROOT, PenjingError, add_binary_argument, bench_training, require_binary

OUT = Path(__file__).parent / "out"
CROP = 24
WARM_UP = 5
# Multiply-adds an image: conv1 32·27·24², conv2 64·288·12², fc1 2304·128, fc2 128·10. A training step does each three times
# (forward, weight gradient, input gradient), but for conv1's input gradient; an FMA is two operations.
FORWARD_MACS = {"conv1": 32 * 27 * 576, "conv2": 64 * 288 * 144, "fc1": 2304 * 128, "fc2": 1280}
STEP_FLOP = 2 * (3 * sum(FORWARD_MACS.values()) - FORWARD_MACS["conv1"])


@dataclass(frozen=True)
class Images:
    """x [N, 3, 32, 32] in −1 … 1, y [N]."""

    x: np.ndarray
    y: np.ndarray

    def batches(self, count: int, size: int, rng: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
        """Random crops, mirrored half of the time."""
        return [self.batch(size, rng) for _ in range(count)]

    def batch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One batch."""
        picks = rng.integers(len(self.x), size=size)
        corners = rng.integers(32 - CROP + 1, size=(size, 2))
        crops = np.stack([self.x[i, :, r : r + CROP, c : c + CROP] for i, (r, c) in zip(picks, corners, strict=True)])
        mirrored = rng.random(size) < 0.5
        crops[mirrored] = crops[mirrored, :, :, ::-1]
        return torch.from_numpy(crops), torch.from_numpy(self.y[picks])


def default_data() -> Path:
    """PENJING_TEST_DATA, or the folder shared between checkouts."""
    return Path(os.environ.get("PENJING_TEST_DATA", ROOT.parent / "shared" / "data")) / "cifar10"


def load_images(folder: Path) -> Images:
    """The first row group of the training file."""
    path = folder / "train-00000-of-00001.parquet"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: name the folder of CIFAR-10's Parquet files with --data or PENJING_TEST_DATA")
    table = pyarrow.parquet.ParquetFile(path).read_row_group(0)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in table["img"].to_pylist()])
    x = (pixels.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2)
    return Images(np.ascontiguousarray(x), table["label"].to_numpy().astype(np.int64))


class PyTorchTrainer:
    """SimpleCNN and its optimizer, kept from round to round."""

    def __init__(self, rate: float) -> None:
        torch.manual_seed(0)
        self.model = SimpleCnn()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.loss = float("nan")

    def images_per_second(self, batches: list[tuple[Tensor, Tensor]]) -> float:
        """Speed over all batches but the first WARM_UP."""
        for x, y in batches[:WARM_UP]:
            self.step(x, y)
        timed = batches[WARM_UP:]
        start = time.perf_counter()
        for x, y in timed:
            self.step(x, y)
        return sum(len(y) for _, y in timed) / (time.perf_counter() - start)

    def step(self, x: Tensor, y: Tensor) -> None:
        """Forward, backward, update."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.loss = loss.item()


def export_model(path: Path) -> None:
    """The network as ONNX, any batch size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model: nn.Module = SimpleCnn().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(2, 3, CROP, CROP),), path, dynamo=False, opset_version=17, input_names=["input"],
            output_names=["logits"], dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}})


def print_layers(layers: list[dict]) -> None:
    """Penjing's own profile of one step."""
    print(f"\n{'layer':24}{'kernel':32}{'ms':>8}{'of peak':>9}")
    for layer in layers:
        fraction = layer.get("fraction_of_peak")
        shown = f"{fraction:.0%}" if fraction is not None else "-"
        print(f"{layer['name']:24}{layer['kernel']:32}{layer['ms']:>8.3f}{shown:>9}")


def main() -> int:
    """Runs the rounds and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_data(), help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="timed steps of each side in a round")
    parser.add_argument("--min-ratio", type=float, default=0.0, help="exit 1 when Penjing / PyTorch is below this")
    add_binary_argument(parser)
    args = parser.parse_args()
    binary = require_binary(args.penjing)
    images = load_images(args.data)
    torch.set_num_threads(args.threads)
    model = OUT / "simplecnn.onnx"
    export_model(model)
    rng = np.random.default_rng(0)
    trainer = PyTorchTrainer(rate=0.05)
    peer: list[float] = []
    reports: list[dict] = []
    for turn in range(args.rounds):
        peer.append(trainer.images_per_second(images.batches(args.steps + WARM_UP, args.batch, rng)))
        try:
            reports.append(bench_training(binary, model, args.batch, args.threads, args.steps))
        except PenjingError as error:
            raise SystemExit(f"penjing bench failed: {error}") from error
        own = reports[-1]["images_per_s"]
        theirs = f"PyTorch {peer[-1]:7.0f} images/s (loss {trainer.loss:.3f})"
        print(f"round {turn + 1}: {theirs}, Penjing {own:7.0f} images/s", flush=True)
    peak = statistics.median(report["fma_peak_gflops"] for report in reports)
    peer_speed = statistics.median(peer)
    own_speed = statistics.median(report["images_per_s"] for report in reports)
    print(f"\nmedian of {args.rounds}, batch {args.batch}, {args.threads} threads; FMA peak {peak:.0f} GFLOP/s")
    for name, speed in [(f"PyTorch {torch.__version__}", peer_speed), ("Penjing", own_speed)]:
        print(f"{name:24}{speed:8.0f} images/s{speed * STEP_FLOP / 1e9 / peak:8.1%} of peak")
    print(f"Penjing / PyTorch {own_speed / peer_speed:.2f}")
    print_layers(sorted(reports, key=lambda report: report["images_per_s"])[len(reports) // 2]["per_layer"])
    return int(own_speed / peer_speed < args.min_ratio)


if __name__ == "__main__":
    sys.exit(main())
