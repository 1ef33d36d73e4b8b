"""8-bit files of the measured models: each engine's own quantizer on the same seeded calibration batches.

ONNX Runtime: static QDQ (signed weights by channel) for convolution networks and GPT-2, dynamic for the other Transformers and the
LSTM — of its two forms the faster one. OpenVINO: NNCF's post-training quantization. Penjing: `penjing quantize`.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engines import INT8, MODELS, PENJING
from penjing import add_binary_argument, quantize, require_binary

BATCHES = 4
# Of these, ONNX Runtime's dynamic form is the faster one.
DYNAMIC = ("vits16", "bert", "minilm", "lstm2")
TRANSFORMERS = ("vits16", "bert", "minilm", "gpt2")
Quantizer = Callable[[str, Path, Path], None]


def calibration(model: str) -> list[dict[str, np.ndarray]]:
    """Batches like the stored inputs: noise for floats, the same tokens in another order, masks as they are."""
    rng = np.random.default_rng(3)
    with np.load(MODELS / f"{model}.inputs.npz") as archive:
        stored = {name: archive[name] for name in archive.files}

    def like(name: str, value: np.ndarray) -> np.ndarray:
        if value.dtype == np.float32:
            return rng.standard_normal(value.shape, dtype=np.float32)
        return rng.permuted(value, axis=-1) if name == "input_ids" else value

    return [{name: like(name, value) for name, value in stored.items()} for _ in range(BATCHES)]


def by_onnxruntime(model: str, source: Path, target: Path) -> None:
    """Seven-bit weights, as ONNX Runtime's documentation asks for where the CPU has AVX2 and no VNNI."""
    from onnxruntime.quantization import (
        CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_dynamic, quantize_static)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, np.ndarray]] = iter(calibration(model))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared)
    if model.startswith(DYNAMIC):
        quantize_dynamic(prepared, target, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    else:
        quantize_static(
            prepared, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    prepared.unlink()


def by_openvino(model: str, source: Path, target: Path) -> None:
    """NNCF with its defaults for the kind of model."""
    import nncf
    import openvino

    kind = nncf.ModelType.TRANSFORMER if model.startswith(TRANSFORMERS) else None
    quantized = nncf.quantize(
        openvino.Core().read_model(source), nncf.Dataset(calibration(model)), model_type=kind, subset_size=BATCHES)
    openvino.save_model(quantized, target, compress_to_fp16=False)


def by_penjing(binary: Path) -> Quantizer:
    """`penjing quantize` on the same batches."""

    def run(model: str, source: Path, target: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            batches = []
            for index, arrays in enumerate(calibration(model)):
                batches.append(Path(scratch) / f"{index}.npz")
                np.savez(batches[-1], **arrays)
            quantize(binary, source, batches, target)

    return run


def write_missing(models: list[str], binary: Path) -> None:
    """Makes the files that are not there, and those of Penjing that are older than its binary; says which could not be made."""
    INT8.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    quantizers = {
        ".onnxruntime.onnx": by_onnxruntime, ".openvino.xml": by_openvino, f".{PENJING}.onnx": by_penjing(binary)}
    for model in models:
        for ending, quantizer in quantizers.items():
            target = INT8 / f"{model}{ending}"
            stale = PENJING in ending and target.is_file() and target.stat().st_mtime < binary.stat().st_mtime
            if target.is_file() and not stale:
                continue
            target.unlink(missing_ok=True)
            try:
                quantizer(model, MODELS / f"{model}.onnx", target)
                print(f"wrote {target.name}", flush=True)
            except Exception as error:  # noqa: BLE001 - a quantizer may fail in any way; the table says so
                target.unlink(missing_ok=True)
                print(f"{target.name} could not be made: {' '.join(str(error).split())[:300]}", flush=True)


def main() -> None:
    """Makes the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only models whose name contains this")
    add_binary_argument(parser)
    args = parser.parse_args()
    models = sorted(path.stem for path in MODELS.glob("*.onnx") if args.only in path.stem)
    write_missing(models, require_binary(args.penjing))


if __name__ == "__main__":
    main()
