"""oneDNN's fp32 products, as torch ships them on CPUs."""

from __future__ import annotations

from typing import Any

import torch

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
linear_pointwise: Any = torch.ops.mkldnn._linear_pointwise if ONEDNN else None
