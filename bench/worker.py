"""One engine and one model in a process of their own: loads once, then runs as often as it is asked to.

`worker.py ENGINE MODEL INPUTS.npz THREADS OUTPUTS.npz` runs the model once, stores its outputs and writes one line {"version",
"idle_mb", "load_ms", "peak_mb"}. Then, for every number N that it reads, it runs the model N times and writes the milliseconds of
each run. The end of its input ends it. `peak_mb` is the most memory that the process has had resident, in 10⁶ bytes, `idle_mb` the
same after the imports and before the model: what an idle process has. bench/rust-peers speaks the same protocol.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Loaded(NamedTuple):
    """A model that is ready: one run on the bound inputs, and the outputs of the last run by name."""

    run: Callable[[], object]
    outputs: Callable[[], Arrays]


Load = Callable[[Path, Arrays, int], Loaded]


def peak_mb() -> float:
    """VmHWM in 10⁶ bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def onnxruntime_engine() -> tuple[str, Load]:
    """Inputs and outputs are bound once, so that a run copies nothing and builds no Python dictionary."""
    import onnxruntime

    def load(path: Path, inputs: Arrays, threads: int) -> Loaded:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for wanted in session.get_inputs():
            binding.bind_cpu_input(wanted.name, inputs[wanted.name])
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, "cpu")
        run = lambda: session.run_with_iobinding(binding)  # noqa: E731
        return Loaded(run, lambda: dict(zip(names, binding.copy_outputs_to_cpu(), strict=True)))

    return onnxruntime.__version__, load


def openvino_engine() -> tuple[str, Load]:
    """The latency hint, one stream, float32 where the model is float32."""
    import openvino

    def load(path: Path, inputs: Arrays, threads: int) -> Loaded:
        config = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(threads)}
        config["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = openvino.Core().compile_model(path, "CPU", config)
        request = compiled.create_infer_request()
        for port in compiled.inputs:
            # A port has the names of what was folded into it, too.
            name = next(name for name in port.names if name in inputs)
            request.set_tensor(port, openvino.Tensor(inputs[name], shared_memory=True))
        ports = [(name, port) for port in compiled.outputs for name in port.names]
        return Loaded(request.infer, lambda: {name: request.get_tensor(port).data for name, port in ports})

    return openvino.__version__.split("-")[0], load


def pytorch_engine() -> tuple[str, Load]:
    """The eager module in inference mode."""
    import models  # noqa: F401 - the classes that the file names
    import torch

    def load(path: Path, inputs: Arrays, threads: int) -> Loaded:
        torch.set_num_threads(threads)
        module = torch.load(path, weights_only=False)
        tensors = [torch.from_numpy(value) for value in inputs.values()]
        last = []

        def run() -> None:
            with torch.inference_mode():
                answer = module(*tensors)
            last[:] = answer if isinstance(answer, tuple) else (answer,)

        return Loaded(run, lambda: {str(index): value.numpy() for index, value in enumerate(last)})

    return torch.__version__, load


ENGINES = {"onnxruntime": onnxruntime_engine, "openvino": openvino_engine, "pytorch": pytorch_engine}


def main() -> None:
    """Loads, reports, serves."""
    engine, model, inputs, threads, outputs = sys.argv[1:]
    version, load = ENGINES[engine]()
    with np.load(inputs) as archive:
        arrays = {name: archive[name] for name in archive.files}
    idle = peak_mb()
    start = time.perf_counter()
    loaded = load(Path(model), arrays, int(threads))
    load_ms = (time.perf_counter() - start) * 1e3
    loaded.run()
    peak = peak_mb()
    np.savez(outputs, **loaded.outputs())
    print(json.dumps({"version": version, "idle_mb": idle, "load_ms": load_ms, "peak_mb": peak}), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            loaded.run()
            times.append((time.perf_counter() - start) * 1e3)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
