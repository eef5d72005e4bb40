#!/usr/bin/env python3
"""Security margin of the lattice parameter sets: the table of docs/lattice.md.

Three attacks on LWE with a ternary secret, BKZ by sieving at 0.292 beta + 16.4 bits for each of 8 d calls:
primal (uSVP on the embedding); dual, with part of the secret guessed by a Fourier transform; hybrid, with part of it
guessed by meeting in the middle and nearest planes for the rest. All are estimates that favour the attacker: the dual attack is
granted that all vectors of a sieve are independent, the hybrid one that meeting in the middle takes the square root of
the guesses with certainty and no memory. No dependencies.
"""
from math import e, erf, log, log2, pi, sqrt

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


def total(*costs):
    """log2 of the sum of numbers given by their logarithms."""
    most = max(costs)
    return most + log2(sum(2 ** (cost - most) for cost in costs))


def sieve(beta):
    return 0.292 * beta + 16.4


def dual(n, log_q):
    """Bits of the dual attack: short dual vectors of a sieve (Matzov, 2022, without modulus switching), the first k
    coordinates guessed at 3^k k operations."""
    best = (float("inf"), None, None)
    for k in range(0, 100, 4):
        rest = n - k
        for samples in range(n // 2, 2 * n + 1, n // 16):
            d = samples + rest
            volume = rest * (log_q + log2(SECRET / NOISE)) / d
            for beta in range(200, 520, 4):
                length = 0.5 * log2(4 / 3) + d * log2(root_hermite(beta)) + volume
                # log2 of the bias of one vector's inner product with the samples.
                bias = -2 * (pi * NOISE) ** 2 * 2 ** (2 * (length - log_q)) / log(2)
                needed = -2 * bias + log2(2 * log(2) * (k * log2(3) + 10))
                sieves = max(0, needed - beta / 2 * log2(4 / 3))
                guesses = k * log2(3) + log2(max(k, 1))
                cost = total(sieve(beta) + log2(8 * d), sieve(beta) + sieves, needed, guesses)
                best = min(best, (cost, beta, k))
    return best


def hybrid(n, log_q):
    """Bits of the hybrid attack: BKZ once, then nearest planes for the square root of 3^k guesses."""
    best = (float("inf"), None, None)
    for k in range(0, 160, 8):
        rest = n - k
        for samples in range(n // 2, 2 * n + 1, n // 8):
            d = samples + rest
            volume = (samples * log_q + rest * log2(NOISE / SECRET)) / d
            for beta in range(200, 520, 4):
                delta = log2(root_hermite(beta))
                chance = 0.0
                # Gram-Schmidt norms fall geometrically; the last ones decide.
                for i in range(d - 1, -1, -1):
                    norm = 2 ** min(60.0, (d - 1 - 2 * i) * delta + volume)
                    if norm > 16 * NOISE:
                        break
                    chance += log2(max(erf(norm / (2 * sqrt(2) * NOISE)), 1e-300))
                    if chance < -200:
                        break
                guesses = k / 2 * log2(3) + 2 * log2(d) - 1 - chance
                best = min(best, (total(sieve(beta) + log2(8 * d), guesses), beta, k))
    return best


def largest_modulus(n, bits):
    low, high = 10.0, 400.0
    while high - low > 0.1:
        middle = (low + high) / 2
        low, high = (middle, high) if security(n, middle)[0] >= bits else (low, middle)
    return low


if __name__ == "__main__":
    print("set      dimension  log2 q  attack  block size  samples or guessed  bits")
    for name, n, log_q in [("r512x5", 2560, 64), ("r512x6", 3072, 78), ("r4096x1", 4096, 104)]:
        for attack, found in [("primal", security), ("dual", dual), ("hybrid", hybrid)]:
            bits, beta, other = found(n, log_q)
            print(f"{name}  {n:9d}  {log_q:6d}  {attack:6}  {beta:10d}  {other:18d}  {bits:.1f}")
    print("\ndimension  largest log2 q at 128 bits  at 133 bits  published (HE standard)")
    for n, published in [(1024, 27), (2048, 54), (2560, None), (3072, None), (4096, 109), (8192, 218)]:
        print(f"{n:9d}  {largest_modulus(n, 128):26.1f}  {largest_modulus(n, 133):11.1f}  {published or '-'}")
