"""The token ids every benchmark feeds: a random text that stays with a topic for a while, then turns to another."""

from __future__ import annotations

import numpy as np

from synthetic.shapes import Shape

STAY = 0.74  # chance that the next token is of the same topic
ZIPF = 1.0


def stream(shape: Shape, count: int, seed: int = 0) -> list[int]:
    """`count` ids. Within a topic, words are as frequent as in a text: the n-th most frequent like 1 / n."""
    generator = np.random.default_rng([seed, shape.vocabulary, shape.topics])
    words = shape.vocabulary // shape.topics
    frequency = np.arange(1, words + 1) ** -ZIPF
    chosen = generator.choice(words, count, p=frequency / frequency.sum())
    turns = generator.random(count) > STAY
    turns[0] = True
    topics = np.where(turns, generator.integers(0, shape.topics, count), 0)
    last = np.maximum.accumulate(np.where(turns, np.arange(count), 0))
    return [int(token) for token in chosen * shape.topics + topics[last]]
