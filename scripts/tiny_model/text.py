"""The model's tokenizer and its token windows, all from the builtin texts."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from moecompress.calibration.builtin import builtin_documents
from tiny_model.settings import END_OF_TEXT, Settings


def load_or_train_tokenizer(settings: Settings, path: Path) -> Tokenizer:
    """Byte-level BPE of `settings.vocabulary` entries, trained on the train split once and kept at `path`."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((d.text for d in builtin_documents("train")[: settings.documents]), trainer)
    temporary = path.with_suffix(".tmp")
    tokenizer.save(str(temporary))
    temporary.replace(path)
    return tokenizer


def encode_split(tokenizer: Tokenizer, split: str, limit: int | None = None) -> list[torch.Tensor]:
    """Token ids of each document, [tokens] int64, each ended by `<|endoftext|>`."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    texts = [document.text for document in builtin_documents(split)[:limit]]
    return [torch.tensor([*encoding.ids, end]) for encoding in tokenizer.encode_batch(texts)]


class Windows:
    """Training windows by number: each epoch shuffles the documents, joins them, cuts, and shuffles the cuts."""

    def __init__(self, documents: list[torch.Tensor], length: int, seed: int) -> None:
        self.documents, self.length, self.seed = documents, length, seed
        self.per_epoch = sum(map(len, documents)) // length
        self._epoch, self._table = -1, torch.empty(0)

    def __getitem__(self, number: int) -> torch.Tensor:
        """Window `number` of an endless stream, [length] int64."""
        epoch, row = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._table = epoch, self._shuffled(random.Random(f"{self.seed}/{epoch}"))
        return self._table[row]

    def _shuffled(self, generator: random.Random) -> torch.Tensor:
        order = generator.sample(range(len(self.documents)), len(self.documents))
        stream = torch.cat([self.documents[i] for i in order])
        start = generator.randint(0, len(stream) % self.length)
        table = stream[start : start + self.per_epoch * self.length].view(self.per_epoch, self.length)
        return table[generator.sample(range(self.per_epoch), self.per_epoch)]


def spread_windows(tokenizer: Tokenizer, split: str, length: int, count: int) -> torch.Tensor:
    """Up to `count` windows spread evenly over a split, [windows, length] int64."""
    stream = torch.cat(encode_split(tokenizer, split))
    table = stream[: len(stream) // length * length].view(-1, length)
    return table[torch.linspace(0, len(table) - 1, min(count, len(table))).long()]
