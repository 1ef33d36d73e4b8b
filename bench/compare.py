"""Inference on the same CPU: Penjing against its peers, interleaved, float32 and int8, one and two threads.

Builds what is missing (models, int8 files, the Rust peers), then measures. In each round every engine runs the model in turn; only
one runs at a time. Latency: median over the rounds of each round's median, and the fastest run of all. A ratio is the median over the
rounds of that round's, since machines that are shared change their speed. Load time (the best of three)
and peak memory (the least of three, less that of an idle process that only imports) come from fresh processes. The limit of the
machine is measured by Penjing in every round. Results go to out/compare.json as they come, and an interrupted run goes on from there
(--fresh starts over); the tables of BENCHMARKS.md are written from that file. With --as-avx2 all engines see a processor without
AVX-512; file and section are others.
"""

import argparse
import contextlib
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import quantized
import tables
from avx2_only import add_avx2_argument, limit_engines
from engines import BENCH, LABELS, MODELS, PEERS, PENJING, RUST_PEERS, Case, PenjingRunner, Ready, Running, start
from floors import weight_bytes
from models import write_missing
from penjing import add_binary_argument, require_binary
from process import EngineError

RESULTS = BENCH / "out" / "compare.json"
RESULTS_AVX2 = BENCH / "out" / "compare-avx2.json"
LOADS = 3
# The threads of an engine may spin for a while after a run; the next engine does not start before they sleep.
SETTLE_S = 0.05
LEVELS = {"amx_int8": "AVX-512 with AMX", "avx512_vnni": "AVX-512 with VNNI", "avx2": "AVX2"}


def rounds(engines: dict[str, Running], count: int, budget_ms: float) -> dict[str, list[list[float]]]:
    """Milliseconds of each run, by engine and round; an engine runs for about `budget_ms` a round, at least twice."""
    runs = {name: max(2, min(200, round(budget_ms / min(engine.run(2))))) for name, engine in engines.items()}
    times: dict[str, list[list[float]]] = {name: [] for name in engines}
    for _ in range(count):
        for name, engine in engines.items():
            time.sleep(SETTLE_S)
            times[name].append(engine.run(runs[name]))
    return times


def measure(case: Case, peers: list[str], binary: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One line of the tables: each engine's figures, or why it has none."""
    running: dict[str, Running] = {}
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for engine in [*peers, PENJING]:
            try:
                running[engine] = start(engine, case, binary)
                stack.callback(running[engine].close)
            except EngineError as error:
                found[engine] = {"failed": str(error)}
        times = rounds(running, args.rounds, args.budget_ms)
    for engine, loaded in running.items():
        fresh = [loaded.ready]
        for _ in range(args.loads - 1):
            again = start(engine, case, binary)
            fresh.append(again.ready)
            again.close()
        found[engine] = figures(times[engine], fresh)
    line: dict[str, Any] = {"rounds": args.rounds, "weight_bytes": weight_bytes(case), "engines": found}
    if isinstance(own := running.get(PENJING), PenjingRunner):
        reports = own.reports
        line["flop"] = 2 * sum(layer["macs"] for layer in reports[-1]["per_layer"])
        for limit in ("fma_peak_gflops", "int8_peak_gops"):
            line[limit] = max(report[limit] for report in reports)
    return line


def figures(times: list[list[float]], fresh: list[Ready]) -> dict[str, Any]:
    """What stands in compare.json for one engine."""
    by_round = [statistics.median(turn) for turn in times]
    return {
        "version": fresh[0].version,
        "round_ms": by_round,
        "median_ms": statistics.median(by_round),
        "min_ms": min(min(turn) for turn in times),
        "load_ms": min(ready.load_ms for ready in fresh),
        "memory_mb": min(ready.memory_mb for ready in fresh),
        "error": fresh[0].error,
    }


def build_rust_peers() -> None:
    """rten and tract, as bench/rust-peers/Cargo.lock pins them."""
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=BENCH / "rust-peers", check=True)
    if not RUST_PEERS.is_file():
        raise SystemExit(f"{RUST_PEERS} was not built")


def machine(as_avx2: bool) -> dict[str, Any]:
    """What the tables say of the machine."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    field = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in cpuinfo if ":" in line}
    # A processor's name may tell less than the instructions that decide how fast everyone is.
    level = next((name for flag, name in LEVELS.items() if flag in field.get("flags", "").split()), "neither AVX-512 VNNI nor AVX2")
    limit = ", limited to AVX2" if as_avx2 else ""
    cpu = f"{field.get('model name', platform.machine())} (family {field.get('cpu family', '?')}, {level}){limit}"
    return {"cpu": cpu, "cores": sum(line.startswith("processor") for line in cpuinfo)}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help="only models whose name contains one of these, separated by commas")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {','.join(PEERS)}")
    parser.add_argument("--precisions", default="f32,int8")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--budget-ms", type=float, default=250, help="how long an engine runs in a round (at least two runs)")
    parser.add_argument("--loads", type=int, default=LOADS, help="fresh processes for load time and memory")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 100 ms, one load")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--results", type=Path, help=f"default: {RESULTS.name}, with --as-avx2 {RESULTS_AVX2.name}")
    parser.add_argument("--no-tables", action="store_true", help="leave BENCHMARKS.md as it is")
    add_binary_argument(parser)
    add_avx2_argument(parser)
    args = parser.parse_args()
    args.results = args.results or (RESULTS_AVX2 if args.as_avx2 else RESULTS)
    if args.quick:
        args.rounds, args.budget_ms, args.loads = 3, 100.0, 1
    unknown = set(args.peers.split(",")) - set(PEERS)
    if unknown:
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    return args


def summary(case: Case, line: dict[str, Any]) -> str:
    """One line for the terminal."""
    cells = []
    for engine, found in line["engines"].items():
        told = f"{found['median_ms']:.2f}" if "median_ms" in found else "failed"
        cells.append(f"{LABELS[engine]} {told}")
    ratio = tables.ratio(line)
    return f"{case.key:24}{'  '.join(cells)}{f'  ratio {ratio:.2f}' if ratio else ''}"


def main() -> int:
    """Builds, measures, writes."""
    args = parse()
    binary = require_binary(args.penjing)
    peers = args.peers.split(",")
    wanted = args.models.split(",")
    models = [name for name in write_missing(MODELS) if any(part in name for part in wanted)]
    if {"rten", "tract"} & set(peers):
        build_rust_peers()
    if "int8" in args.precisions:
        quantized.write_missing(models, binary)
    if args.as_avx2:
        limit_engines()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    known = args.results.is_file() and not args.fresh
    results = json.loads(args.results.read_text()) if known else {"cases": {}}
    results |= {"machine": machine(args.as_avx2), "date": time.strftime("%Y-%m-%d", time.gmtime())}
    for model in models:
        for precision in args.precisions.split(","):
            for threads in args.threads.split(","):
                case = Case(model, precision, int(threads))
                done = results["cases"].get(case.key)
                if done and done["rounds"] >= args.rounds and set(peers) <= set(done["engines"]):
                    continue
                results["cases"][case.key] = measure(case, peers, binary, args)
                args.results.write_text(json.dumps(results, indent=1))
                print(summary(case, results["cases"][case.key]), flush=True)
    if not args.no_tables:
        (tables.write_inference_avx2 if args.as_avx2 else tables.write_inference)(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
