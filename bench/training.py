"""The training steps that compare_train.py measures: the same network, batch, loss and optimizer for Penjing and PyTorch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEED = 4
CLASSES, VOCABULARY = 10, 256


@dataclass(frozen=True)
class Step:
    """One training step; cross-entropy over classes, or over the next byte at each position."""

    name: str
    title: str
    network: tuple[str, ...]  # `penjing new`: the name and its options
    optimizer: str  # sgd: Nesterov's momentum 0.9, weight decay 5e-4; adamw: PyTorch's defaults
    shape: tuple[int, ...]

    @property
    def batch(self) -> int:
        """Examples in a step."""
        return self.shape[0]

    @property
    def input(self) -> str:
        """What `penjing new` calls the network's input."""
        return "x" if len(self.shape) == 4 else "tokens"

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Seeded inputs and labels."""
        rng = np.random.default_rng(SEED)
        if len(self.shape) == 4:
            return rng.standard_normal(self.shape, dtype=np.float32), rng.integers(CLASSES, size=self.batch)
        return rng.integers(VOCABULARY, size=self.shape), rng.integers(VOCABULARY, size=self.shape)

    def save(self, folder: Path) -> dict[str, Path]:
        """The input as a file, by its name; `penjing bench` draws labels by itself."""
        np.save(folder / "input.npy", self.data()[0])
        return {self.input: folder / "input.npy"}


STEPS = [
    Step("simplecnn", "SimpleCNN, 24×24, batch 64", ("simple-cnn",), "sgd", (64, 3, 24, 24)),
    Step("resnet20", "ResNet-20, 32×32, batch 64", ("resnet-20",), "sgd", (64, 3, 32, 32)),
    Step("lstm", "LSTM 2×512, 64 steps, batch 16", ("lstm", "--width", "512", "--depth", "2"), "adamw", (16, 64)),
    Step("gpt", "GPT 6×256, 128 tokens, batch 8", ("gpt", "--width", "256", "--depth", "6"), "adamw", (8, 128)),
]
