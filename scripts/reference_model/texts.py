"""The domains' texts: finding, tokenising, and cutting into windows.

The folder holds DOMAIN.train.txt and DOMAIN.test.txt. Train text trains, test text only measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from .seeds import generator
from .settings import BuildError, TextSettings
from .stage import Result, digest, file_digest

SPLITS = ("train", "test")


@dataclass(frozen=True)
class TextSource:
    """One domain's two files, and their SHA-256."""

    domain: str
    train: Path
    test: Path
    train_sha256: str
    test_sha256: str

    @property
    def fingerprint(self) -> str:
        """Changes with the texts, not with where they are."""
        return digest([self.domain, self.train_sha256, self.test_sha256])


def find_texts(folder: Path, domains: Sequence[str], settings: TextSettings) -> list[TextSource]:
    """The domains' files, refused together with every reason there is."""
    problems, sources = [], []
    for domain in domains:
        paths = [folder / f"{domain}.{split}.txt" for split in SPLITS]
        for path, minimum in zip(paths, (settings.train_minimum, settings.test_minimum), strict=True):
            if not path.is_file():
                problems.append(f"{path} is missing")
            elif path.stat().st_size < minimum:
                problems.append(f"{path} is too short: {path.stat().st_size} bytes cannot give {minimum} tokens")
        if not problems:
            train, test = paths
            sources.append(TextSource(domain, train, test, file_digest(train), file_digest(test)))
    if problems:
        raise BuildError("the texts cannot be used:\n  " + "\n  ".join(problems))
    return sources


def tokenise(folder: Path, base: Result, source: TextSource, settings: TextSettings) -> dict[str, Any]:
    """Write train.npy and test.npy, int32 [tokens], of the first characters of each file."""
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    figures = {}
    for split in SPLITS:
        path: Path = getattr(source, split)
        text = path.read_text(encoding="utf-8")[: getattr(settings, f"{split}_characters")]
        tokens = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
        minimum = getattr(settings, f"{split}_minimum")
        if tokens.size < minimum:
            raise BuildError(f"{path} is too short: {tokens.size} tokens, at least {minimum} are needed")
        np.save(folder / f"{split}.npy", tokens)
        figures[f"{split}_tokens"] = int(tokens.size)
    return figures | {"train_sha256": source.train_sha256, "test_sha256": source.test_sha256}


def load_tokens(texts: Result, split: str) -> torch.Tensor:
    """The tokens [N], int64, of one split of a tokenised domain."""
    return torch.from_numpy(np.load(texts.folder / f"{split}.npy").astype(np.int64))


def windows(tokens: torch.Tensor, length: int) -> torch.Tensor:
    """Whole consecutive windows [n, length] from the start of the tokens [N]."""
    count = tokens.numel() // length
    return tokens[: count * length].view(count, length)


def batches(
    tokens: torch.Tensor, length: int, batch: int, steps: int, seed: int, domain: str
) -> Iterator[torch.Tensor]:
    """`steps` batches [batch, length] of windows in random order, every window once before any comes again."""
    pool = windows(tokens, length)
    random = generator(seed, "expert", domain)
    rounds = -(-steps * batch // pool.shape[0])
    order = torch.cat([torch.randperm(pool.shape[0], generator=random) for _ in range(rounds)])
    for step in range(steps):
        yield pool[order[step * batch : (step + 1) * batch]]


def mixture(domains: Sequence[torch.Tensor], length: int, batch: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """`steps` batches [batch, length] that take the domains in turn, from the second half of each one's tokens."""
    pools = [windows(tokens[tokens.numel() // 2 :], length) for tokens in domains]
    random = generator(seed, "mixture")
    for step in range(steps):
        turn = [pools[(step * batch + row) % len(pools)] for row in range(batch)]
        yield torch.stack([pool[int(torch.randint(pool.shape[0], (1,), generator=random))] for pool in turn])
