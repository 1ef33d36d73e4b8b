"""Lets ONNX Runtime judge what `penjing demo --out DIR` exported. Needs onnxruntime and numpy only; exit 1 when a check fails.

Every file must load and agree with the logits in heldout.npz: float variants to 1e-3, int8 variants in 99.5 % of the predictions
(a digit on which the two differ goes to the side that the same graph in float64 takes). Accuracy must be report.json's to one
digit, int8.onnx at most 30 % of dense.onnx, and the pruned files at least 49.9 % zeros in their convolution and linear weights.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from float64_graph import evaluate
from onnx_file import Graph, read_graph

VARIANTS = ["dense", "pruned50", "int8", "pruned50-int8", "dp2"]
MAX_LOGIT_ERROR = 1e-3
MIN_EQUAL_PREDICTIONS = 0.995
MAX_INT8_SIZE = 0.30
MIN_ZEROS = 0.499
# Operators between a weight and the initializer that holds it.
CARRIERS = {"DequantizeLinear", "Transpose", "Reshape", "Identity", "Cast"}


@dataclass
class Row:
    """What was measured of one variant, and what is wrong with it."""

    name: str
    size: int
    zeros: float
    accuracy: float
    reported_accuracy: float
    logit_error: float
    equal: int
    settled: int
    total: int
    faults: list[str]


def run_onnxruntime(path: Path, x: np.ndarray) -> np.ndarray:
    """The first output for x on the CPU, in batches of the file's own size where it has one."""
    options = onnxruntime.SessionOptions()
    # Without VNNI, u8·s8 products are added in saturating 16 bits unless this is set.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    size = entry.shape[0] if isinstance(entry.shape[0], int) else len(x)
    batches = [x[start : start + size] for start in range(0, len(x), size)]
    return np.concatenate([session.run(None, {entry.name: batch})[0] for batch in batches])


def weights(graph: Graph) -> list[tuple[np.ndarray, np.ndarray]]:
    """(values, zero points that broadcast to them) of every convolution's and linear layer's weight."""
    producers = {output: node for node in graph.nodes for output in node.outputs}
    found = []
    for node in graph.nodes:
        if node.op not in ("Conv", "Gemm", "MatMul"):
            continue
        name, zero = node.inputs[1], np.zeros(())
        while name in producers and producers[name].op in CARRIERS:
            carrier = producers[name]
            name = carrier.inputs[0]
            if carrier.op == "DequantizeLinear" and len(carrier.inputs) > 2:
                zero = graph.initializers[carrier.inputs[2]]
                if zero.size > 1:
                    axis = carrier.attributes.get("axis", 1)
                    zero = zero.reshape([-1 if i == axis else 1 for i in range(graph.initializers[name].ndim)])
        if name in graph.initializers:
            found.append((graph.initializers[name], zero))
    return found


def zero_fraction(graph: Graph) -> float:
    """Share of weights that stand for exactly 0."""
    found = weights(graph)
    count = sum(values.size for values, _ in found)
    return sum(int((values == zero).sum()) for values, zero in found) / count if count else 0.0


