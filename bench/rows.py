"""What is measured: the rows, and the columns beside one another."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """One framework in one mode; a process of its own. A yardstick does something else than the row it stands in."""

    name: str
    framework: str
    compiled: bool = False
    yardstick: str = ""

    @property
    def ours(self) -> bool:
        return self.framework == "katachi"


COLUMNS = {
    c.name: c
    for c in (
        Column("katachi", "katachi"),
        Column("katachi compiled", "katachi", compiled=True),
        Column("torch", "torch"),
        Column("torch.compile", "torch", compiled=True),
        Column("JAX jit", "jax", compiled=True),
        Column("NumPy", "numpy"),
        Column("katachi triad", "katachi", yardstick="triad"),
        Column("torch triad", "torch", yardstick="triad"),
    )
}
ALL = ("katachi", "katachi compiled", "torch", "torch.compile", "JAX jit")
ADAMW = ("katachi", "katachi compiled", "torch", "JAX jit", "katachi triad", "torch triad")


class Row(NamedTuple):
    """`tolerance`: how far results of the first calls may be apart, as a share of the largest number in them."""

    name: str
    kind: str  # "steps" or "kernels": which modules build it
    what: str
    columns: tuple[str, ...] = ALL
    tolerance: float = 1e-4


_ROWS = (
    # AdamW turns the rounding of a tiny gradient into a whole step, so the losses drift apart a little.
    Row("xor", "steps", "MLP 2-16-2, batch 4", tolerance=1e-3),
    Row("mlp-small", "steps", "MLP 784-128-10, batch 32", tolerance=1e-3),
    Row("mlp-big", "steps", "MLP 784-1024-1024-10, batch 256", tolerance=1e-3),
    Row("cnn", "steps", "conv 1-32-64 3x3, pools, 3136-128-10, batch 64 of 28x28", tolerance=1e-3),
    Row("gpt", "steps", "4 layers, width 192, 6 heads, vocabulary 65, 16 x 128 tokens", tolerance=1e-3),
    *(
        Row(f"matmul-{n}", "kernels", f"{n} cubed, float32", ("katachi", "torch", "NumPy"))
        for n in (512, 1024, 2048)
    ),
    *(Row(f"matmuls-{n}", "kernels", f"100 dependent ones of {n} cubed, float32") for n in (16, 32, 64, 128)),
    Row("chain", "kernels", "exp(tanh(1.5x+.5)*sigmoid(x)) of 16.7 M float32"),
    Row("softmax", "kernels", "of 1024 x 4096, with its gradient"),
    Row("layer_norm", "kernels", "of 1024 x 4096, with its gradients"),
    Row("gelu", "kernels", "exact, of 1024 x 4096, with its gradient"),
    # The triads are in the same race, because the machine's bandwidth drifts.
    Row("adamw", "kernels", "one update of 50 M parameters; triad: a = a + 3 c of as many, in place", ADAMW),
)  # fmt: skip
ROWS = {row.name: row for row in _ROWS}


def chosen(names: list[str]) -> list[Row]:
    """The rows that are meant: by name, by kind, or by the name before the dash; all if none is named.

    Raises ValueError for a name that means nothing.
    """
    for name in names:
        if not any(name in _names(row) for row in _ROWS):
            raise ValueError(f"there is no row {name!r}; there are {', '.join(ROWS)}, and all steps or kernels")
    return [row for row in _ROWS if not names or set(names) & _names(row)]


def _names(row: Row) -> set[str]:
    return {row.name, row.kind, row.name.split("-")[0] if row.kind == "kernels" else row.name}
