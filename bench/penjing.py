"""Finding and calling the `penjing` binary: the only place that knows its command line."""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RELEASE = ROOT / "target" / "release" / "penjing"


class PenjingError(Exception):
    """The command ended with an error; the text is what it wrote on stderr."""


def add_binary_argument(parser: argparse.ArgumentParser) -> None:
    """--penjing."""
    parser.add_argument("--penjing", type=Path, default=RELEASE, help="the binary (default: target/release/penjing)")


def require_binary(path: Path) -> Path:
    """The binary's path, or an exit that says how to build it."""
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: build it with `cargo build --release -p penjing`, or name one with --penjing")
    return path.resolve()


def call(binary: Path, *arguments: str | Path) -> str:
    """Standard output of one command."""
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PenjingError(f"exit {done.returncode}: {done.stderr.strip() or 'nothing on stderr'}")
    return done.stdout


def run_model(binary: Path, model: Path, inputs: dict[str, Path], output: Path) -> None:
    """One inference; writes <output>/<name>.npy for every graph output."""
    feeds = [f"--input={name}={path}" for name, path in inputs.items()]
    call(binary, "run", model, *feeds, "--output", output)


def save_inputs(archive: Path, folder: Path) -> dict[str, Path]:
    """Each array of an .npz as an .npy of its own, by input name."""
    paths = {}
    with np.load(archive) as arrays:
        for name in arrays.files:
            paths[name] = folder / f"{name}.npy"
            np.save(paths[name], arrays[name])
    return paths


def bench_inference(binary: Path, model: Path, inputs: dict[str, Path], threads: int, runs: int) -> dict[str, Any]:
    """The JSON of a benchmark on these inputs: times_ms, load_ms, peak_rss_mb, fma_peak_gflops, int8_peak_gops, per_layer."""
    feeds = [f"--input={name}={path}" for name, path in inputs.items()]
    return json.loads(call(binary, "bench", model, *feeds, "--threads", str(threads), "--runs", str(runs), "--json"))


def quantize(binary: Path, model: Path, batches: list[Path], output: Path) -> None:
    """The int8 form of a model, calibrated on .npz files that hold an array for each input."""
    call(binary, "quantize", model, *[f"--calibration={path}" for path in batches], "--output", output)


def new(binary: Path, network: str, output: Path, *options: str) -> None:
    """An untrained network as a file."""
    call(binary, "new", network, *options, "--output", output)


def bench_training(
    binary: Path, model: Path, inputs: dict[str, Path], batch: int, optimizer: str, threads: int, runs: int,
) -> dict[str, Any]:
    """The JSON of a benchmark of training steps on these inputs and random labels."""
    feeds = [f"--input={name}={path}" for name, path in inputs.items()]
    options = ["--train", "--optimizer", optimizer, "--batch", str(batch), "--threads", str(threads), "--runs", str(runs)]
    return json.loads(call(binary, "bench", model, *feeds, *options, "--json"))


def demo(binary: Path, seed: int, out: Path) -> dict[str, Any]:
    """The demo at one seed; its report.json."""
    call(binary, "demo", "--seed", str(seed), "--out", out)
    return json.loads((out / "report.json").read_text())
