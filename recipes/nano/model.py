"""The llama architecture in PyTorch, with the parameter names that mlx-lm and transformers use."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """What fixes the size of the model; the names are those of a llama `config.json`."""

    vocab_size: int
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 384
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def rotations(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding, each (length, head_dim)."""
    rates = theta ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(length).float(), rates)
    return torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.heads, self.head_dim = shape.num_attention_heads, shape.head_dim
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, inner = shape.hidden_size, shape.intermediate_size
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = FeedForward(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """The stack of blocks; the embedding table is passed in, since warm-up redraws it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)

    def forward(self, table: Tensor, tokens: Tensor) -> Tensor:
        """Hidden states (batch, length, width) after the last norm."""
        cos, sin = rotations(tokens.shape[1], self.shape.head_dim, self.shape.rope_theta)
        x = F.embedding(tokens, table)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


def answer_logits(
    decoder: Decoder, table: Tensor, tokens: Tensor, places: Tensor, among: Tensor | None = None
) -> Tensor:
    """Logits that predict the n tokens at flat indices `places` of `tokens`.

    (n, vocab), or (n, len(among)) if only the tokens `among` are to be told apart.
    """
    hidden = decoder(table, tokens).flatten(0, 1)
    rows = table if among is None else table[among]
    return hidden[places - 1] @ rows.T


def start_structured(decoder: Decoder, base: Tensor, seed: int) -> None:
    """Begin near a copying circuit, which a plain start finds only after a long plateau.

    One head of the first layer looks back exactly one token: its queries and keys read only
    `base`, the part that all embeddings share. Later layers begin with equal queries and keys,
    and write what they read.
    """
    shape = decoder.shape
    gen = torch.Generator().manual_seed(seed)
    std = shape.hidden_size**-0.5
    with torch.no_grad():
        for param in decoder.parameters():
            if param.dim() == 2:
                param.copy_(torch.randn(param.shape, generator=gen) * std)
        for layer in decoder.layers:
            attn, mlp = layer.self_attn, layer.mlp
            attn.o_proj.weight.copy_(attn.v_proj.weight.T * 0.5)
            mlp.down_proj.weight.mul_(0.3)
            if layer is not decoder.layers[0]:
                attn.k_proj.weight.copy_(attn.q_proj.weight)
        probe = torch.ones(shape.head_dim)
        cos, sin = rotations(2, shape.head_dim, shape.rope_theta)
        back = rotate(probe, cos[1], -sin[1])
        reader = base / base.norm()
        first = decoder.layers[0].self_attn
        first.q_proj.weight[: shape.head_dim] = torch.outer(back, reader) * 0.35
        first.k_proj.weight[: shape.head_dim] = torch.outer(probe, reader) * 0.35
