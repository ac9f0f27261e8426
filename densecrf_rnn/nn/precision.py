"""Buffers that stay in full precision when their module is converted to half precision."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import HALVES


class WideBuffers(nn.Module):
    """A module with buffers of constants that ``half()`` and ``bfloat16()`` would round."""

    def _wide(self) -> Mapping[str, Any]:
        """Return the numbers that each of these buffers holds, by the buffer's name."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Keep the buffers in float32 or better, and fill them where `to_empty` made none."""
        before = {name: getattr(self, name) for name in self._wide()}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, numbers in self._wide().items():
            was, now = before[name], getattr(self, name)
            if was.is_meta and not now.is_meta:
                now.copy_(wide(numbers, now.device).view_as(now))
            elif now.dtype in HALVES:
                setattr(self, name, was.to(now.device))
        return self


def wide(numbers: Any, device: Any = None) -> Tensor:
    """Return numbers as a tensor of the default dtype, or of float32 if that is shorter."""
    dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
    return torch.tensor(numbers, dtype=dtype, device=device)
