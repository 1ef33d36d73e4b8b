"""The least time that a model can take on this machine: its operations at the measured peak, its weights at the memory's speed."""

import json
from pathlib import Path
from typing import Any

import onnx

from engines import MODELS, Case

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())
L3_BYTES = 32 * 2**20
INT8_SHARE = 0.25


def weight_bytes(case: Case) -> int:
    """Bytes of weights that one run must read: tables only looked up in do not count, recurrent weights count once a step."""
    graph = onnx.load(MODELS / f"{case.model}.onnx", load_external_data=False).graph
    steps = graph.input[0].type.tensor_type.shape.dim[0].dim_value
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    recurrent = {node.input[2] for node in graph.node if node.op_type in ("LSTM", "GRU")}
    total = 0
    for tensor in graph.initializer:
        if tensor.name not in looked_up:
            total += len(tensor.raw_data) * (steps if tensor.name in recurrent else 1)
    return round(total * (INT8_SHARE if case.precision == "int8" else 1))


def floor_ms(case: Case, line: dict[str, Any]) -> float | None:
    """The larger of the two times. Memory is as fast as reference.json says: L3 where all weights fit into it, else DRAM."""
    peak = line.get("int8_peak_gops" if case.precision == "int8" else "fma_peak_gflops")
    if not peak:
        return None
    kept = (MODELS / f"{case.model}.onnx").stat().st_size * (INT8_SHARE if case.precision == "int8" else 1)
    memory = REFERENCE["l3_gb_s" if kept <= L3_BYTES else "dram_gb_s"][str(case.threads)]
    return max(line["flop"] / peak, line["weight_bytes"] / memory) / 1e6
