"""One training step (forward, backward, update) on the same CPU: Penjing against eager PyTorch, interleaved, two threads.

Both do the same work on the same seeded inputs: training.py says which. Times are medians over the rounds of each round's median; the
ratio is PyTorch's / Penjing's, the median of the rounds'. Peak memory is that of the whole process, for PyTorch less that of the
process after its imports. Writes the training section of BENCHMARKS.md, or with --as-avx2 that of AVX2. Exit 1 when the geometric
mean or a ratio is below its bar.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from avx2_only import add_avx2_argument, limit_engines
from compare import SETTLE_S, machine
from engines import BENCH
from penjing import add_binary_argument, bench_training, new, require_binary
from process import Process
from sections import table, write_section
from tables import geometric_mean, short
from training import STEPS, Step

MEAN_BAR, EACH_BAR = 1.3, 1.0


@dataclass(frozen=True)
class Row:
    """One step's figures."""

    step: Step
    own_ms: float
    own_min_ms: float
    peer_ms: float
    peer_min_ms: float
    own_mb: float
    peer_mb: float
    share_of_peak: float
    peak_gflops: float
    version: str
    # PyTorch's time / Penjing's, the median of the rounds'.
    ratio: float


def measure(step: Step, binary: Path, threads: int, rounds: int, budget_ms: float) -> Row:
    """Both sides in turns."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.onnx"
        new(binary, step.network[0], model, *step.network[1:])
        inputs = step.save(Path(scratch))
        peer = Process([sys.executable, BENCH / "train_worker.py", step.name, str(threads)])
        runs = max(2, round(budget_ms / min(peer.run(2))))
        theirs: list[list[float]] = []
        reports = []
        for _ in range(rounds):
            time.sleep(SETTLE_S)
            theirs.append(peer.run(runs))
            time.sleep(SETTLE_S)
            reports.append(bench_training(binary, model, inputs, step.batch, step.optimizer, threads, runs))
        said = peer.said
        peer.close()
    own, peers = [report["median_ms"] for report in reports], [statistics.median(turn) for turn in theirs]
    own_ms = statistics.median(own)
    peak = max(report["fma_peak_gflops"] for report in reports)
    flop = 2 * sum(layer["macs"] for layer in reports[-1]["per_layer"])
    return Row(
        step, own_ms, min(report["times_ms"][0] for report in reports),
        statistics.median(peers), min(map(min, theirs)),
        min(report["peak_rss_mb"] for report in reports), said["peak_mb"] - said["idle_mb"],
        flop / own_ms / 1e6 / peak, peak, said["version"],
        statistics.median(theirs / ours for theirs, ours in zip(peers, own)))


def section(rows: list[Row], args: argparse.Namespace) -> str:
    """The section's text."""
    head = ["training step", "Penjing", "PyTorch", "ratio", "of FMA peak", "memory: Penjing", "PyTorch", "PyTorch / ours"]
    lines = [
        [row.step.title + (", SGD" if row.step.optimizer == "sgd" else ", AdamW"),
         f"{short(row.own_ms)} ({short(row.own_min_ms)})", f"{short(row.peer_ms)} ({short(row.peer_min_ms)})", f"**{row.ratio:.2f}**",
         f"{row.share_of_peak:.0%} of {row.peak_gflops:.0f}", f"{row.own_mb:.0f}", f"{row.peer_mb:.0f}",
         f"{row.peer_mb / row.own_mb:.2f}"]
        for row in rows]
    ratios = [row.ratio for row in rows]
    cpu = machine(args.as_avx2)
    title, option = ("Training, limited to AVX2", " --as-avx2") if args.as_avx2 else ("Training", "")
    return f"""## {title}

`bench/.venv/bin/python bench/compare_train.py{option}`, {time.strftime('%Y-%m-%d', time.gmtime())}, {cpu['cores']} cores of {cpu['cpu']}, {args.threads}
threads, PyTorch {rows[0].version} in eager mode, {args.rounds} interleaved rounds. Milliseconds of a step (forward, backward, update): median
over the rounds (fastest). Memory in MB: peak of the process; PyTorch's less that of the process after its imports. Reference figure
of 2026-11-23 on another machine, with AVX2: PyTorch does 2,400–2,800 images/s on SimpleCNN, 23–27 ms a step.

Geometric mean {geometric_mean(ratios):.2f} (bar {MEAN_BAR}), smallest ratio {min(ratios):.2f} (bar {EACH_BAR}).

{table(head, lines)}"""


def main() -> int:
    """Measures all; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only steps whose name contains this; BENCHMARKS.md stays as it is")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--budget-ms", type=float, default=1000, help="how long PyTorch runs in a round (at least two steps)")
    add_binary_argument(parser)
    add_avx2_argument(parser)
    args = parser.parse_args()
    binary = require_binary(args.penjing)
    if args.as_avx2:
        limit_engines()
    rows = []
    for step in STEPS:
        if args.only in step.name:
            rows.append(measure(step, binary, args.threads, args.rounds, args.budget_ms))
            row = rows[-1]
            print(f"{step.name:12} Penjing {row.own_ms:8.2f} ms {row.own_mb:6.0f} MB   PyTorch {row.peer_ms:8.2f} ms "
                  f"{row.peer_mb:6.0f} MB   ratio {row.ratio:.2f}   {row.share_of_peak:.0%} of peak", flush=True)
    if not rows:
        raise SystemExit(f"no training step has {args.only} in its name")
    ratios = [row.ratio for row in rows]
    if not args.only:
        write_section("training-avx2" if args.as_avx2 else "training", section(rows, args))
    return int(geometric_mean(ratios) < MEAN_BAR or min(ratios) < EACH_BAR)


if __name__ == "__main__":
    sys.exit(main())
