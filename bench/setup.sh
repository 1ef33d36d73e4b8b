#!/usr/bin/env bash
# Makes bench/.venv with the pinned peers of requirements.txt. PyPI's torch brings NVIDIA's libraries along: about 6 GB.
set -euo pipefail
cd "$(dirname "$0")"
python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
.venv/bin/python -c 'import torch, onnxruntime, openvino, nncf; print(*(m.__name__ + " " + m.__version__ for m in (torch, onnxruntime, openvino, nncf)), sep="\n")'
