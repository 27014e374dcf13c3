"""From a data set to a bundle: decode, fit, export, measure, draw."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from model_server import exporter
from model_server.bundle import InputSpec
from model_server.errors import ExportError
from model_server.exporter import SCALINGS, Preparation, Report
from model_server.exporter.convert import Quantization
from model_server.exporter.pictures import LabelledPictures
from model_server.exporter.source import require_tensorflow
from model_server.training import confusion, dataset, feedback
from model_server.training.dataset import Split
from model_server.training.fit import Listener, fit
from model_server.training.network import with_mirror
from model_server.training.recipe import Recipe

MODEL, MIRRORED, SETTINGS, CHECKPOINT = "model.keras", "mirrored.keras", "settings.json", "checkpoint"
CONFUSION = "confusion.png"
LEAST_SIZE = 16
"""The network halves the side three times."""

PREPARATION = Preparation(SCALINGS["tf"], "crop", 1.0)


@dataclass(frozen=True)
class Training:
    """What to train, on what, and what the bundle is to say about it.

    ``work`` keeps the checkpoints and the Keras model; ``trained_on`` replaces the name and size of the data set.
    ``mirror`` has the bundle's model average its scores over a picture and its mirror image. ``feedback`` is an export
    of what users labelled, each picture of which counts ``feedback_repeat`` times.
    """

    data: Path
    work: Path
    name: str
    version: str = "1"
    size: int = 32
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    quantize: Quantization = "float16"
    mirror: bool = False
    feedback: Path | None = None
    feedback_repeat: int = 1
    trained_on: str | None = None
    licence: str | None = None
    restart: bool = False
    threads: int = 1


def train(training: Training, output: Path, listener: Listener, *, force: bool) -> Report:
    """Write the bundle ``output``.

    A fit that was interrupted goes on, and a finished one is not repeated, unless ``restart`` says so.
    Raises ExportError where the data set, the work folder or the output will not do.
    """
    require_tensorflow()
    if training.size < LEAST_SIZE:
        raise ExportError(f"The pictures' side is {training.size}; the network needs at least {LEAST_SIZE}.")
    with exporter.new_folder(output, force=force) as folder:
        pictures, test = dataset.find_splits(training.data)
        corrections = feedback.find(training.feedback, pictures.labels) if training.feedback else None
        _fit(training, pictures, test, corrections, listener)
        options = exporter.Options(
            name=training.name,
            labels=pictures.labels,
            version=training.version,
            preparation=PREPARATION,
            quantize=training.quantize,
            evaluation=test,
            trained_on=_trained_on(training, pictures, corrections),
            licence=training.licence,
            threads=training.threads,
        )
        made = exporter.assemble(folder, exporter.find(_original(training)), options, listener.step)
        if made.confusion is not None:
            confusion.draw(made.confusion, pictures.labels, f"{training.name} {training.version}", folder / CONFUSION)
    return made


def _original(training: Training) -> Path:
    """Return the Keras file that the bundle is made of."""
    if not training.mirror:
        return training.work / MODEL
    import keras

    with_mirror(keras.models.load_model(training.work / MODEL, compile=False)).save(training.work / MIRRORED)
    return training.work / MIRRORED


def _fit(
    training: Training,
    train: LabelledPictures,
    test: LabelledPictures,
    corrections: LabelledPictures | None,
    listener: Listener,
) -> None:
    """Leave a fitted model in the work folder."""
    spec = InputSpec(
        height=training.size,
        width=training.size,
        resize=PREPARATION.resize,
        crop_fraction=PREPARATION.crop_fraction,
        filter=PREPARATION.filter,
    )
    examples = dataset.decode(train, train.labels, spec, listener.step)
    tests = dataset.decode(test, train.labels, spec, listener.step)
    if corrections:
        corrected = dataset.decode(corrections, train.labels, spec, listener.step)
        examples = _mix_in(examples, corrected, tests, training.feedback_repeat, listener)
    if _prepare_work(training, {"labels": train.labels, "train": examples.digest()}):
        return
    model = fit(examples, tests, training.recipe, training.work / CHECKPOINT, listener)
    model.save(training.work / f"unfinished-{MODEL}")
    (training.work / f"unfinished-{MODEL}").rename(training.work / MODEL)
    shutil.rmtree(training.work / CHECKPOINT, ignore_errors=True)


def _mix_in(train: Split, corrected: Split, test: Split, repeat: int, listener: Listener) -> Split:
    kept = feedback.without_copies(corrected, test)
    left_out = len(corrected.images) - len(kept.images)
    times = f", {repeat} times each" if repeat > 1 else ""
    copies = f"; {left_out} left out: they are test pictures" if left_out else ""
    listener.epoch(f"Feedback: {len(kept.images):,} pictures beside {len(train.images):,}{times}{copies}")
    return feedback.mix_in(train, kept, repeat)


def _prepare_work(training: Training, content: dict[str, object]) -> bool:
    """Make the work folder ready for this fit; return whether it is finished there already."""
    work = training.work
    settings = {"recipe": dataclasses.asdict(training.recipe), "size": training.size, **content}
    if training.restart:
        shutil.rmtree(work / CHECKPOINT, ignore_errors=True)
        (work / MODEL).unlink(missing_ok=True)
    elif (work / MODEL).exists() or (work / CHECKPOINT).exists():
        _check_settings(work, settings)
    work.mkdir(parents=True, exist_ok=True)
    (work / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return (work / MODEL).exists()


def _check_settings(work: Path, settings: dict[str, object]) -> None:
    path = work / SETTINGS
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    different = [name for name, value in settings.items() if found.get(name) != value]
    if different:
        raise ExportError(
            f"{work} holds a fit of other {' and '.join(different)}; "
            "--restart discards it, --work names another folder."
        )


def _trained_on(training: Training, train: LabelledPictures, corrections: LabelledPictures | None) -> str:
    counted = f"{training.data.name}: {len(train):,} pictures of {len(train.labels)} classes"
    twice = "; scores averaged over each picture and its mirror image" if training.mirror else ""
    labelled = f" and {len(corrections):,} that users labelled" if corrections else ""
    name = f"{training.trained_on or counted}{labelled}"
    return f"{name}, at {training.size} x {training.size}; {training.recipe.in_words()}{twice}"
