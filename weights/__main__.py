"""`python -m weights`: train makes a model file of a recipe, evaluate measures one with the NumPy engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from weights import WeightsError
from weights.recipes import RECIPES, TRACKS

if TYPE_CHECKING:
    from rich.progress import Progress

    from engine.card import ModelCard
    from weights.datasets import Dataset
    from weights.evaluate import Evaluation
    from weights.recipe import Recipe, TrackRecipe
    from weights.train import Trained

DEFAULT_FOLDER = Path("data")
SETS = ", ".join(sorted({recipe.data for recipe in RECIPES.values()}))
BAD_DATA_OR_MODEL = 78
INTERRUPTED = 130
INSTALL = "pip install -e '.[train]' --extra-index-url https://download.pytorch.org/whl/cpu"

AnyRecipe = TypeVar("AnyRecipe", "Recipe", "TrackRecipe")

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

DataFolder = Annotated[
    Path, typer.Option("--data", help="Folder of the data sets; what is missing is downloaded into it.")
]
Plots = Annotated[Path | None, typer.Option(help="Folder to draw PNG plots into.")]


@app.command()
def train(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join([*RECIPES, *TRACKS])}.")],
    data: DataFolder = DEFAULT_FOLDER,
    out: Annotated[Path | None, typer.Option(help="Model file to write; runs/NAME.npz if not given.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="PyTorch's threads; its own choice if not given.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where PyTorch computes.")] = "cpu",
    plots: Plots = None,
) -> None:
    """Train a recipe in PyTorch and write the best checkpoint as a model file with its card."""
    with _errors():
        if name in TRACKS:
            _train_track(_changed(TRACKS[name], epochs, seed), out, threads, device, plots)
            return
        recipe = _recipe(name, epochs, seed)
        out = out or Path("runs") / f"{name}.npz"
        _check_out(out)
        torch = _import_torch(device)
        if plots:
            _import_plots()
        if threads:
            torch.set_num_threads(threads)
        from weights.export import export

        dataset = _load(recipe.data, data, recipe.validation)
        trained = _train(recipe, dataset, device)
        model, result = export(trained, recipe, dataset, out)
        _print_result(result, model.card.labels, f"{name} on the {recipe.data} test split")
        if plots:
            from weights.plots import curves

            curves(trained.history, trained.best, name, plots / f"{name}_curves.png")
            _plot_confusion(result, model.card, plots)
        print(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB), best epoch {trained.best.number} of {recipe.epochs}")


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="A model file.")],
    data: DataFolder = DEFAULT_FOLDER,
    dataset: Annotated[str | None, typer.Option(help=f"One of: {SETS}; the recipe's if not given.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many pictures of the test split.")] = None,
    plots: Plots = None,
) -> None:
    """Measure a model file on its test split with the NumPy engine."""
    with _errors():
        if plots:
            _import_plots()
        from engine.model import load
        from weights import evaluate as evaluation

        model = load(file)
        source = dataset or (RECIPES[model.card.net].data if model.card.net in RECIPES else None)
        if source is None:
            raise WeightsError(f"no recipe for net '{model.card.net}': name its data with --dataset ({SETS})")
        pictures = _load(source, data).test[slice(limit)]
        result = evaluation.evaluate(model, pictures)
        _print_result(result, model.card.labels, f"{file} on the {source} test split")
        _print_confusion(result, model.card.labels)
        if plots:
            _plot_confusion(result, model.card, plots)


def main() -> None:
    """Run the command line."""
    app()


@contextmanager
def _errors() -> Iterator[None]:
    """One line and an exit code for what a user can cause."""
    from engine.graph import ModelError

    try:
        yield
    except (WeightsError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(BAD_DATA_OR_MODEL) from error
    except KeyboardInterrupt as error:
        print("interrupted: nothing was written", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from error


def _recipe(name: str, epochs: int | None, seed: int | None) -> Recipe:
    if name not in RECIPES:
        raise WeightsError(f"no recipe '{name}': there are {', '.join([*RECIPES, *TRACKS])}")
    return _changed(RECIPES[name], epochs, seed)


def _changed(recipe: AnyRecipe, epochs: int | None, seed: int | None) -> AnyRecipe:
    return replace(
        recipe,
        epochs=recipe.epochs if epochs is None else epochs,
        seed=recipe.seed if seed is None else seed,
    )


def _train_track(recipe: TrackRecipe, out: Path | None, threads: int | None, device: str, plots: Path | None) -> None:
    out = out or Path("runs") / f"{recipe.net}.npz"
    _check_out(out)
    if device != "cpu" or plots:
        raise WeightsError("the track net is trained on the CPU and draws no plots: leave --device and --plots out")
    torch = _import_torch(device)
    if threads:
        torch.set_num_threads(threads)
    from weights.export import export_track
    from weights.train_track import TrackEpoch, train_track

    print(f"{'epoch':>9}  {'train loss':>10}  {'valid. loss':>11} {'precision':>9} {'recall':>7} {'place':>6}")

    def report(done: TrackEpoch) -> None:
        print(
            f"{done.number:>4}/{recipe.epochs:<4}  {done.train_loss:>10.4f}  {done.validation_loss:>11.4f} "
            f"{done.precision:>9.2%} {done.recall:>7.2%} {done.place:>6.3f}",
            flush=True,
        )

    trained = train_track(recipe, report)
    export_track(trained, recipe, out)
    print(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB), best epoch {trained.best.number} of {recipe.epochs}")


def _check_out(out: Path) -> None:
    """Find out before the work, not after it."""
    if out.suffix != ".npz":
        raise WeightsError(f"--out {out}: a model file's name ends in .npz")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot make {out.parent}: {error.strerror or error}") from error
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise WeightsError(f"cannot write {out}: choose another place with --out")


def _import_torch(device: str) -> Any:
    torch = _optional("torch", "training needs PyTorch")
    if device == "cuda" and not torch.cuda.is_available():
        raise WeightsError("this PyTorch sees no CUDA device: leave --device out to train on the CPU")
    return torch


def _import_plots() -> None:
    _optional("matplotlib", "plots need matplotlib")


def _optional(module: str, need: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise WeightsError(f"{need}, which is not installed: {INSTALL}") from error


@contextmanager
def _progress(*columns: str) -> Iterator[Progress]:
    """A bar with a time left, and what `columns` name of the task's fields."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    fields = (TextColumn("{task.fields[" + column + "]}") for column in columns)
    text = TextColumn("{task.description}")
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(text, BarColumn(), *fields, *times, transient=True) as progress:
        yield progress


