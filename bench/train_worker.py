"""`train_worker.py STEP THREADS`: PyTorch's side of compare_train.py, eager, with the protocol of worker.py; a run is one step."""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

from networks import LstmLanguageModel, ResNetCifar, SimpleCnn, SmallGpt
from training import STEPS
from worker import peak_mb

NETWORKS = {
    "simplecnn": SimpleCnn,
    "resnet20": lambda: ResNetCifar(20),
    "lstm": lambda: LstmLanguageModel(512, 2),
    "gpt": lambda: SmallGpt(256, 6),
}
WARM_UP = 3


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """As training.Step says."""
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def main() -> None:
    """Builds, warms up, serves."""
    name, threads = sys.argv[1:]
    idle = peak_mb()
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    step = next(step for step in STEPS if step.name == name)
    x, y = map(torch.from_numpy, step.data())
    model = NETWORKS[name]()
    optimizer = optimizer_of(step.optimizer, model)

    def run() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()

    for _ in range(WARM_UP):
        run()
    print(json.dumps({"version": torch.__version__, "idle_mb": idle, "peak_mb": peak_mb()}), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * 1e3)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