def settle(name: str, graph: Graph, x: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> int:
    """Prints each digit on which the predictions differ, with the float64 verdict; returns how many of them go to Penjing."""
    disputed = np.flatnonzero(ours != theirs)
    if not len(disputed):
        return 0
    try:
        verdicts = evaluate(graph, x[disputed]).argmax(1)
    except ValueError as error:
        print(f"{name}: float64 cannot judge: {error}")
        verdicts = np.full(len(disputed), -1)
    for digit, verdict in zip(disputed, verdicts, strict=True):
        verdict_text = verdict if verdict >= 0 else "-"
        print(f"{name}, digit {digit}: Penjing {ours[digit]}, ONNX Runtime {theirs[digit]}, float64 {verdict_text}")
    return int((verdicts == ours[disputed]).sum())


def check_variant(folder: Path, name: str, report: dict, heldout: dict[str, np.ndarray], dense_size: int) -> Row:
    """Runs one file and compares it with everything that is claimed of it."""
    path = folder / f"{name}.onnx"
    x, y, logits = heldout["x"], heldout["y"], heldout[f"logits_{name}"]
    graph = read_graph(path)
    peer = run_onnxruntime(path, x)
    if peer.shape != logits.shape:
        raise SystemExit(f"{path}: ONNX Runtime answers {peer.shape}, heldout.npz holds {logits.shape}")
    ours, theirs = logits.argmax(1), peer.argmax(1)
    is_int8 = "int8" in name
    settled = settle(name, graph, x, ours, theirs) if is_int8 else 0
    row = Row(
        name=name,
        size=path.stat().st_size,
        zeros=zero_fraction(graph),
        accuracy=float((theirs == y).mean()),
        reported_accuracy=float(report["accuracy"]),
        logit_error=float(np.abs(peer - logits).max()),
        equal=int((ours == theirs).sum()),
        settled=settled,
        total=len(x),
        faults=[])
    row.faults = faults(row, report, is_int8, dense_size)
    return row


def faults(row: Row, report: dict, is_int8: bool, dense_size: int) -> list[str]:
    """Every bar that the row misses."""
    bars = {
        f"logits differ by {row.logit_error:.1e} > {MAX_LOGIT_ERROR:.0e}": is_int8 or row.logit_error <= MAX_LOGIT_ERROR,
        "fewer than 99.5 % equal predictions": (row.equal + row.settled) / row.total >= MIN_EQUAL_PREDICTIONS,
        "accuracy differs from report.json by more than one digit (and the settled ones)":
            round(abs(row.accuracy - row.reported_accuracy) * row.total, 3) <= 1 + row.settled,
        f"report.json says {report['bytes']} bytes": report["bytes"] == row.size,
        "larger than 30 % of dense.onnx": row.name != "int8" or row.size <= MAX_INT8_SIZE * dense_size,
        "fewer than 49.9 % zeros": "pruned50" not in row.name or row.zeros >= MIN_ZEROS,
    }
    return [fault for fault, holds in bars.items() if not holds]


def print_table(rows: list[Row]) -> None:
    """One line a variant, its faults below."""
    heads = f"{'variant':14}{'bytes':>10}{'size':>7}{'zeros':>8}{'accuracy':>10}{'report':>9}"
    print(f"{heads}{'max|Δlogit|':>13}{'equal':>9}  verdict")
    for row in rows:
        equal = f"{row.equal}+{row.settled}" if row.settled else str(row.equal)
        verdict = "FAIL" if row.faults else "ok"
        print(
            f"{row.name:14}{row.size:>10,}{row.size / rows[0].size:>7.1%}{row.zeros:>8.1%}{row.accuracy:>10.2%}"
            f"{row.reported_accuracy:>9.2%}{row.logit_error:>13.1e}{f'{equal}/{row.total}':>9}  {verdict}")
        for fault in row.faults:
            print(f"    {row.name}: {fault}")


def main() -> int:
    """Checks the folder; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `penjing demo --out` wrote")
    folder: Path = parser.parse_args().folder
    missing = [name for name in ["report.json", "heldout.npz", *(f"{v}.onnx" for v in VARIANTS)] if not (folder / name).is_file()]
    if missing:
        raise SystemExit(f"{folder} lacks {', '.join(missing)}: is it what `penjing demo --out {folder}` wrote?")
    reports = {variant["file"]: variant for variant in json.loads((folder / "report.json").read_text())["variants"]}
    heldout = dict(np.load(folder / "heldout.npz"))
    claims = [f"{v}.onnx" for v in VARIANTS if f"{v}.onnx" not in reports] + [
        f"logits_{v}" for v in VARIANTS if f"logits_{v}" not in heldout]
    if claims:
        raise SystemExit(f"{folder}: report.json or heldout.npz says nothing of {', '.join(claims)}")
    dense_size = (folder / "dense.onnx").stat().st_size
    print(f"ONNX Runtime {onnxruntime.__version__}, {len(heldout['x'])} held-out digits")
    rows = [check_variant(folder, name, reports[f"{name}.onnx"], heldout, dense_size) for name in VARIANTS]
    print_table(rows)
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
