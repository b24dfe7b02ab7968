# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A transformer of GPT-2's shape, and sentences of a made-up language to train it on."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes; the defaults are those of the smallest GPT-2, with 124 million weights."""

    vocabulary: int = 50257
    context: int = 1024
    width: int = 768
    heads: int = 12
    layers: int = 12


class Block(nn.Module):
    """Attention to earlier places, and two layers at each place, each added to its input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.before_attention, self.before_layers = (nn.LayerNorm(shape.width) for _ in range(2))
        self.queries_keys_values = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.layers = nn.Sequential(
            nn.Linear(shape.width, 4 * shape.width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * shape.width, shape.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        # shape: (batch, places, width)
        size = (*x.shape[:2], self.heads, -1)
        joint = self.queries_keys_values(self.before_attention(x)).chunk(3, -1)
        query, key, value = (part.view(size).transpose(1, 2) for part in joint)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        found: Tensor = x + self.layers(self.before_layers(x))
        return found


class GPT(nn.Module):
    """The logits of the next token at each place; input and output share the tokens' vectors."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.places = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.layers)))
        self.norm = nn.LayerNorm(shape.width)
        self.apply(_start)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.blocks(self.tokens(tokens) + self.places(places))
        return F.linear(self.norm(x), self.tokens.weight)


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


class Language:
    """Each token is followed by one of a few, which are its own: 2.08 nats a token at best.

    The sentences are made at once, so that a step of training only picks some of them.

    :param int sentences: as many are made.
    :param int length: tokens of each that are to be read.
    :param int successors: of a token, equally probable.
    """

    def __init__(
        self,
        vocabulary: int,
        device: torch.device,
        sentences: int,
        length: int,
        successors: int = 8,
    ) -> None:
        self.generator = torch.Generator(device).manual_seed(0)
        self.table = self._any(vocabulary, (vocabulary, successors))
        self.kept = self.made(sentences, length)

    def made(self, sentences: int, length: int) -> tuple[Tensor, Tensor]:
        """New sentences, as :meth:`batch` gives those that are kept."""
        vocabulary, successors = self.table.shape
        columns = [self._any(vocabulary, (sentences,))]
        for _ in range(length):
            columns.append(self.table[columns[-1], self._any(successors, (sentences,))])
        text = torch.stack(columns, 1)
        return text[:, :-1], text[:, 1:]

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Tokens of some sentences, and those that follow them. # shape: (count, length) each"""
        tokens, following = self.kept
        rows = self._any(len(tokens), (count,))
        return tokens[rows], following[rows]

    def _any(self, below: int, size: tuple[int, ...]) -> Tensor:
        device = self.generator.device
        return torch.randint(below, size, generator=self.generator, device=device)


def loss(net: nn.Module, tokens: Tensor, following: Tensor) -> Tensor:
    """The mean over tokens, of matrix products in bfloat16 on a GPU."""
    kind = tokens.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        logits = net(tokens)
    return F.cross_entropy(logits.float().flatten(0, 1), following.flatten())
