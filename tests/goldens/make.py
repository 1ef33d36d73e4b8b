"""Makes the PyTorch goldens beside this file: `bench/.venv/bin/python tests/goldens/make.py`. See README.md for the keys.

All arithmetic runs in float64 on weights and inputs that are exact in float32, so that a golden carries no rounding of its own;
the same run in float32 must agree to FLOAT32_AGREES, or the case is too badly conditioned to be a golden and this fails.
"""

import argparse
import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from models import Decoder, Encoder, LstmClassifier, SimpleCnn, fill, integers, uniform

FLOAT32_AGREES = 2e-5
STEPS = 10
FULL_BELOW = 20_000
SAMPLES = 2_000

Arrays = dict[str, np.ndarray]
Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "sgd_heavyball": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
}


@dataclass(frozen=True)
class Case:
    """A network, its fixed batch and its loss."""

    name: str
    model: nn.Module
    inputs: np.ndarray
    labels: np.ndarray
    loss: Loss
    export: bool


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of position t's logits against token t + 1, mean over all of them."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def cases() -> list[Case]:
    """The four networks with their batches."""
    unit_variance = 3**0.5
    tokens = integers("decoder.inputs", (3, 12), 50)
    return [
        Case("simplecnn", SimpleCnn(), uniform("simplecnn.inputs", (8, 3, 24, 24), 1.0),
             integers("simplecnn.labels", (8,), 10), F.cross_entropy, export=False),
        Case("lstm", LstmClassifier(), uniform("lstm.inputs", (6, 10, 12), unit_variance),
             integers("lstm.labels", (6,), 5), F.cross_entropy, export=True),
        Case("encoder", Encoder(), integers("encoder.inputs", (4, 12), 50),
             integers("encoder.labels", (4,), 7), F.cross_entropy, export=True),
        Case("decoder", Decoder(), tokens, tokens, next_token_loss, export=True),
    ]


def train(case: Case, dtype: torch.dtype, make: MakeOptimizer) -> tuple[list[float], list[float]]:
    """Losses before each of the ten updates on the fixed batch, and every parameter's L2 norm after the last update."""
    model = copy.deepcopy(case.model).to(dtype)
    x, y = batch(case, dtype)
    optimizer = make(list(model.parameters()))
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = case.loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.detach().double().norm().item() for p in model.parameters()]


