"""all-MiniLM-L6-v2 in plain PyTorch: a sentence in, its embedding out.

Six transformer blocks, 384 wide, with 12 heads and a feed-forward part of 1536, normalised
after each half as in BERT; then the mean over the tokens, scaled to length 1. The projections
that give queries, keys and values are one linear layer, `layers.0.attention.qkv`, the
feed-forward ones are `layers.0.up` and `layers.0.down`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

PROJECTIONS = ("attention.qkv", "up", "down")
MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model; those of all-MiniLM-L6-v2 unless said otherwise."""

    layers: int = 6
    width: int = 384
    heads: int = 12
    inner: int = 1536
    vocabulary: int = 30522
    positions: int = 512


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.output = nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States (batch, tokens, width), those masked with False not attended to."""
        joint: Tensor = self.qkv(x)
        heads = joint.reshape(*x.shape[:2], 3, self.heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """Attention and a feed-forward part, each added to its input and then normalised."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.attention_norm = nn.LayerNorm(shape.width, eps=1e-12)
        self.up = nn.Linear(shape.width, shape.inner)
        self.down = nn.Linear(shape.inner, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States (batch, tokens, width) to states."""
        x = self.attention_norm(x + self.attention(x, mask))
        result: Tensor = self.norm(x + self.down(functional.gelu(self.up(x))))
        return result


class MiniLM(nn.Module):
    """Token ids (batch, tokens) and their mask to embeddings (batch, width) of length 1."""

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = shape = shape or Shape()
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.types = nn.Embedding(2, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=1e-12)
        self.layers = nn.ModuleList([Block(shape) for _ in range(shape.layers)])

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Mean of the last states over the tokens whose mask is True, scaled to length 1."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(places) + self.types.weight[0])
        for layer in self.layers:
            x = layer(x, mask)
        kept = mask[..., None].to(x.dtype)
        return functional.normalize((x * kept).sum(dim=1) / kept.sum(dim=1), dim=-1)


# Where the checkpoint has them, relative to `embeddings.` and to `encoder.layer.0.`.
_EMBEDDINGS = {
    "words": "word_embeddings",
    "positions": "position_embeddings",
    "types": "token_type_embeddings",
    "norm": "LayerNorm",
}
_BLOCK = {
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}


def from_checkpoint(path: Path, shape: Shape | None = None) -> MiniLM:
    """The model with the weights of a safetensors file, for inference.

    Raises:
        ValueError: the file cannot be read, a tensor is missing or has another shape, or an
            entry is not finite; the message names it.
    """
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a safetensors file: {error}") from error
    model = MiniLM(shape)
    wanted = {}
    for name, like in model.state_dict().items():
        found = [_tensor(state, key, path) for key in _keys(name)]
        wanted[name] = value = torch.cat(found)
        if value.shape != like.shape:
            has, needs = tuple(value.shape), tuple(like.shape)
            raise ValueError(f"{path}: {_keys(name)[0]} makes a {name} of {has}, not of {needs}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {_keys(name)[0]} has entries that are not finite")
    model.load_state_dict(wanted)
    return model.eval().requires_grad_(False)


def _tensor(state: dict[str, Tensor], key: str, path: Path) -> Tensor:
    if key not in state:
        raise ValueError(f"{path} has no tensor {key}; is it the checkpoint of a BERT model?")
    return state[key].float()


def _keys(name: str) -> list[str]:
    """The tensors of the checkpoint that make up one of the model, first to last row."""
    head, leaf = name.rsplit(".", 1)
    if not head.startswith("layers."):
        return [f"embeddings.{_EMBEDDINGS[head]}.{leaf}"]
    _, number, part = head.split(".", 2)
    at = f"encoder.layer.{number}"
    if part == "attention.qkv":
        return [f"{at}.attention.self.{which}.{leaf}" for which in ("query", "key", "value")]
    return [f"{at}.{_BLOCK[part]}.{leaf}"]


# Sentences --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids (batch, tokens), their mask, and which sentences of a list they are."""

    ids: Tensor
    mask: Tensor
    numbers: tuple[int, ...]


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, without padding; sentences are cut at `MAX_TOKENS`."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def batches(tokenizer: Tokenizer, sentences: Sequence[str], size: int = 64) -> Iterator[Batch]:
    """The sentences in batches of similar length, so that little of a batch is padding."""
    encoded = [each.ids for each in tokenizer.encode_batch(list(sentences))]
    order = sorted(range(len(encoded)), key=lambda k: len(encoded[k]))
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        rows = [torch.tensor(encoded[k]) for k in numbers]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        yield Batch(ids, mask, tuple(numbers))


@torch.no_grad()
def embed(model: nn.Module, tokenizer: Tokenizer, sentences: Sequence[str]) -> Tensor:
    """Embeddings (sentences, width), in the order of the sentences."""
    found: list[Tensor] = [torch.empty(0)] * len(sentences)
    for batch in batches(tokenizer, sentences):
        for number, row in zip(batch.numbers, model(batch.ids, batch.mask), strict=True):
            found[number] = row
    return torch.stack(found)
