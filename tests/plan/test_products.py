"""How products are carried out on chip, and dealt to threads."""

from __future__ import annotations

import pytest

from tncompile.plan.products import Dealt, Product


@pytest.mark.parametrize(
    ("product", "parts"),
    [
        (Product(1, 256, 4, 16), Product(1, 256, 4, 16)),  # four outer products
        (Product(1, 256, 8, 16), Product(1, 256, 16, 16)),  # filled up
        (Product(1, 16, 256, 16), Product(16, 16, 16, 16)),  # cut into parts
        (Product(1, 64, 32, 128), Product(1, 64, 16, 128)),  # half after half
        (Product(4, 8, 32, 8), Product(8, 8, 16, 8)),
    ],
)
def test_parts_of_products(product: Product, parts: Product) -> None:
    assert product.parts == parts


def test_a_thread_holds_rows_and_columns() -> None:
    # 256 threads make 4 by 4 results each, from 16 rows and 16 columns of length 16.
    assert Product(1, 256, 16, 16).registers(8) == 16 * (4 + 4) + 16


@pytest.mark.parametrize(
    ("product", "dealt"),
    [
        # 8 warps side by side, each with two rows of 32 columns
        (Product(1, 2, 16, 256), Dealt(1, 2, 1, 1)),
        # 4 by 4 results each: 16 by 2 threads a warp, two warps along rows, and four products
        (Product(4, 16, 16, 64), Dealt(1, 4, 4, 4)),
        # what is too small for all threads is made by several
        (Product(1, 4, 16, 4), Dealt(1, 1, 1, 1)),
    ],
)
def test_products_are_dealt(product: Product, dealt: Dealt) -> None:
    assert product.dealt(8) == dealt
