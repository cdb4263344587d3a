"""The commands and their options. What they do stands in the other files, which are loaded when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

app = typer.Typer(
    help="Deep learning in pure Python: train a model, see which devices and primitives there are.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = typer.Typer(help="Train a model on bundled data.", no_args_is_help=True)
app.add_typer(train, name="train")


@train.command()
def digits(
    model: Annotated[
        Literal["mlp", "cnn"],
        typer.Option(help="mlp: three dense layers, seconds. cnn: two convolutions, then two dense layers."),
    ] = "mlp",
    epochs: Annotated[
        Optional[int],  # noqa: UP045 - read at run time
        typer.Option(
            min=1,
            help="How often every training image is seen. The default suits the model.",
            show_default="20 for mlp, 10 for cnn",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one step of the optimiser.")] = 64,
    lr: Annotated[float, typer.Option(help="AdamW's learning rate: how far one step goes.")] = 3e-3,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Decides first weights, order of images and dropout. The same seed, the same run."),
    ] = 0,
    device: Annotated[
        str,
        typer.Option(help="Where to compute: cpu is compiled, reference is NumPy, slow and the measure of all others."),
    ] = "cpu",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A new folder for the run.", show_default="runs/digits-<n>, the first that is free"),
    ] = None,
) -> None:
    """Learn to read 8 x 8 images of handwritten digits: 1,437 to train on, 360 to test on, which are never trained on.

    The run's folder gets config.json (what was asked), metrics.jsonl (a line an epoch), model.safetensors (the
    weights) and, where matplotlib is installed, curves.png. Ctrl-C ends the run and keeps what was reached.
    """
    from katachi.cli.digits import Settings, run

    raise typer.Exit(run(Settings(model, epochs, batch_size, lr, seed, device, out)))


@app.command()
def devices() -> None:
    """List the devices that programs can run on."""
    from katachi.cli.tables import print_devices

    print_devices()


@app.command()
def primitives() -> None:
    """Print the table of primitives: which room has which of its rows filled."""
    from katachi.cli.tables import print_primitives

    print_primitives()
