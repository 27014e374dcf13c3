"""Training from a folder or a zip to a bundle, on a few drawn pictures."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from model_server import classifier
from model_server.bundle import InputSpec
from model_server.cli.train import train as train_command
from model_server.errors import ExportError
from model_server.exporter.pictures import OWN_FILES
from model_server.exporter.progress import silent
from model_server.training import confusion, dataset, feedback, trainer
from model_server.training.augmentation import augment, mix
from model_server.training.fit import Listener
from model_server.training.recipe import Cycle, Recipe, one_cycle

SPEC = InputSpec(height=16, width=16, crop_fraction=1.0)


def drawn(label: str, number: int) -> bytes:
    """Return a 16 x 16 PNG: a warm or a cold colour with some noise."""
    colour = {"warm": (210, 120, 30), "cold": (30, 90, 200)}.get(label, (90, 90, 90))
    pixels = np.array(colour) + np.random.default_rng(number).integers(-25, 25, (16, 16, 3))
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def entries(top: str = "", train: int = 20, test: int = 4) -> dict[str, bytes]:
    counts = {"train": train, "test": test}
    return {
        f"{top}{split}/{label}/{number:03}.png": drawn(label, number + 100 * (split == "test"))
        for split, count in counts.items()
        for label in ("warm", "cold")
        for number in range(count)
    }


def as_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def as_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return as_zip(tmp_path_factory.mktemp("data") / "weather.zip", entries(top="weather/"))


@pytest.mark.parametrize("top", ["", "weather/", "some/where/"])
@pytest.mark.parametrize("pack", [as_zip, as_folder])
def test_pictures_are_found_in_folder_and_zip(tmp_path, pack, top):
    source = pack(tmp_path / "data.zip", entries(top) | {f"{top}README.md": b"", f"__MACOSX/{top}._0.png": b"?"})
    train, test = dataset.find_splits(source)
    assert (train.labels, len(train), len(test)) == (["cold", "warm"], 40, 8)
    split = dataset.decode(test, train.labels, SPEC, silent)
    assert (split.images.shape, split.images.dtype) == ((8, 16, 16, 3), np.uint8)
    assert split.classes.tolist() == [0] * 4 + [1] * 4
    assert split.images[0, 0, 0].argmax() == 2


def test_a_class_may_be_called_train(tmp_path):
    files = {f"{split}/{label}/1.png": drawn(label, 1) for split in ("train", "test") for label in ("train", "plane")}
    train, _ = dataset.find_splits(as_zip(tmp_path / "data.zip", files))
    assert train.labels == ["plane", "train"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no pictures; "),
        ({"notes.txt": b""}, "has no pictures; "),
        ({"train/a/1.png": b"", "train/b/1.png": b""}, r"has no pictures in test/; train/<class>/<file> and"),
        ({"test/a/1.png": b"", "test/b/1.png": b""}, r"has no pictures in train/"),
        ({"train/a/1.png": b"", "train/b/1.png": b"", "test/c/1.png": b""}, r"'c' is in test/ but not in train/"),
        ({"train/a/1.png": b"", "test/a/1.png": b""}, r"has the class 'a' alone"),
        ({"train/a/x/1.png": b"", "test/a/1.png": b""}, r"train/a/x/1.png does not lie at train/<class>/<file>"),
        ({"train/1.png": b"", "test/a/1.png": b""}, r"train/1.png does not lie at train/<class>/<file>"),
    ],
)
def test_a_data_set_of_another_layout_is_refused_in_a_sentence(tmp_path, files, message):
    with pytest.raises(ExportError, match=message):
        dataset.find_splits(as_zip(tmp_path / "data.zip", files))


def test_what_is_neither_folder_nor_zip_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"absent does not exist; a folder or a zip"):
        dataset.find_splits(tmp_path / "absent")
    (tmp_path / "data.tar").write_bytes(b"no zip")
    with pytest.raises(ExportError, match=r"data.tar is neither a folder nor a zip"):
        dataset.find_splits(tmp_path / "data.tar")


@pytest.mark.parametrize("pack", [as_zip, as_folder])
def test_an_unreadable_picture_is_named(tmp_path, pack):
    source = pack(tmp_path / "data.zip", entries() | {"train/warm/007.png": drawn("warm", 7)[:100]})
    train, _ = dataset.find_splits(source)
    with pytest.raises(ExportError, match=r"data.zip: train/warm/007.png: The image is damaged"):
        dataset.decode(train, train.labels, SPEC, silent)


def test_the_learning_rate_rises_and_falls_to_zero():
    rate = one_cycle(Cycle(10, 0.5, 0.2, cutmix=False), steps_per_epoch=10)
    assert [float(rate(step)) for step in (0, 10, 20, 60, 100)] == pytest.approx([0, 0.25, 0.5, 0.25, 0])


def test_the_default_recipe_has_two_cycles_and_one_epoch_has_one():
    assert Recipe().cycles() == [Cycle(30, 0.25, 0.2, cutmix=False), Cycle(24, 0.15, 0.1, cutmix=True)]
    assert Recipe(epochs=1).cycles() == [Cycle(1, 0.25, 0.2, cutmix=False)]


def test_augmented_pictures_stay_in_range_and_differ():
    pictures = augment(np.random.default_rng(1).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)).numpy()
    assert (pictures.shape, pictures.dtype) == ((8, 16, 16, 3), np.float32)
    assert pictures.min() >= -1
    assert pictures.max() <= 1
    assert ((pictures == 0).all(axis=-1).sum(axis=(1, 2)) > 0).any()


def test_mixed_targets_are_shares_of_the_area():
    plain = np.arange(64, dtype=np.float32).reshape(64, 1, 1, 1) * np.ones((1, 16, 16, 3), np.float32)
    pictures, targets = (tensor.numpy() for tensor in mix(plain, np.eye(64, dtype=np.float32)))
    assert targets.sum(axis=1) == pytest.approx(1)
    own = (pictures[..., 0] == np.arange(64).reshape(64, 1, 1)).mean(axis=(1, 2))
    assert targets.diagonal() == pytest.approx(own)
    assert 16 <= (own < 1).sum() <= 48


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 3])
def test_training_goes_on_where_it_stopped_and_ends_in_a_bundle(pictures, tmp_path, stop):
    recipe = Recipe(epochs=4, batch_size=20, peak_learning_rate=0.02)
    training = trainer.Training(pictures, tmp_path / "work", "weather", size=16, recipe=recipe, licence="CC0-1.0")
    told: list[str] = []

    def interrupt(line: str) -> None:
        told.append(line)
        if line.startswith(f"Epoch {stop}"):
            raise Interrupted

    with pytest.raises(Interrupted):
        trainer.train(training, tmp_path / "bundle", Listener(silent, interrupt), force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["work"]

    report = trainer.train(training, tmp_path / "bundle", Listener(silent, told.append), force=False)
    assert [line.partition(":")[0] for line in told] == [f"Epoch {number} of 4" for number in (1, 2, 3, 4)]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["model.keras", "settings.json"]

    manifest = report.manifest
    assert (manifest.name, manifest.quantization, manifest.licence) == ("weather", "float16", "CC0-1.0")
    assert manifest.trained_on.startswith("weather.zip: 40 pictures of 2 classes, at 16 x 16; shifted, mirrored")
    assert (manifest.input.height, manifest.input.crop_fraction) == (16, 1.0)
    assert manifest.accuracy.images == 8
    assert np.sum(manifest.accuracy.confusion) == 8
    assert Image.open(tmp_path / "bundle" / "confusion.png").format == "PNG"
    assert report.artifact_bytes < 3_000_000
    loaded = classifier.load(tmp_path / "bundle", "auto", 1, OWN_FILES)
    loaded.check_golden()
    assert loaded.bundle.labels == ["cold", "warm"]

    again = trainer.train(training, tmp_path / "again", Listener(silent, told.append), force=False)
    assert len(told) == 4
    assert again.manifest.sha256 == manifest.sha256

    mirrored = trainer.train(replace(training, mirror=True), tmp_path / "m", Listener(silent, told.append), force=False)
    assert len(told) == 4
    assert (
        mirrored.manifest.trained_on == f"{manifest.trained_on}; scores averaged over each picture and its mirror image"
    )
    twofold = classifier.load(tmp_path / "m", "auto", 1, OWN_FILES)
    pixels = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    inputs = np.stack([twofold.prepare(pixels), twofold.prepare(np.ascontiguousarray(pixels[:, ::-1]))])
    picture, mirror = twofold.session()(inputs)
    assert picture == pytest.approx(mirror, abs=1e-5)
    assert picture == pytest.approx(loaded.session()(inputs).mean(axis=0), abs=5e-3)


def test_another_fit_in_the_work_folder_is_kept_until_restarted(pictures, tmp_path):
    command = [str(pictures), "--output", str(tmp_path / "bundle"), "--size", "16", "--batch-size", "40"]
    assert CliRunner().invoke(train_command, [*command, "--epochs", "1"]).exit_code == 0
    model = tmp_path / "bundle.work" / "model.keras"
    before = model.read_bytes()
    refused = CliRunner().invoke(train_command, [*command, "--epochs", "2", "--force"])
    assert isinstance(refused.exception, ExportError)
    assert "holds a fit of other recipe; --restart discards it" in str(refused.exception)
    assert model.read_bytes() == before
    done = CliRunner().invoke(train_command, [*command, "--epochs", "1", "--force", "--restart", "--seed", "2"])
    assert done.stdout.count("\n") == 1
    assert "of 8 pictures right" in done.stdout
    assert done.stderr.startswith("Epoch 1 of 1: loss ")
    assert model.read_bytes() != before
    assert json.loads((tmp_path / "bundle.work" / "settings.json").read_text())["recipe"]["seed"] == 2


def test_a_taken_output_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "diary.txt").write_text("dear diary")
    training = trainer.Training(tmp_path / "absent", tmp_path / "work", "weather")
    with pytest.raises(ExportError, match="exists and is no bundle"):
        trainer.train(training, tmp_path / "bundle", Listener(silent, print), force=True)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_confusion_matrix_is_drawn_for_few_and_many_classes(tmp_path, classes):
    counts = np.eye(classes, dtype=np.int64) * 90 + 1
    confusion.draw(counts, [f"class number {number}" for number in range(classes)], "title", tmp_path / "c.png")
    picture = Image.open(tmp_path / "c.png")
    assert min(picture.size) > 500
    assert max(picture.size) < 2500


def as_export(path: Path, pictures: list[tuple[bytes, str]], lines: list[bytes] | None = None) -> Path:
    """Write what /feedback/export sends."""
    names = [f"images/{number}.png" for number in range(len(pictures))]
    labels = [
        json.dumps({"image": name, "label": label}).encode() for name, (_, label) in zip(names, pictures, strict=True)
    ]
    members = {
        "labels.jsonl": b"\n".join(lines or labels),
        **dict(zip(names, [data for data, _ in pictures], strict=True)),
    }
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_what_users_labelled_is_trained_on_but_for_test_pictures(pictures, tmp_path):
    labelled = [(drawn("cold", 1000 + number), "warm") for number in range(6)]
    export = as_export(tmp_path / "export.tar", [*labelled, (drawn("warm", 100), "warm")])
    recipe = Recipe(epochs=1, batch_size=20, peak_learning_rate=0.02)
    training = trainer.Training(
        pictures, tmp_path / "work", "weather", size=16, recipe=recipe, feedback=export, feedback_repeat=3
    )
    told: list[str] = []
    report = trainer.train(training, tmp_path / "bundle", Listener(silent, told.append), force=False)
    assert told[0] == "Feedback: 6 pictures beside 40, 3 times each; 1 left out: they are test pictures"
    assert report.manifest.trained_on.startswith(
        "weather.zip: 40 pictures of 2 classes and 7 that users labelled, at 16"
    )
    assert report.manifest.accuracy.images == 8
    train, _ = dataset.find_splits(pictures)
    split = dataset.decode(train, train.labels, SPEC, silent)
    added = dataset.decode(feedback.find(export, train.labels), train.labels, SPEC, silent)
    mixed = feedback.mix_in(split, added, 3)
    assert (len(mixed.images), mixed.classes[-7:].tolist()) == (40 + 21, [1] * 7)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [b'{"image": "images/0.png", "label": "hot"}'],
            r"line 1 of labels.jsonl names the class 'hot', which is not in",
        ),
        ([b'{"image": "images/0.png"}'], r'line 1 of labels.jsonl has no "image" and "label"'),
        ([b"nonsense"], r"line 1 of labels.jsonl has no"),
        ([b"7"], r"line 1 of labels.jsonl has no"),
    ],
)
def test_feedback_that_cannot_be_trained_on_is_refused_in_a_sentence(tmp_path, lines, message):
    export = as_export(tmp_path / "export.tar", [(drawn("warm", 1), "warm")], lines)
    with pytest.raises(ExportError, match=message):
        feedback.find(export, ["cold", "warm"])


def test_feedback_that_is_no_export_or_an_empty_one_is_refused(tmp_path, pictures):
    with pytest.raises(ExportError, match="is not a tar"):
        feedback.find(pictures, ["cold", "warm"])
    with pytest.raises(ExportError, match="holds no feedback"):
        feedback.find(as_export(tmp_path / "empty.tar", []), ["cold", "warm"])
    missing = as_export(tmp_path / "missing.tar", [], [b'{"image": "images/9.png", "label": "warm"}'])
    with pytest.raises(ExportError, match=r"cannot be unpacked: .*images/9.png"):
        list(feedback.find(missing, ["cold", "warm"]))