def _load(name: str, folder: Path, validation: float = 0.1) -> Dataset:
    from weights.datasets import load

    with _progress() as progress:
        task = progress.add_task(f"reading {name}", total=None)

        def downloaded(done: int, total: int) -> None:
            progress.update(task, description=f"downloading {name}", completed=done, total=total or None)

        return load(name, folder, validation, progress=downloaded)


def _train(recipe: Recipe, dataset: Dataset, device: str) -> Trained:
    from weights.train import Epoch, Report, steps_in, train

    with _progress("loss") as progress:
        task = progress.add_task(f"training {recipe.net}", total=steps_in(recipe, dataset), loss="")
        progress.console.print(f"{'epoch':>9}  {'train loss':>10} {'right':>7}  {'valid. loss':>11} {'right':>7}")

        def step(loss: float) -> None:
            progress.update(task, advance=1, loss=f"loss {loss:.3f}")

        def epoch(done: Epoch) -> None:
            progress.console.print(
                f"{done.number:>4}/{recipe.epochs:<4}  {done.train_loss:>10.4f} {done.train_accuracy:>7.2%}  "
                f"{done.validation_loss:>11.4f} {done.validation_accuracy:>7.2%}",
                highlight=False,
            )

        return train(recipe, dataset, device, Report(step, epoch))


def _print_result(result: Evaluation, labels: Sequence[str], title: str) -> None:
    from rich import print as show
    from rich.table import Table

    print(title)
    table = Table()
    table.add_column("class")
    table.add_column("pictures", justify="right")
    table.add_column("right", justify="right")
    for label, count, share in zip(_names(result, labels), result.confusion.sum(axis=1), result.per_class, strict=True):
        table.add_row(label, str(count), f"{share:.2%}" if count else "-")
    table.add_section()
    table.add_row("all", str(result.images), f"{result.accuracy:.2%}")
    show(table)
    print(f"NumPy engine, one process: {result.images_per_s:.0f} images/s")


def _print_confusion(result: Evaluation, labels: Sequence[str]) -> None:
    from rich import print as show
    from rich.table import Table

    names = _names(result, labels)
    table = Table("true \\ said", *(name[:5] for name in names))
    for row, (name, counts) in enumerate(zip(names, result.confusion, strict=True)):
        table.add_row(
            name,
            *(f"[bold green]{count}" if row == column else str(count or "·") for column, count in enumerate(counts)),
        )
    show(table)


def _plot_confusion(result: Evaluation, card: ModelCard, folder: Path) -> None:
    from weights.plots import confusion

    title = f"{card.net}: {result.accuracy:.2%} of {result.images}"
    confusion(result.confusion, _names(result, card.labels), title, folder / f"{card.net}_confusion.png")


def _names(result: Evaluation, labels: Sequence[str]) -> Sequence[str]:
    return labels or [str(number) for number in range(len(result.confusion))]


if __name__ == "__main__":
    main()
