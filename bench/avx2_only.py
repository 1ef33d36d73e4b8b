"""Measuring as on a machine with AVX2: every process started later sees a processor without AVX-512, AVX-VNNI and AMX (avx2-only/)."""

import argparse
import os
import subprocess
from pathlib import Path

CRATE = Path(__file__).parent / "avx2-only"
LIBRARY = CRATE / "target" / "release" / "libavx2_only.so"


def add_avx2_argument(parser: argparse.ArgumentParser) -> None:
    """--as-avx2."""
    parser.add_argument("--as-avx2", action="store_true", help="hide AVX-512, AVX-VNNI and AMX from all engines")


def limit_engines() -> None:
    """Builds the library and preloads it into all engines; an exit with its own sentence where CPUID cannot be made to fault."""
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=CRATE, check=True)
    tried = subprocess.run(["true"], env=os.environ | {"LD_PRELOAD": str(LIBRARY)}, capture_output=True, text=True, check=False)
    # A library that cannot be loaded is only complained about.
    if tried.returncode != 0 or tried.stderr:
        raise SystemExit(f"--as-avx2: {tried.stderr.strip() or f'exit {tried.returncode}'}")
    os.environ["LD_PRELOAD"] = str(LIBRARY)
