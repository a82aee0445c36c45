#!/usr/bin/env python3
"""Reads a KVQ snapshot and prints its key and value vectors, by docs/FORMAT.md alone.

    python3 docs/read_snapshot.py FILE

Prints one line per vector: layer, k or v, head, position, and its values, rotated back."""
import struct
import sys
import zlib

SIGNS = ((0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
         (0x452821E638D01377, 0xBE5466CF34E90C6C, 0xC0AC29B7C97C50DD, 0x3F84D5B5B5470917))
PLANES = ((8,), (4,), (2, 1), (2,), (2, 1, 1), (2, 1), (1, 1))  # q8 s4 s3 s2 t4 t3 t2
HALVES = ((), (6, 18, 31, 44, 58, 75, 96, 127), (14, 45, 79, 127), (38, 127),
          (3, 8, 13, 18, 24, 29, 35, 41, 47, 53, 61, 69, 78, 90, 105, 127), (6, 17, 30, 42, 56, 72, 94, 127),
          (13, 42, 73, 127))
LEVELS = tuple(tuple(-x for x in reversed(half)) + half for half in HALVES)
S4 = 1


def scale(e):
    """2^(e/8) as FORMAT.md section 1 has it; an exponent of None is a row of zeros."""
    if e is None:
        return 0.0
    mantissa = struct.unpack("<f", struct.pack("<f", round(2 ** (e % 8 / 8) * 2**30)))[0] / 2**30
    return 0.0 if e // 8 < -126 else mantissa * 2.0 ** (e // 8)


def transform(x):
    stride = 1
    while stride < len(x):
        for i in range(len(x)):
            if not i & stride:
                x[i], x[i + stride] = x[i] + x[i + stride], x[i] - x[i + stride]
        stride *= 2
    return [v / len(x) ** 0.5 for v in x]


def unrotate(x):
    p = 1 << (len(x).bit_length() - 1)
    passes = [(0, SIGNS[0])] + ([(len(x) - p, SIGNS[1])] if p < len(x) else [])
    for at, signs in reversed(passes):
        part = transform(x[at : at + p])
        x[at : at + p] = [-v if signs[i // 64] >> i % 64 & 1 else v for i, v in enumerate(part)]
    return x


def plane_codes(width, row, n):
    if width == 8:
        return struct.unpack(f"{n}b", row)
    if width == 1:
        return [row[i // 8] >> i % 8 & 1 for i in range(n)]
    return [row[i % len(row)] >> width * (i // len(row)) & (1 << width) - 1 for i in range(n)]


def levels(layout, rows, n):
    """The levels of one row, given its bytes in each plane."""
    codes, shift = [0] * n, 0
    for width, row in zip(PLANES[layout], rows):
        codes = [c | bits << shift for c, bits in zip(codes, plane_codes(width, row, n))]
        shift += width
    if layout == 0:
        return codes
    if layout >= 4:
        u = [c >> shift - 1 for c in codes]
        upper = [c & (1 << shift - 1) - 1 for c in codes]
        codes = [4 * upper[i] + 2 * (u[i] ^ u[i - 1] ^ u[i - 3]) + u[i - 2] for i in range(n)]
    return [LEVELS[layout][c] for c in codes]


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        self.at += n
        return self.data[self.at - n : self.at]

    def numbers(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def exponents(self, n):
        return [None if e == -32768 else e for e in self.numbers(f"{n}h")]

    def rows(self, layout, blocks, n):
        """Levels [block][token] of n tokens of a side whose blocks have `blocks` values each."""
        planes = [[[self.take((v * w + 7) // 8) for _ in range(n)] for v in blocks] for w in PLANES[layout]]
        return [[levels(layout, [p[b][t] for p in planes], v) for t in range(n)] for b, v in enumerate(blocks)]


def read(data):
    if data[:8] != b"KVQSNAP\n" or struct.unpack_from("<H", data, 8) != (1,):
        sys.exit("not a snapshot of version 1")
    if len(data) != struct.unpack_from("<Q", data, 16)[0]:
        sys.exit("cut off, or followed by other bytes")
    for end in (140, len(data) - 4):
        if zlib.crc32(data[:end]) != struct.unpack_from("<I", data, end)[0]:
            sys.exit("wrong checksum")
    n_layers, n_heads, *dims = struct.unpack_from("<4I", data, 28)
    (span_len,) = struct.unpack_from("<H", data, 48)
    tiers = [[data[at + 8 * i] for i in range(4)] for at in (60, 92)]
    blocks = []  # values of each block, per side
    for dim in dims:
        per_block = -(-32 // dim) * dim
        blocks.append([min(per_block, n_heads * dim - at) for at in range(0, n_heads * dim, per_block)])

    def emit(layer, side, pos, vectors):
        row = sum(vectors, [])
        for head in range(n_heads):
            vector = unrotate(row[head * dims[side] : (head + 1) * dims[side]])
            print(layer, "kv"[side], head, pos, *map(repr, vector))

    def precise(reader, layer, start, n):
        exponents = [reader.exponents(n * len(b)) for b in blocks]
        for side, own in enumerate(blocks):
            rows = reader.rows(0, own, n)
            for t in range(n):
                scales = [scale(e) for e in exponents[side][t * len(own) :]]
                emit(layer, side, start + t, [[c * s for c in row[t]] for row, s in zip(rows, scales)])

    reader = Reader(data[144:-4])
    for layer in range(n_layers):
        length, n_sink, n_recent, n_evicted, n_spans = reader.numbers("5I")
        precise(reader, layer, 0, n_sink)
        pos = n_sink + n_evicted
        for _ in range(n_spans):
            count, *tier = reader.numbers("HBB")
            layouts = [tiers[side][tier[side]] for side in (0, 1)]
            bases = [reader.exponents(len(b)) for b in blocks]
            centers = [[[0.0] * n for n in b] for b in blocks]
            if layouts[0] != 0:
                exponents = reader.exponents(len(blocks[0]))
                rows = reader.rows(S4, blocks[0], 1)
                centers[0] = [[c * scale(e) for c in row[0]] for row, e in zip(rows, exponents)]
            bytes_ = [[reader.take(span_len) for _ in b] for b in blocks]
            for side, own in enumerate(blocks):
                rows = reader.rows(layouts[side], own, span_len)
                for t in range(count):
                    below = [b[t] for b in bytes_[side]]
                    scales = [scale(None if x == 255 else e - x) for e, x in zip(bases[side], below)]
                    parts = zip(rows, scales, centers[side])
                    emit(layer, side, pos + t, [[c * s + m for c, m in zip(r[t], mid)] for r, s, mid in parts])
            pos += count
        precise(reader, layer, length - n_recent, n_recent)


with open(sys.argv[1], "rb") as file:
    read(file.read())
