"""The geometry of the kernel order: matrices are cut into tiles of 16 rows, tiles into blocks of 32 columns."""

from __future__ import annotations

TILE_ROWS = 16
BLOCK_COLUMNS = 32
QUADS = 8  # of four columns, in a block
VECTOR_BYTES = 64


def tiles(rows: int) -> int:
    """Tiles of 16 rows that hold `rows` rows."""
    return -(-rows // TILE_ROWS)


def blocks(columns: int) -> int:
    """Blocks of 32 columns that hold `columns` columns."""
    return -(-columns // BLOCK_COLUMNS)
