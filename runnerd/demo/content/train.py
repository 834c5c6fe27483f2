"""Learns to read digits: a softmax classifier on 8 x 8 pictures, trained here and now, with the standard library alone.

Every picture is a digit that is shifted and covered with noise.  Writes metrics.txt and confusion_matrix.png.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import struct
import time
import zlib
from pathlib import Path

#: Digits as 3 x 5 bits, one word per row.
GLYPHS = (
    "111 101 101 101 111",
    "010 110 010 010 111",
    "111 001 111 100 111",
    "111 001 011 001 111",
    "101 101 111 001 001",
    "111 100 111 001 111",
    "111 100 111 101 111",
    "111 001 010 010 010",
    "111 101 111 101 111",
    "111 101 111 001 111",
)
SIDE = 8
CLASSES = len(GLYPHS)

Picture = list[float]
Sample = tuple[Picture, int]


def draw_digit(rng: random.Random, digit: int, noise: float) -> Picture:
    """One picture: the glyph, twice as wide, somewhere in it and under noise."""
    picture = [0.0] * (SIDE * SIDE)
    left, top = rng.randint(0, 1), rng.randint(1, 2)
    for row, bits in enumerate(GLYPHS[digit].split()):
        for column, bit in enumerate(bits):
            if bit == "1":
                at = (top + row) * SIDE + left + 2 * column
                picture[at] = picture[at + 1] = 1.0
    return [min(1.0, max(0.0, value + rng.gauss(0.0, noise))) for value in picture]


def dataset(rng: random.Random, size: int, noise: float) -> list[Sample]:
    return [(draw_digit(rng, index % CLASSES, noise), index % CLASSES) for index in range(size)]


class Classifier:
    """Softmax regression, trained by stochastic gradient descent."""

    def __init__(self) -> None:
        self.weights = [[0.0] * (SIDE * SIDE) for _ in range(CLASSES)]
        self.bias = [0.0] * CLASSES

    def probabilities(self, picture: Picture) -> list[float]:
        scores = [
            sum(map(float.__mul__, weights, picture), bias)
            for weights, bias in zip(self.weights, self.bias, strict=True)
        ]
        highest = max(scores)
        powers = [math.exp(score - highest) for score in scores]
        total = sum(powers)
        return [power / total for power in powers]

    def predict(self, picture: Picture) -> int:
        found = self.probabilities(picture)
        return found.index(max(found))

    def learn(self, sample: Sample, rate: float) -> float:
        """One step; the loss before it."""
        picture, truth = sample
        found = self.probabilities(picture)
        for digit, probability in enumerate(found):
            step = rate * (probability - (digit == truth))
            if abs(step) > 1e-6:
                weights = self.weights[digit]
                self.weights[digit] = [weight - step * value for weight, value in zip(weights, picture, strict=True)]
                self.bias[digit] -= step
        return -math.log(max(found[truth], 1e-12))


def train(samples: list[Sample], *, epochs: int, rng: random.Random) -> tuple[Classifier, float]:
    """The classifier and its last loss; one line per epoch."""
    model, loss = Classifier(), 0.0
    for epoch in range(1, epochs + 1):
        rng.shuffle(samples)
        loss = sum(model.learn(sample, 0.1 / math.sqrt(epoch)) for sample in samples) / len(samples)
        print(f"epoch {epoch:2d}/{epochs}   loss {loss:.4f}", flush=True)
    return model, loss


def confusion(model: Classifier, samples: list[Sample]) -> list[list[int]]:
    """Rows are what was drawn, columns what was read."""
    matrix = [[0] * CLASSES for _ in range(CLASSES)]
    for picture, truth in samples:
        matrix[truth][model.predict(picture)] += 1
    return matrix


class Canvas:
    """A picture in memory that can be written as PNG."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.pixels = bytearray(b"\xff" * (3 * width * height))

    def fill(self, left: int, top: int, width: int, height: int, colour: tuple[int, int, int]) -> None:
        for row in range(top, top + height):
            at = 3 * (row * self.width + left)
            self.pixels[at : at + 3 * width] = bytes(colour) * width

    def number(self, centre: int, middle: int, value: int, colour: tuple[int, int, int], dot: int = 2) -> None:
        """Digits, 3 x 5 dots each, around a point."""
        digits = str(value)
        left = centre - (4 * len(digits) - 1) * dot // 2
        for position, digit in enumerate(digits):
            for row, bits in enumerate(GLYPHS[int(digit)].split()):
                for column, bit in enumerate(bits):
                    if bit == "1":
                        self.fill(
                            left + (4 * position + column) * dot, middle - 5 * dot // 2 + row * dot, dot, dot, colour
                        )

    def png(self) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        stride = 3 * self.width
        rows = b"".join(b"\x00" + self.pixels[at : at + stride] for at in range(0, len(self.pixels), stride))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
        )


def draw_matrix(matrix: list[list[int]]) -> bytes:
    """The confusion matrix as PNG: drawn digits downwards, read digits to the right."""
    cell, margin = 36, 30
    canvas = Canvas(margin + cell * CLASSES + 6, margin + cell * CLASSES + 6)
    most = max(max(row) for row in matrix) or 1
    for row, counts in enumerate(matrix):
        canvas.number(margin // 2, margin + row * cell + cell // 2, row, (90, 90, 90))
        canvas.number(margin + row * cell + cell // 2, margin // 2, row, (90, 90, 90))
        for column, count in enumerate(counts):
            share = math.sqrt(count / most)
            right = row == column
            full = (28, 110, 164) if right else (200, 70, 50)
            colour = tuple(int(255 - share * (255 - channel)) for channel in full)
            left, top = margin + column * cell, margin + row * cell
            canvas.fill(left + 1, top + 1, cell - 2, cell - 2, (colour[0], colour[1], colour[2]))
            if count:
                ink = (255, 255, 255) if share > 0.6 else (60, 60, 60)
                canvas.number(left + cell // 2, top + cell // 2, count, ink)
    return canvas.png()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    noise, seed = float(os.environ.get("NOISE", "0.3")), int(os.environ.get("SEED", "1"))
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--noise", type=float, default=noise, help="how dirty the pictures are")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--samples", type=int, default=1200)
    options = parser.parse_args()
    began = time.monotonic()
    rng = random.Random(options.seed)  # pictures, no secrets
    learned = dataset(rng, options.samples, options.noise)
    unseen = dataset(rng, options.samples // 2, options.noise)
    model, loss = train(learned, epochs=options.epochs, rng=rng)
    matrix = confusion(model, unseen)
    right = sum(matrix[digit][digit] for digit in range(CLASSES))
    seconds = time.monotonic() - began
    lines = [
        f"- Accuracy: **{right / len(unseen):.1%}** of {len(unseen)} unseen pictures",
        f"- Loss: {loss:.4f} after {options.epochs} epochs over {len(learned)} pictures",
        f"- Training time: {seconds:.1f} s",
    ]
    # Markdown: the empty line ends the list.
    Path("metrics.txt").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    Path("confusion_matrix.png").write_bytes(draw_matrix(matrix))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
