"""Which low precisions torch computes in on a CPU."""
from __future__ import annotations

import warnings

import pytest
import torch


def _multiplies_in_float16() -> bool:
    values = torch.ones(1, 2, 2)
    try:
        with warnings.catch_warnings(), torch.autocast('cpu', dtype=torch.float16):
            warnings.simplefilter('ignore')
            return torch.bmm(values, values).dtype == torch.float16
    except RuntimeError:
        return False


LOW = [torch.bfloat16,
       pytest.param(torch.float16, marks=pytest.mark.skipif(not _multiplies_in_float16(),
                                                            reason='this torch has no float16 on a CPU'))]
