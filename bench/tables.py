"""The inference sections of BENCHMARKS.md, from the figures that compare.py collects."""

import math
import statistics
from typing import Any

from engines import LABELS, PEERS, PENJING, Case
from floors import REFERENCE, floor_ms
from sections import table, write_section

Line = dict[str, Any]
BARS = {"f32": 1.0, "int8": 1.1}
MINIMUM = 0.85
SLOWER = 1.3
RIVALS = ("onnxruntime", "openvino")


def median(line: Line, engine: str) -> float | None:
    """An engine's latency, None where it failed."""
    return line["engines"].get(engine, {}).get("median_ms")


def ratio(line: Line) -> float | None:
    """Best peer's latency / Penjing's: the median over the rounds of that in a round, whose runs follow each other."""
    rounds = {engine: found["round_ms"] for engine, found in line["engines"].items() if "round_ms" in found}
    own = rounds.pop(PENJING, None)
    return statistics.median(min(peers) / ms for ms, *peers in zip(own, *rounds.values())) if own and rounds else None


def geometric_mean(values: list[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def counted(threads: int) -> str:
    """In words."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


def short(value: float) -> str:
    """Three significant digits."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def write_inference(results: dict[str, Any]) -> None:
    """The section of the machine as it is; one with AMX, where bytes are multiplied several times faster, has its own."""
    cases = measured(results)
    name, title = ("inference-amx", "Inference with AMX") if "AMX" in results["machine"]["cpu"] else ("inference", "Inference")
    parts = [opening(title, results, cases), *ratios(results, cases), resources(cases), errors(cases), reference(cases)]
    write_section(name, "\n\n".join(parts))


def write_inference_avx2(results: dict[str, Any]) -> None:
    """The section of the machine limited to AVX2: ratios only."""
    cases = measured(results)
    parts = [opening_avx2(results, cases), *ratios(results, cases)]
    write_section("inference-avx2", "\n\n".join(parts))


def measured(results: dict[str, Any]) -> list[tuple[Case, Line]]:
    """Every case with its figures."""
    return [(Case(model, precision, int(threads)), line) for key, line in results["cases"].items()
            for model, precision, threads in [key.split("/")]]


def ratios(results: dict[str, Any], cases: list[tuple[Case, Line]]) -> list[str]:
    """The summary, and a table of latencies for each precision and number of threads."""
    groups = [(precision, threads) for precision in BARS for threads in sorted({case.threads for case, _ in cases})]
    parts = [summary(cases, groups)]
    for precision, threads in groups:
        chosen = [(case, line) for case, line in cases if (case.precision, case.threads) == (precision, threads)]
        if chosen:
            parts.append(latency(precision, threads, chosen, results["cases"]))
    return parts


def opening(title: str, results: dict[str, Any], cases: list[tuple[Case, Line]]) -> str:
    """What was measured, and what the columns mean."""
    return f"""## {title}

{measured_on(results, cases, "")} Latency in ms: median over the rounds (fastest run). *Ratio*: the best peer's latency / Penjing's,
the median of the rounds' (in each round, all engines run in turn). *Of limit*: Penjing's operations a second (2 for a multiply-add) / the
multiply-add peak measured in the same run. *Floor*: the larger of operations at that peak and weights at the speed of L3 (or of DRAM where
they do not fit) on the reference machine."""


def opening_avx2(results: dict[str, Any], cases: list[tuple[Case, Line]]) -> str:
    """How this section differs from the first."""
    return f"""## Inference, limited to AVX2

{measured_on(results, cases, " --as-avx2")} All engines see a processor without AVX-512, AVX-VNNI and AMX. Columns as above."""


def measured_on(results: dict[str, Any], cases: list[tuple[Case, Line]], option: str) -> str:
    """Command, machine, versions, method."""
    versions = {engine: found["version"] for _, line in cases for engine, found in line["engines"].items() if "version" in found}
    named = ", ".join(f"{LABELS[engine]} {version}" for engine, version in versions.items())
    rounds = sorted({line["rounds"] for _, line in cases})
    counted = f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    machine = results["machine"]
    return f"""`bench/.venv/bin/python bench/compare.py{option}`, {results['date']}, {machine['cores']} cores of {machine['cpu']}. {named}.
Random seeded weights, static shapes, {counted} interleaved rounds."""


def summary(cases: list[tuple[Case, Line]], groups: list[tuple[str, int]]) -> str:
    """Geometric means, smallest ratios, bars."""
    rows = []
    for precision, threads in groups:
        found = {case.model: value for case, line in cases if (case.precision, case.threads) == (precision, threads)
                 and (value := ratio(line)) is not None}
        if not found:
            continue
        worst = min(found, key=lambda model: found[model])
        mean = geometric_mean(list(found.values()))
        holds = mean >= BARS[precision] and found[worst] >= MINIMUM
        rows.append([f"{precision}, {counted(threads)}", str(len(found)), f"{mean:.2f} (bar {BARS[precision]})",
                     f"{found[worst]:.2f} {worst} (bar {MINIMUM})", "yes" if holds else "no"])
    return table(["", "models", "geometric mean", "smallest ratio", "holds"], rows)


def latency(precision: str, threads: int, chosen: list[tuple[Case, Line]], every: dict[str, Line]) -> str:
    """One table of medians."""
    peers = [peer for peer in PEERS if any(median(line, peer) is not None for _, line in chosen)]
    head = ["model", "Penjing", *[LABELS[peer] for peer in peers], "ratio", "of limit", "floor"]
    if precision == "int8":
        head.append("own f32 / int8")
    rows = []
    for case, line in chosen:
        own, value, floor = median(line, PENJING), ratio(line), floor_ms(case, line)
        peak = line.get("int8_peak_gops" if precision == "int8" else "fma_peak_gflops")
        share = f"{line['flop'] / own / 1e6 / peak:.0%} of {peak:.0f}" if own and peak else "–"
        row = [case.model, *[cell(line, engine) for engine in [PENJING, *peers]], f"**{value:.2f}**" if value else "–", share,
               short(floor) if floor else "–"]
        if precision == "int8":
            floating = median(every.get(Case(case.model, "f32", threads).key, {"engines": {}}), PENJING)
            row.append(f"{floating / own:.2f}" if floating and own else "–")
        rows.append(row)
    failures = [f"- {case.model}, {LABELS[engine]}: {found['failed']}" for case, line in chosen
                for engine, found in line["engines"].items() if "failed" in found and found["failed"] != "no such model"]
    listed = "\n\nNot run:\n" + "\n".join(failures) if failures else ""
    return f"### {precision}, {counted(threads)}\n\n{table(head, rows)}{listed}"


def cell(line: Line, engine: str) -> str:
    """`median (minimum)`."""
    found = line["engines"].get(engine, {})
    return f"{short(found['median_ms'])} ({short(found['min_ms'])})" if "median_ms" in found else "–"


def resources(cases: list[tuple[Case, Line]]) -> str:
    """Load times and peak memory beside the two rivals'."""
    rows = []
    for case, line in cases:
        found = line["engines"]
        row = [f"{case.model} {case.precision}, {case.threads}"]
        for key in ("load_ms", "memory_mb"):
            values = {engine: found[engine][key] for engine in [PENJING, *RIVALS] if key in found.get(engine, {})}
            best = min((values[rival] for rival in RIVALS if rival in values), default=None)
            row += [f"{values[engine]:.0f}" if engine in values else "–" for engine in [PENJING, *RIVALS]]
            row.append(f"{best / values[PENJING]:.2f}" if best and PENJING in values else "–")
        rows.append(row)
    named = [LABELS[engine] for engine in [PENJING, *RIVALS]]
    head = ["model, threads", *[f"load: {name}" for name in named], "best / ours", *[f"memory: {name}" for name in named], "best / ours"]
    return f"""### Load time and peak memory

From the file to a model that is ready, in ms (best of fresh processes); peak resident memory through the first runs, in MB, for Python
peers less that of the process after its imports.

{table(head, rows)}"""


def errors(cases: list[tuple[Case, Line]]) -> str:
    """How far the outputs lie from the float model's."""
    floats = [found["error"] for case, line in cases if case.precision == "f32" for found in line["engines"].values() if "error" in found]
    engines = [PENJING, *[peer for peer in PEERS if peer != "pytorch"]]
    rows = []
    for case, line in cases:
        if case.precision == "int8" and case.threads == max(other.threads for other, _ in cases):
            known = [line["engines"].get(engine, {}).get("error") for engine in engines]
            rows.append([case.model, *[f"{error:.3f}" if error is not None else "–" for error in known]])
    worst = f"{max(floats):.0e}" if floats else "–"
    return f"""### Distance from the float model

Relative L2 distance of the first output from ONNX Runtime's unoptimized float32 answer. Float engines: at most {worst}. Int8 (random
weights exaggerate it, as nothing was trained to separate classes):

{table(['model', *[LABELS[engine] for engine in engines]], rows)}"""


def reference(cases: list[tuple[Case, Line]]) -> str:
    """Each peer's figure beside its reference figure."""
    rows = []
    for case, line in cases:
        known = REFERENCE["latency_ms"][case.precision].get(case.model, {})
        cells, reasons = [], []
        for peer in PEERS:
            here = median(line, peer)
            there = known[peer][case.threads - 1] if peer in known and case.threads <= 2 else None
            cells.append(" / ".join(short(value) if value else "–" for value in (here, there)))
            if here and there and here > SLOWER * there:
                reasons.append(f"{LABELS[peer]} {here / there:.1f}×: {explain(case, line, peer, there)}")
        rows.append([f"{case.model} {case.precision}, {case.threads}", *cells, "; ".join(reasons)])
    return f"""### The peers beside their reference figures

Median here / reference figure of {REFERENCE['date']} on another machine, with AVX2, in ms. A peer more than 30 % slower than there is
explained.

{table(['model, threads', *[LABELS[peer] for peer in PEERS], 'explanation'], rows)}"""


def explain(case: Case, line: Line, peer: str, there: float) -> str:
    """What the same run tells about a peer that is slower than its reference figure."""
    fastest = line["engines"][peer]["min_ms"]
    limit = "int8_peak_gops" if case.precision == "int8" else "fma_peak_gflops"
    then = REFERENCE[limit][str(case.threads)]
    if fastest <= SLOWER * there:
        return f"the shared machine wandered, its fastest run is {short(fastest)}"
    if line.get(limit, then) * SLOWER < then:
        return f"the machine gave {line[limit]:.0f} of {then} G operations/s"
    return "not explained by this run's own figures"
