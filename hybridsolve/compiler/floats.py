"""The elementary functions of csrc/core/math.h on plain floats."""

import math

TINY, LARGEST = 2.0**-500, 690.0


def exp(x: float) -> float:
    return math.exp(min(max(x, -LARGEST), LARGEST))


def log(x: float) -> float:
    return math.log(max(x, TINY))


def sqrt(x: float) -> float:
    return math.sqrt(max(x, TINY))


def power(x: float, y: float) -> float:
    x = max(x, TINY)
    return x**y if abs(y * math.log2(x)) < 1001 else 2.0 ** math.copysign(1001.0, y * math.log2(x))


tanh, sin, cos = math.tanh, math.sin, math.cos


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(exp(-abs(x)))


def floor(x: float) -> float:
    return float(math.floor(x))
