"""The engines that compare.py measures: which file each one gets, and a process that runs it on request."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from penjing import ROOT, PenjingError, bench_inference, run_model, save_inputs
from process import EngineError, Process

BENCH = Path(__file__).parent
MODELS = BENCH / "out" / "models"
INT8 = BENCH / "out" / "int8"
RUST_PEERS = BENCH / "rust-peers" / "target" / "release" / "rust-peers"
PEERS = ["onnxruntime", "openvino", "pytorch", "rten", "tract"]
RUST = ("rten", "tract")
PENJING = "penjing"
LABELS = {
    "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "pytorch": "PyTorch", "rten": "rten", "tract": "tract",
    PENJING: "Penjing",
}


@dataclass(frozen=True)
class Case:
    """What all engines are asked to do."""

    model: str
    precision: str
    threads: int

    @property
    def key(self) -> str:
        """Its name in compare.json."""
        return f"{self.model}/{self.precision}/{self.threads}"

    def file(self, engine: str) -> Path | None:
        """The engine's file of this model; None where it has none at this precision."""
        if self.precision == "f32":
            return MODELS / f"{self.model}{'.pt' if engine == 'pytorch' else '.onnx'}"
        if engine == "pytorch":
            return None
        # rten and tract have no quantizer of their own and read ONNX Runtime's files.
        endings = {"openvino": ".openvino.xml", PENJING: ".penjing.onnx"}
        return INT8 / f"{self.model}{endings.get(engine, '.onnxruntime.onnx')}"

    @property
    def inputs(self) -> Path:
        """The seeded inputs."""
        return MODELS / f"{self.model}.inputs.npz"

    @property
    def expected(self) -> Path:
        """The outputs of the float model."""
        return MODELS / f"{self.model}.expected.npz"


@dataclass(frozen=True)
class Ready:
    """What a fresh process says once it has loaded the model and run it."""

    version: str
    load_ms: float
    memory_mb: float  # peak, less that of an idle process that only imports
    error: float  # relative L2 distance from the float model's outputs


class Running(Protocol):
    """A loaded model."""

    ready: Ready

    def run(self, count: int) -> list[float]:
        """Milliseconds of `count` runs, after warming up."""

    def close(self) -> None:
        """Ends the process."""


class Worker(Process):
    """A peer in a process of its own, loaded once; idle between rounds."""

    def __init__(self, engine: str, case: Case) -> None:
        program = [RUST_PEERS] if engine in RUST else [sys.executable, BENCH / "worker.py"]
        with tempfile.TemporaryDirectory() as scratch:
            outputs = Path(scratch) / "outputs.npz"
            super().__init__([*program, engine, case.file(engine), case.inputs, str(case.threads), outputs])
            with np.load(outputs) as archive:
                error = distance(case.expected, {name: archive[name] for name in archive.files})
        said = self.said
        self.ready = Ready(said["version"], said["load_ms"], said["peak_mb"] - said["idle_mb"], error)


class PenjingRunner:
    """`penjing bench` for each round; it warms up by itself."""

    def __init__(self, binary: Path, case: Case) -> None:
        self.binary, self.case, self.model = binary, case, case.file(PENJING)
        self.scratch = tempfile.TemporaryDirectory()
        folder = Path(self.scratch.name)
        self.inputs = save_inputs(case.inputs, folder)
        try:
            run_model(binary, self.model, self.inputs, folder / "outputs")
            self.reports = [self.bench(1)]
        except PenjingError as error:
            raise EngineError(" ".join(str(error).split())[:300]) from error
        outputs = {path.stem: np.load(path) for path in (folder / "outputs").glob("*.npy")}
        version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
        error = distance(case.expected, outputs)
        self.ready = Ready(version, self.reports[0]["load_ms"], self.reports[0]["peak_rss_mb"], error)

    def bench(self, runs: int) -> dict[str, Any]:
        """One process."""
        return bench_inference(self.binary, self.model, self.inputs, self.case.threads, runs)

    def run(self, count: int) -> list[float]:
        """The milliseconds of one process."""
        self.reports.append(self.bench(count))
        return self.reports[-1]["times_ms"]

    def close(self) -> None:
        """Forgets the inputs."""
        self.scratch.cleanup()


def distance(expected: Path, outputs: dict[str, np.ndarray]) -> float:
    """Relative L2 distance of the first output from what the float model answers."""
    with np.load(expected) as archive:
        name = archive.files[0]
        reference = archive[name].astype(np.float64)
    value = outputs[name] if name in outputs else next(iter(outputs.values()))
    if value.shape != reference.shape:
        raise EngineError(f"output {name} has shape {list(value.shape)}, expected {list(reference.shape)}")
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def start(engine: str, case: Case, binary: Path) -> Running:
    """The engine with the case's model loaded; EngineError where it cannot."""
    file = case.file(engine)
    if file is None or not file.is_file():
        raise EngineError("no such model" if file is None else f"{file.relative_to(ROOT)} could not be made")
    return PenjingRunner(binary, case) if engine == PENJING else Worker(engine, case)
