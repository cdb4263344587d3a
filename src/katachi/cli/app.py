"""The commands and their options. What they do stands in the other files, which are loaded when a command runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from katachi.cli.tasks import TASKS, Task

app = typer.Typer(
    help="Deep learning in pure Python: train a model, stop and resume it, see how good it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = typer.Typer(
    help="Train a model. The data comes with katachi, with Python or with Debian.", no_args_is_help=True
)
app.add_typer(train, name="train")

FOLDER = (  # a line a paragraph: the help is set to the width of the terminal
    "The run's folder gets config.json (what was asked), metrics.jsonl (a line an epoch), checkpoint.safetensors "
    "(everything that `katachi resume` needs), at the end model.safetensors (the weights) and, where matplotlib is "
    "installed, curves.png.\n\n"
    "Ctrl-C saves and ends the run; a killed run goes on from its last checkpoint."
)


def command(name: str, task: Task) -> Callable[..., None]:
    """`katachi train <name>`: the same options for every task, with its own defaults."""
    models = task.models
    first = next(iter(models))

    def each(field: str) -> str:
        """The default of each model, in one word if they agree."""
        values = {model: getattr(recipe, field) for model, recipe in models.items()}
        if len(set(values.values())) == 1:
            return str(values[first])
        return ", ".join(f"{value} for {model}" for model, value in values.items())

    def run(
        model: Annotated[
            str,
            typer.Option(metavar="|".join(models), help=". ".join(f"{m}: {r.says}" for m, r in models.items()) + "."),
        ] = first,
        epochs: Annotated[
            int | None,
            typer.Option(min=1, help=f"How often all training {task.items} are seen.", show_default=each("epochs")),
        ] = None,
        batch_size: Annotated[
            int, typer.Option(min=1, help=f"How many {task.items} make one step of the optimiser.")
        ] = task.batch_size,
        lr: Annotated[
            float | None,
            typer.Option(help="AdamW's learning rate: how far one step goes.", show_default=each("lr")),
        ] = None,
        seed: Annotated[
            int,
            typer.Option(
                min=0, help=f"Decides first weights, order of {task.items} and dropout. The same seed, the same run."
            ),
        ] = 0,
        device: Annotated[
            str,
            typer.Option(
                help="Where to compute: cpu is compiled, reference is NumPy, slow and the measure of all others."
            ),
        ] = "cpu",
        folder: Annotated[
            Path | None,
            typer.Option(
                help="Where the data's files are.",
                show_default="where Debian puts them, or what KATACHI_FASHION_MNIST names",
                hidden=not task.has_folder,
            ),
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option(help="A new folder for the run.", show_default=f"runs/{name}-<n>, the first that is free"),
        ] = None,
        checkpoint_every: Annotated[
            float,
            typer.Option(
                min=0, help="Seconds between checkpoints within an epoch; each epoch ends with one in any case."
            ),
        ] = 60.0,
    ) -> None:
        from katachi.cli.config import Config
        from katachi.cli.run import begin

        recipe = models.get(model, models[first])  # a wrong name is told later, with the others
        config = Config(
            name,
            model,
            recipe.epochs if epochs is None else epochs,
            batch_size,
            recipe.lr if lr is None else lr,
            seed,
            device,
            checkpoint_every,
            None if folder is None else str(folder.absolute()),
        )
        raise typer.Exit(begin(config, out))

    run.__doc__ = f"{task.says}\n\n{FOLDER}"
    return run


for _name, _task in TASKS.items():
    train.command(_name)(command(_name, _task))

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, runs/digits-1 for example.")]
Device = Annotated[str | None, typer.Option(help="Where to compute.", show_default="where the run was trained")]


@app.command()
def resume(run: Run) -> None:
    """Go on with a run that was stopped, killed or ran out of disk.

    It begins at its last checkpoint, or from the beginning if there is none yet. The weights at the end are, bit for
    bit, those of a run that was never stopped. A finished run is only reported.
    """
    from katachi.cli.run import resume

    raise typer.Exit(resume(run))


@app.command()
def evaluate(run: Run, device: Device = None) -> None:
    """Tell how good a run's last checkpoint is, on data it was trained on and on data it has never seen."""
    from katachi.cli.run import evaluate

    raise typer.Exit(evaluate(run, device))


@app.command()
def sample(
    run: Run,
    length: Annotated[int, typer.Option(min=1, help="How many characters to write.")] = 400,
    temperature: Annotated[
        float,
        typer.Option(
            min=0, help="0: always the likeliest character. 1: as often as the model expects it. More: wilder."
        ),
    ] = 0.8,
    prompt: Annotated[str, typer.Option(help="What the text begins with.")] = "def ",
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another text.")] = 0,
    device: Device = None,
) -> None:
    """Let a language model write on after a prompt.

    Needs a run of python-source. It writes character by character, each drawn from what the model expects.
    """
    from katachi.cli.run import sample

    raise typer.Exit(sample(run, prompt, length, temperature, seed, device))


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
