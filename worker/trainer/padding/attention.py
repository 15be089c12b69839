"""Attention over one row that holds several sequences, registered with transformers under a name of its own.

Each sequence attends to itself alone. Sequences of similar length are computed together by torch's own attention.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from worker.trainer.padding.layout import AttentionGroup, Layout

NAME: Final = "permafrost_grouped"
#: The attention that this one stands in for; a model that uses another one is left alone.
REPLACED: Final = "sdpa"


class UnsupportedAttention(ValueError):
    """A layer calls attention in a way that needs padded rows."""


class GroupedAttention:
    """Computes as the layout says, and as torch's attention does where there is none. The process has one."""

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self.calls = 0  # with a layout

    def attention(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        is_causal: bool | None = None,
        position_bias: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """query (1, heads, tokens, features) to (1, tokens, heads, features); the mask is that of padded rows."""
        causal = is_causal if is_causal is not None else bool(getattr(module, "is_causal", True))
        layout = self.layout
        if layout is None:
            options |= {"is_causal": causal, "position_bias": position_bias}
            plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
            return plain

        self.calls += 1
        if position_bias is not None:
            raise UnsupportedAttention("its attention has a bias for each pair of positions of a row")
        if not query.shape[2] == key.shape[2] == layout.tokens:
            raise UnsupportedAttention("its attention is not from a row's tokens to themselves")

        pieces = [_by_group(each, layout) for each in (query, key, value)]
        results = []
        for group, (queries, keys, values) in zip(layout.groups, zip(*pieces, strict=True), strict=True):
            mask = _mask(attention_mask, group, causal=causal)
            found, _ = sdpa_attention_forward(module, queries, keys, values, mask, is_causal=causal, **options)
            results.append(found.flatten(0, 1))
        joined = torch.cat(results)
        return (layout.grouped.remove(joined) if layout.grouped else joined)[None], None

    def mask(self, *args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
        """The mask of padded rows, without their padding while there is a layout, which knows about it."""
        mask: Tensor | None = sdpa_mask(*args, attention_mask=None if self.layout else attention_mask, **options)
        return mask


GROUPED: Final = GroupedAttention()
AttentionInterface.register(NAME, GROUPED.attention)
AttentionMaskInterface.register(NAME, GROUPED.mask)


def _by_group(states: Tensor, layout: Layout) -> list[Tensor]:
    """(1, heads, tokens, features) to (rows, heads, width, features) for each group."""
    tokens = states[0].transpose(0, 1)
    filled = layout.grouped.fill(tokens) if layout.grouped else tokens
    groups = zip(torch.split(filled, layout.group_sizes), layout.groups, strict=True)
    return [part.view(len(group.rows), group.width, *part.shape[1:]).transpose(1, 2) for part, group in groups]


def _mask(own: Tensor | None, group: AttentionGroup, *, causal: bool) -> Tensor | None:
    """What each query of the group may look at: `own` is the model's mask without padding, None for its usual one."""
    if own is not None:
        rows = own if len(own) == 1 else own.index_select(0, group.rows)
        own = rows[:, :, : group.width, : group.width]
        return own if group.real is None else own & group.real
    return None if causal else group.real  # padding comes after every real token, so a causal mask hides it
