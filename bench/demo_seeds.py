"""Runs `penjing demo` at several seeds and holds the median accuracy of each variant against its bar. Exit 1 below a bar."""

import argparse
import statistics
import sys
from pathlib import Path

from penjing import PenjingError, add_binary_argument, demo, require_binary

OUT = Path(__file__).parent / "out" / "seeds"
BARS = {"dense": 0.98}
OTHER_BAR = 0.975


def main() -> int:
    """Runs the seeds and prints the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the demos' folders (default: bench/out/seeds)")
    add_binary_argument(parser)
    args = parser.parse_args()
    binary = require_binary(args.penjing)
    accuracies: dict[str, list[float]] = {}
    for seed in args.seeds:
        try:
            report = demo(binary, seed, args.out / str(seed))
        except PenjingError as error:
            raise SystemExit(f"penjing demo --seed {seed} failed: {error}") from error
        for variant in report["variants"]:
            accuracies.setdefault(variant["name"], []).append(variant["accuracy"])
        latest = ", ".join(f"{name} {values[-1]:.2%}" for name, values in accuracies.items())
        print(f"seed {seed}: {report['wall_s']:.0f} s, {latest}", flush=True)
    print(f"\n{'variant':16}{'median':>9}{'min':>9}{'max':>9}{'bar':>8}")
    missed = 0
    for name, values in accuracies.items():
        bar = BARS.get(name, OTHER_BAR)
        median = statistics.median(values)
        missed += median < bar
        verdict = "ok" if median >= bar else "FAIL"
        print(f"{name:16}{median:>9.2%}{min(values):>9.2%}{max(values):>9.2%}{bar:>8.1%}  {verdict}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
