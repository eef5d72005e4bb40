#!/usr/bin/env python3
"""Security margin of the lattice parameter sets: the table of docs/lattice.md.

Primal attack (uSVP) with BKZ on the embedding of LWE with a ternary secret, core-SVP sieving cost
0.292 beta + 16.4 bits for each of 8 d calls. No dependencies.
"""
from math import e, log2, pi, sqrt

NOISE = sqrt(10.5)  # the difference of two counts of 21 coins
SECRET = sqrt(2 / 3)  # uniform ternary


def root_hermite(beta):
    return (beta / (2 * pi * e) * (pi * beta) ** (1 / beta)) ** (1 / (2 * (beta - 1)))


def block_size(n, log_q, samples):
    """Least beta whose BKZ finds the secret among this many samples; None where none below 3000 does."""
    d = samples + n + 1
    # log2 of the root volume, the secret's coordinates scaled to the size of the noise.
    volume = (samples * log_q + n * log2(NOISE / SECRET)) / d

    def finds(beta):
        return 0.5 * log2(beta) + log2(NOISE) <= (2 * beta - d - 1) * log2(root_hermite(beta)) + volume

    low, high = 60, min(d, 3000)
    if not finds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle + 1, high)
    return low


def security(n, log_q):
    """Bits of the cheapest attack over the number of samples it uses."""
    best = (float("inf"), None, None)
    for samples in range(n // 2, 2 * n + 1, max(1, n // 64)):
        beta = block_size(n, log_q, samples)
        if beta is not None:
            d = samples + n + 1
            best = min(best, (0.292 * beta + 16.4 + log2(8 * d), beta, samples))
    return best


def largest_modulus(n, bits):
    low, high = 10.0, 400.0
    while high - low > 0.1:
        middle = (low + high) / 2
        low, high = (middle, high) if security(n, middle)[0] >= bits else (low, middle)
    return low


if __name__ == "__main__":
    print("set      dimension  log2 q  block size  samples  bits")
    for name, n, log_q in [("r512x5", 2560, 64), ("r512x6", 3072, 78)]:
        bits, beta, samples = security(n, log_q)
        print(f"{name}  {n:9d}  {log_q:6d}  {beta:10d}  {samples:7d}  {bits:.1f}")
    print("\ndimension  largest log2 q at 128 bits  at 133 bits  published (HE standard)")
    for n, published in [(1024, 27), (2048, 54), (2560, None), (3072, None), (4096, 109), (8192, 218)]:
        print(f"{n:9d}  {largest_modulus(n, 128):26.1f}  {largest_modulus(n, 133):11.1f}  {published or '-'}")