def batch(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The batch, floating-point inputs in `dtype`."""
    x = torch.from_numpy(case.inputs)
    return (x.to(dtype) if x.is_floating_point() else x), torch.from_numpy(case.labels)


def first_step(case: Case, dtype: torch.dtype) -> tuple[np.ndarray, float, dict[str, np.ndarray]]:
    """Logits, loss and the gradient of every parameter at the initial weights, as float64."""
    model = copy.deepcopy(case.model).to(dtype)
    x, y = batch(case, dtype)
    logits = model(x)
    loss = case.loss(logits, y)
    loss.backward()
    grads = {name: p.grad.double().numpy() for name, p in model.named_parameters()}
    return logits.detach().double().numpy(), loss.item(), grads


def agree(what: str, narrow: np.ndarray | float, wide: np.ndarray | float, floor: float) -> None:
    """Fails when float32 and float64 differ by more than FLOAT32_AGREES of the largest value (at least `floor`)."""
    error = np.abs(np.asarray(narrow) - np.asarray(wide)).max() / max(np.abs(wide).max(), floor)
    if not error <= FLOAT32_AGREES:
        raise SystemExit(f"{what}: float32 and float64 differ by {error:.1e}, more than {FLOAT32_AGREES:.0e}: ill-conditioned")


def parameter_arrays(case: Case, recipe: dict[str, tuple[float, float]]) -> Arrays:
    """Names, recipe and shapes of the parameters in PyTorch's order, and the values of the small ones."""
    parameters = dict(case.model.named_parameters())
    arrays: Arrays = {
        "names": np.frombuffer("\n".join(parameters).encode(), np.uint8),
        "offset": np.array([recipe[n][0] for n in parameters], np.float32),
        "bound": np.array([recipe[n][1] for n in parameters], np.float32),
    }
    for name, parameter in parameters.items():
        arrays[f"shape/{name}"] = np.array(parameter.shape, np.int64)
        if parameter.numel() < FULL_BELOW:
            arrays[f"param/{name}"] = parameter.detach().numpy()
    return arrays


def gradient_arrays(grads: dict[str, np.ndarray]) -> Arrays:
    """Small gradients whole, large ones as a strided sample; the sum and L2 norm of every one."""
    arrays: Arrays = {
        "grad_sum": np.array([g.sum() for g in grads.values()]),
        "grad_l2": np.array([np.linalg.norm(g) for g in grads.values()]),
    }
    for name, grad in grads.items():
        if grad.size < FULL_BELOW:
            arrays[f"grad/{name}"] = grad.astype(np.float32)
        else:
            stride = grad.size // SAMPLES
            arrays[f"grad_stride/{name}"] = np.array([stride], np.int64)
            arrays[f"grad_sample/{name}"] = grad.reshape(-1)[: stride * SAMPLES : stride].astype(np.float32)
    return arrays


def model_golden(case: Case) -> Arrays:
    """Everything that is stored of one network."""
    recipe = fill(case.model)
    logits, loss, grads = first_step(case, torch.float64)
    logits32, loss32, grads32 = first_step(case, torch.float32)
    agree(f"{case.name} logits", logits32, logits, floor=0.0)
    agree(f"{case.name} loss", loss32, loss, floor=0.0)
    largest = max(np.abs(g).max() for g in grads.values())
    for name, grad in grads.items():
        agree(f"{case.name} gradient of {name}", grads32[name], grad, floor=1e-3 * largest)
    arrays = {
        "inputs": case.inputs,
        "labels": case.labels,
        "logits": logits.astype(np.float32),
        "loss": np.array([loss]),
        **parameter_arrays(case, recipe),
        **gradient_arrays(grads),
    }
    for optimizer, make in OPTIMIZERS.items():
        losses, norms = train(case, torch.float64, make)
        agree(f"{case.name} {optimizer}", np.array(train(case, torch.float32, make)[0]), np.array(losses), floor=0.0)
        arrays[f"{optimizer}_losses"] = np.array(losses)
        arrays[f"{optimizer}_final_l2"] = np.array(norms)
    return arrays


def loss_golden() -> Arrays:
    """Loss values and their gradients for a fixed [6, 10] tensor of logits."""
    logits = uniform("losses.logits", (6, 10), 3.0)
    teacher = uniform("losses.teacher", (6, 10), 3.0)
    labels = torch.from_numpy(integers("losses.labels", (6,), 10))
    t = torch.from_numpy(teacher).double()

    def distill(z: Tensor, temperature: float) -> Tensor:
        student = F.log_softmax(z / temperature, -1)
        return F.kl_div(student, F.softmax(t / temperature, -1), reduction="batchmean") * temperature**2

    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "cross_entropy": lambda z: F.cross_entropy(z, labels),
        "label_smoothing_0.1": lambda z: F.cross_entropy(z, labels, label_smoothing=0.1),
        "kl_t1": lambda z: distill(z, 1.0),
        "kl_t4": lambda z: distill(z, 4.0),
        "mse": lambda z: F.mse_loss(z, t),
    }
    arrays: Arrays = {"logits": logits, "teacher": teacher, "labels": labels.numpy()}
    for name, function in losses.items():
        z = torch.from_numpy(logits).double().requires_grad_()
        loss = function(z)
        loss.backward()
        arrays[f"loss/{name}"] = np.array([loss.item()])
        arrays[f"grad/{name}"] = z.grad.numpy()
    return arrays


