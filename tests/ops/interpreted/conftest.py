"""Tests of the Triton kernels on a CPU: run by ``tests/ops/test_triton.py``.

Triton reads ``TRITON_INTERPRET`` when it is imported, so they need a process of their
own. By hand: ``TRITON_INTERPRET=1 python -m pytest tests/ops/interpreted``.
"""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
