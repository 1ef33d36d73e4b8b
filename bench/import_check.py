"""Runs `penjing run` on every model of the zoo and compares with ONNX Runtime's answers. Exit 1 when one is wrong or fails.

A model passes when max|Δ| / max|reference| is at most 1e-4 for each of its outputs.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penjing import PenjingError, add_binary_argument, require_binary, run_model, save_inputs

ZOO = Path(__file__).parent / "out" / "zoo"
MAX_ERROR = 1e-4


@dataclass(frozen=True)
class Verdict:
    """The largest relative error over the outputs, or why there is none."""

    error: float | None
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the model is right."""
        return self.error is not None and self.error <= MAX_ERROR


def largest_error(expected: Path, outputs: Path) -> Verdict:
    """Compares a folder of .npy outputs with an .npz of what they should be."""
    worst = 0.0
    with np.load(expected) as references:
        for name in references.files:
            reference, path = references[name], outputs / f"{name}.npy"
            if not path.is_file():
                return Verdict(None, f"no output {name}.npy")
            value = np.load(path)
            if value.shape != reference.shape:
                return Verdict(None, f"{name} has shape {list(value.shape)}, expected {list(reference.shape)}")
            error = float(np.abs(value - reference).max() / np.abs(reference).max())
            worst = max(worst, error) if np.isfinite(error) else float("inf")
    return Verdict(worst, "" if worst <= MAX_ERROR else f"differs by more than {MAX_ERROR:.0e}")


def check(binary: Path, model: Path) -> Verdict:
    """One model of the zoo."""
    stem = model.with_suffix("")
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = Path(scratch) / "inputs", Path(scratch) / "outputs"
        inputs.mkdir()
        outputs.mkdir()
        try:
            run_model(binary, model, save_inputs(Path(f"{stem}.inputs.npz"), inputs), outputs)
        except PenjingError as error:
            return Verdict(None, " ".join(str(error).split()))
        return largest_error(Path(f"{stem}.expected.npz"), outputs)


def main() -> int:
    """Checks the zoo; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=ZOO, help="folder that zoo.py wrote (default: bench/out/zoo)")
    parser.add_argument("--only", default="", help="only models whose name contains this")
    add_binary_argument(parser)
    args = parser.parse_args()
    models = [path for path in sorted(args.zoo.glob("*.onnx")) if args.only in path.stem]
    if not models:
        raise SystemExit(f"no models in {args.zoo}: run bench/zoo.py first")
    binary = require_binary(args.penjing)
    passed = 0
    for model in models:
        verdict = check(binary, model)
        passed += verdict.passed
        error = f"{verdict.error:.1e}" if verdict.error is not None else "-"
        print(f"{model.stem:36}{error:>9}  {'ok' if verdict.passed else 'FAIL'}  {verdict.reason[:300]}", flush=True)
    print(f"{passed} of {len(models)} agree with ONNX Runtime")
    return int(passed < len(models))


if __name__ == "__main__":
    sys.exit(main())