def schedule_golden() -> Arrays:
    """The learning rate that update 0, 1, … 99 uses, of each schedule."""

    def warm_cosine(o: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        warm = lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=10)
        return lr_scheduler.SequentialLR(o, [warm, lr_scheduler.CosineAnnealingLR(o, T_max=90)], milestones=[10])

    schedules: dict[str, tuple[float, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]]] = {
        "one_cycle": (0.05, lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.05, total_steps=100, cycle_momentum=False)),
        "one_cycle_linear": (0.05, lambda o: lr_scheduler.OneCycleLR(
            o, max_lr=0.05, total_steps=100, pct_start=0.25, anneal_strategy="linear", div_factor=10.0,
            final_div_factor=100.0, cycle_momentum=False)),
        "cosine": (0.1, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=100)),
        "cosine_min": (0.1, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=100, eta_min=1e-3)),
        "step": (0.1, lambda o: lr_scheduler.StepLR(o, step_size=30, gamma=0.1)),
        "warmup_cosine": (0.1, warm_cosine),
    }
    return {name: learning_rates(base, make) for name, (base, make) in schedules.items()}


def learning_rates(base: float, make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]) -> np.ndarray:
    """One hundred steps of a schedule on an optimizer whose own rate is `base`."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=base)
    schedule = make(optimizer)
    rates = []
    for step in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < 99:
            schedule.step()
    return np.array(rates)


def clip_golden() -> Arrays:
    """Three gradients clipped to a global L2 norm of 1 (it bites) and of 100 (it does not)."""
    grads = {f"g{i}": uniform(f"clip.g{i}", shape, 1.0) for i, shape in enumerate([(5, 7), (11,), (2, 3, 4)])}
    arrays: Arrays = dict(grads)
    for limit in (1.0, 100.0):
        parameters = {name: nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for name, g in grads.items()}
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(grads[name]).double()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), limit)
        arrays["norm"] = np.array([norm.item()])
        for name, parameter in parameters.items():
            arrays[f"clipped_{limit:.0f}/{name}"] = parameter.grad.numpy()
    return arrays


def resize_golden() -> Arrays:
    """Half-pixel bilinear enlargement 8×8 → 24×24 of a ramp and of a noisy image, [2, 1, 8, 8] → [2, 1, 24, 24]."""
    ramp = (np.arange(64, dtype=np.float32) / np.float32(64)).reshape(1, 1, 8, 8)
    small = np.concatenate([ramp, uniform("resize.noise", (1, 1, 8, 8), 1.0)])
    large = F.interpolate(torch.from_numpy(small).double(), size=(24, 24), mode="bilinear", align_corners=False)
    return {"small": small, "large": large.numpy().astype(np.float32)}


def export_onnx(case: Case, folder: Path) -> None:
    """One ONNX file by each exporter, and the TorchScript one at opset 13, where LayerNormalization comes decomposed."""
    model = copy.deepcopy(case.model).eval()
    x = (torch.from_numpy(case.inputs),)
    names = {"input_names": ["inputs"], "output_names": ["logits"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, x, folder / f"{case.name}.torchscript.onnx", dynamo=False, opset_version=17, **names)
        if case.name == "encoder":
            torch.onnx.export(model, x, folder / f"{case.name}.opset13.onnx", dynamo=False, opset_version=13, **names)
        torch.onnx.export(model, x, folder / f"{case.name}.dynamo.onnx", dynamo=True, external_data=False, verbose=False, **names)


def main() -> None:
    """Writes every golden."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the files (default: this script's)")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for case in cases():
        np.savez(out / f"{case.name}.npz", **model_golden(case))
        if case.export:
            export_onnx(case, out)
    for name, make in {"losses": loss_golden, "schedules": schedule_golden, "clip": clip_golden, "resize": resize_golden}.items():
        np.savez(out / f"{name}.npz", **make())
    for path in sorted(out.glob("*.npz")) + sorted(out.glob("*.onnx")):
        print(f"{path.stat().st_size:9,} {path.name}")


if __name__ == "__main__":
    main()
