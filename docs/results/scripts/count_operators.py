"""Count the operators that a forward and backward pass of Swin-T dispatches on CUDA, by section. No GPU is needed.

Usage: python count_operators.py [WINDOW ...]. Tensors are on the meta device and report CUDA as their device.
The precision is float32: autocast would add casts to all alike. Views, and tensors that are only allocated, launch no
kernel and are counted apart. Operators of the backward pass belong to the section whose forward recorded them.
"""
import inspect
import sys
from collections import Counter
from typing import Any, Dict, List, Tuple

import torch
from mmdet.models.backbones import SwinTransformer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from swin_pos_det.models import SwinPosTransformer
from swin_pos_det.ops import masks, sdpa, use_impl
from swin_pos_det.ops.triton import support

SECTIONS = {'ShiftedWindowAttention': 'attention', 'ShiftWindowMSA': 'attention', 'FeedForward': 'feed-forward',
            'FFN': 'feed-forward', 'PatchEmbed': 'patches', 'PatchMerging': 'patches', 'LayerNorm': 'norms'}
NO_KERNEL = {'view', '_unsafe_view', 'reshape', 'permute', 'transpose', 't', 'expand', 'slice', 'select', 'unsqueeze',
             'squeeze', 'detach', 'alias', 'unbind', 'split', 'split_with_sizes', 'as_strided', 'empty', 'empty_like',
             'new_empty', 'new_empty_strided', 'empty_strided', 'unfold', 'lift_fresh', '_reshape_alias'}


class Counts(TorchDispatchMode):
    """Counts operators: ``kernels`` and ``views`` by section."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.kernels, self.views = Counter(), Counter()
        self.open: List[str] = ['rest']
        self.recorded: List[Tuple[int, int, str]] = []
        for module in model.modules():
            section = SECTIONS.get(type(module).__name__)
            if section:
                module.forward = self.within(section, module.forward)

    def within(self, section: str, forward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if len(self.open) > 1:  # a norm within patch merging
                return forward(*args, **kwargs)
            start = torch.autograd._get_sequence_nr()
            self.open.append(section)
            try:
                return forward(*args, **kwargs)
            finally:
                self.open.pop()
                self.recorded.append((start, torch.autograd._get_sequence_nr(), section))
        return run

    def section(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None:
            return self.open[-1]
        number = node._sequence_nr()
        return next((section for start, end, section in self.recorded if start <= number < end), 'rest')

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        counts = self.views if func.overloadpacket.__name__ in NO_KERNEL else self.kernels
        counts[self.section()] += 1
        return func(*args, **(kwargs or {}))


def emulate_cuda() -> None:
    """Take the CUDA branches: masks that are joined, one memory-efficient kernel for SDPA, the fused kernel allowed."""
    source = inspect.getsource(masks.attn_masks)
    assert "like.device.type == 'cuda'" in source
    exec(source.replace("like.device.type == 'cuda'", 'True'), vars(masks))
    sdpa.attn_masks = masks.attn_masks

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any, dropout_p: float,
               scale: float) -> Any:
        if attn_mask is not None:
            attn_mask = attn_mask.expand(q.shape[0], q.shape[1], -1, -1)
        return torch.ops.aten._scaled_dot_product_efficient_attention(
            q, k, v, attn_mask, q.requires_grad, dropout_p, False, scale=scale)[0]

    sdpa.F = type('F', (), dict(scaled_dot_product_attention=staticmethod(attend)))
    support._unsupported_device = lambda qkv: None


def count(kind: type, implementation: Any, **settings: Any) -> Tuple[Dict[str, int], Dict[str, int]]:
    """Count the second step, as the first makes plans and indices."""
    model = kind(drop_path_rate=0.2, **settings).to('meta')
    model.train()
    counts, images = Counts(model), torch.empty(2, 3, 800, 1344, device='meta')
    with use_impl(implementation):
        for _ in range(2):
            counts.kernels.clear()
            counts.views.clear()
            counts.recorded.clear()
            with counts:
                outs = model(images)
                torch.autograd.grad([out.sum() for out in outs], list(model.parameters()))
    return counts.kernels, counts.views


def main() -> None:
    """Print a Markdown table for each window."""
    emulate_cuda()
    for window in map(int, sys.argv[1:] or ['7', '12']):
        rows = {'mmdet': count(SwinTransformer, None, window_size=window),
                'ours, SDPA': count(SwinPosTransformer, 'sdpa', window_size=window),
                'ours, fused': count(SwinPosTransformer, 'triton', window_size=window)}
        sections = ['attention', 'feed-forward', 'norms', 'patches', 'rest']
        print(f'\n| window {window} | {" | ".join(sections)} | all | views |\n|{"---|" * (len(sections) + 3)}')
        for name, (kernels, views) in rows.items():
            total = sum(kernels.values())
            print(f'| {name} | {" | ".join(str(kernels[of]) for of in sections)} | {total} | {sum(views.values())} |')


if __name__ == '__main__':
    main()
