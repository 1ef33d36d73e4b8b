"""The four small networks of the goldens, in plain PyTorch, and the integer hash that fills their weights."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fnv1a32(text: str) -> int:
    """FNV-1a of the UTF-8 bytes, 32 bits."""
    digest = 0x811C9DC5
    for byte in text.encode():
        digest = ((digest ^ byte) * 0x01000193) & 0xFFFFFFFF
    return digest


def hash32(name: str, count: int) -> np.ndarray:
    """`count` 32-bit words that depend on (name, index) alone: MurmurHash3's finalizer of index·0x9E3779B1 + fnv1a32(name)."""
    word = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(fnv1a32(name))
    word ^= word >> np.uint32(16)
    word *= np.uint32(0x85EBCA6B)
    word ^= word >> np.uint32(13)
    word *= np.uint32(0xC2B2AE35)
    word ^= word >> np.uint32(16)
    return word


def uniform(name: str, shape: tuple[int, ...], bound: float, offset: float = 0.0) -> np.ndarray:
    """offset + bound·(2u − 1) in f32, where u = (hash >> 8) / 2²⁴: each of the two operations rounds once."""
    word = hash32(name, math.prod(shape)) >> np.uint32(8)
    centred = word.astype(np.float32) / np.float32(2**23) - np.float32(1)
    return (np.float32(offset) + np.float32(bound) * centred).reshape(shape)


def integers(name: str, shape: tuple[int, ...], below: int) -> np.ndarray:
    """hash mod `below`, as int64."""
    return (hash32(name, math.prod(shape)) % np.uint32(below)).astype(np.int64).reshape(shape)


class SimpleCnn(nn.Module):
    """x [N, 3, 24, 24] → logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 6 * 6, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class LstmClassifier(nn.Module):
    """x [N, 10, 12] → two LSTM layers of 24 → last hidden state → logits [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(x)
        return self.head(hidden[:, -1])


class Attention(nn.Module):
    """Multi-head attention written out: softmax(q·kᵀ/√d + mask)·v."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        q, k, v = (proj(x).reshape(split).transpose(1, 2) for proj in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        if self.causal:
            future = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Pre-norm Transformer block: x + attn(norm1(x)), then x + down(gelu(up(norm2(x))))."""

    def __init__(self, width: int, heads: int, ffn: int, causal: bool, gelu: str) -> None:
        super().__init__()
        self.gelu = gelu
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, ffn)
        self.down = nn.Linear(ffn, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate=self.gelu))


class Encoder(nn.Module):
    """tokens [N, 12] → token + position embedding → 2 blocks (GELU with erf) → norm → mean over time → logits [N, 7]."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 32)
        self.positions = nn.Embedding(12, 32)
        self.layers = nn.ModuleList(Block(32, 4, 64, causal=False, gelu="none") for _ in range(2))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


class Decoder(nn.Module):
    """tokens [N, 12] → 2 causal blocks (GELU with tanh) → norm → logits [N, 12, 50] through the token embedding, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 32)
        self.positions = nn.Embedding(12, 32)
        self.layers = nn.ModuleList(Block(32, 4, 128, causal=True, gelu="tanh") for _ in range(2))
        self.norm = nn.LayerNorm(32)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.tokens.weight)


def initial_value(module: nn.Module, name: str) -> tuple[float, float]:
    """(offset, bound) of a parameter: 1/√fan_in of its layer (1/√hidden in an LSTM), LayerNorm around its usual 1 and 0."""
    if isinstance(module, nn.LayerNorm):
        return (1.0 if name == "weight" else 0.0), 0.25
    if isinstance(module, nn.Embedding):
        return 0.0, 0.5
    if isinstance(module, nn.LSTM):
        return 0.0, 1 / math.sqrt(module.hidden_size)
    fan_in = math.prod(module.weight.shape[1:])
    return 0.0, 1 / math.sqrt(fan_in)


def fill(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Sets every parameter from the hash of its own name; returns each one's (offset, bound), in parameter order."""
    recipe: dict[str, tuple[float, float]] = {}
    with torch.no_grad():
        for path, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                full = f"{path}.{name}"
                offset, bound = initial_value(module, name)
                parameter.copy_(torch.from_numpy(uniform(full, tuple(parameter.shape), bound, offset)))
                recipe[full] = (offset, bound)
    return recipe
