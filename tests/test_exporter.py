"""Bundles from every kind of model: they agree with their original, or they are not written."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from model_server import classifier, image
from model_server.bundle import InputSpec
from model_server.cli.export import export
from model_server.cli.inspect import inspect
from model_server.errors import BundleError, ExportError
from model_server.exporter import SCALINGS, Preparation, architectures, golden, parity, progress
from model_server.exporter.pictures import OWN_FILES

SIDE = 24
COLOURS = {"red": (200, 40, 40), "green": (40, 190, 60), "blue": (50, 60, 210)}


def colour_network(scaling: str = "tf", *, seed: int = 1, activation: str | None = "softmax", gain: float = 1.0):
    """Return a network of some 250 parameters that names the strongest colour; ``gain`` passes through two layers."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    spec = SCALINGS[scaling]
    scale, offset = np.array(spec.scale), np.array(spec.offset)
    pixels = keras.Input((SIDE, SIDE, 3))
    scaled = layers.Rescaling((1 / (127.5 * scale)).tolist(), (-offset / (127.5 * scale) - 1).tolist())(pixels)
    edges = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(scaled))
    strong, weak = layers.Conv2D(3, 1, use_bias=False), layers.Conv2D(3, 1, use_bias=False)
    features = layers.Concatenate()([edges, layers.GlobalAveragePooling2D()(weak(strong(scaled)))])
    dense = layers.Dense(3, activation=activation)
    network = keras.Model(pixels, dense(features))
    strong.set_weights([3 * gain * np.eye(3)[None, None]])
    weak.set_weights([np.eye(3)[None, None] / gain])
    noise = np.random.default_rng(seed).normal(0, 0.3, (8, 3))
    dense.set_weights([np.concatenate([noise, np.eye(3)]), np.zeros(3)])
    return network


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    network = colour_network()
    network.save(folder / "colours.keras")
    network.export(folder / "colours_saved", verbose=False)
    colour_network(activation=None).save(folder / "logits.keras")
    colour_network(gain=1e6).save(folder / "overflowing.keras")
    for name in ("torch", "caffe", "raw"):
        colour_network(name).save(folder / f"{name}.keras")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in COLOURS))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Return a folder of pictures in their class's folder; one of the twelve is in the wrong one."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(3)
    for label, colour in COLOURS.items():
        (folder / label).mkdir()
        for number in range(4):
            pixels = np.array(colour) + random.integers(-40, 40, (40, 30, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / label / f"{number}.png")
    shutil.move(folder / "red" / "3.png", folder / "blue" / "red.png")
    return folder


@pytest.fixture
def run(models, tmp_path):
    """Export with the colours' labels to ``tmp_path / "bundle"``; return that folder."""

    def export_to_bundle(*arguments: object, labels: Path | None = models / "labels.txt") -> Path:
        given = [str(argument) for argument in arguments]
        given += ["--labels", str(labels)] if labels else []
        result = CliRunner().invoke(export, [*given, "--output", str(tmp_path / "bundle")])
        if result.exception:
            raise result.exception
        return tmp_path / "bundle"

    return export_to_bundle


def load(bundle: Path, runtime: str = "auto") -> classifier.Classifier:
    return classifier.load(bundle, runtime, 1, OWN_FILES)


def rewrite(bundle: Path, **changes: object) -> None:
    """Change fields of the manifest; a dict changes fields inside the field."""
    manifest = json.loads((bundle / "model.json").read_text())
    for name, value in changes.items():
        manifest[name] = {**manifest[name], **value} if isinstance(value, dict) else value
    (bundle / "model.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("source", ["colours.keras", "colours_saved"])
@pytest.mark.parametrize("quantize", ["none", "float16"])
def test_a_bundle_agrees_with_its_original_in_every_runtime(models, run, source, quantize):
    bundle = run(models / source, "--quantize", quantize, "--keep-original")
    manifest = load(bundle).bundle.manifest
    assert (manifest.name, manifest.version, manifest.quantization) == (Path(source).stem, "1", quantize)
    assert not manifest.logits
    assert len(manifest.golden) == len(golden.SCENES)
    assert manifest.golden[1].label == "red"
    for runtime in ("litert", "openvino", "tensorflow"):
        load(bundle, runtime).check_golden()


def test_a_tflite_file_is_copied(models, run, tmp_path):
    first = run(models / "colours.keras")
    first.rename(tmp_path / "first")
    bundle = run(tmp_path / "first" / "model.tflite", "--name", "again")
    assert (bundle / "model.tflite").read_bytes() == (tmp_path / "first" / "model.tflite").read_bytes()
    load(bundle).check_golden()


def test_golden_scores_are_those_of_the_tensorflow_original(models, run):
    import keras

    bundle = run(models / "colours.keras", "--quantize", "float16")
    original, manifest = keras.models.load_model(models / "colours.keras"), load(bundle).bundle.manifest
    for expected in manifest.golden:
        pixels = image.decode((bundle / expected.file).read_bytes(), manifest.input, OWN_FILES)
        scores = original(image.scale(pixels, manifest.input)[np.newaxis]).numpy()[0]
        assert scores == pytest.approx(expected.scores, abs=1e-6)


@pytest.mark.parametrize("scaling", ["tf", "torch", "caffe", "raw"])
def test_int8_takes_bytes_and_holds_the_scaling(models, pictures, run, scaling):
    source = models / ("colours.keras" if scaling == "tf" else f"{scaling}.keras")
    bundle = run(source, "--scaling", scaling, "--quantize", "int8", "--calibration", pictures, "--evaluate", pictures)
    quantised = load(bundle)
    spec, measured = quantised.bundle.manifest.input, quantised.bundle.manifest.accuracy
    assert (spec.dtype, spec.channels, spec.scale, spec.offset) == ("uint8", "rgb", (1.0,) * 3, (0.0,) * 3)
    assert measured.images == 12
    # To the network that takes BGR, red is the last channel: it names blue pictures red.
    right = {"caffe": 5}.get(scaling, 11)
    assert measured.before_quantization == measured.top1 == right / 12
    for runtime in ("litert", "openvino"):
        load(bundle, runtime).check_golden()


def test_accuracy_counts_right_and_wrong(models, pictures, run):
    measured = load(run(models / "colours.keras", "--evaluate", pictures)).bundle.manifest.accuracy
    assert measured.top1 == 11 / 12
    assert measured.per_class == {"red": 1.0, "green": 1.0, "blue": 0.8}
    assert measured.confusion == [[3, 0, 0], [0, 4, 0], [1, 0, 4]]
    assert measured.before_quantization is None


def test_logits_are_noticed_and_become_probabilities(models, run):
    bundle = run(models / "logits.keras")
    loaded = load(bundle)
    assert loaded.bundle.manifest.logits
    pixels = loaded.prepare((bundle / "golden" / "disc.png").read_bytes())
    assert loaded.session()(pixels[np.newaxis]).sum() == pytest.approx(1)


def test_what_the_caller_says_of_the_scores_counts(models, run):
    assert load(run(models / "colours.keras", "--scores", "logits")).bundle.manifest.logits


# In floats and in bytes, where x/255 for a network that takes -1..1 is half the contrast.
MISTAKES = {
    "x/255": ({"scale": [1 / 255] * 3, "offset": [0.0] * 3}, {"scale": [0.5] * 3, "offset": [127.5] * 3}),
    "0..255": ({"scale": [1.0] * 3, "offset": [0.0] * 3}, {"offset": [-128.0] * 3}),
    "bgr": ({"channels": "bgr"}, {"channels": "bgr"}),
}


@pytest.mark.parametrize("kind", ["none", "float16", "int8"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_golden_check_notices_a_mistake_in_scaling(models, pictures, run, kind, mistake):
    options = ["--calibration", pictures] if kind == "int8" else []
    bundle = run(models / "colours.keras", "--quantize", kind, *options)
    rewrite(bundle, input=MISTAKES[mistake][kind == "int8"])
    with pytest.raises(BundleError, match=r"Golden image golden/.* differs: expected"):
        load(bundle).check_golden()


def test_a_tie_of_two_classes_is_no_difference(models, run):
    bundle = run(models / "colours.keras")
    manifest = json.loads((bundle / "model.json").read_text())
    tied = manifest["golden"][1]
    best = tied["scores"][tied["index"]]
    manifest["golden"] = [{**tied, "label": "blue", "index": 2}]
    (bundle / "model.json").write_text(json.dumps({**manifest, "tolerance": 1e-4}))
    with pytest.raises(BundleError, match="expected blue"):
        load(bundle).check_golden()
    half_the_gap = (best - tied["scores"][2]) / 2 + 1e-6
    (bundle / "model.json").write_text(json.dumps({**manifest, "tolerance": half_the_gap}))
    load(bundle).check_golden()


def test_an_artifact_that_disagrees_is_not_written(models, run, tmp_path):
    """Weights above float16's largest number become infinite, and the scores NaN."""
    with pytest.raises(ExportError, match=r"disagrees with the original on golden/\w+\.png: .* became"):
        run(models / "overflowing.keras", "--quantize", "float16")
    assert list(tmp_path.iterdir()) == []


def test_scores_of_other_weights_are_a_disagreement():
    labels, names = list(COLOURS), ["golden/disc.png"]
    ours, theirs = np.array([[0.1, 0.2, 0.7]], np.float32), np.array([[0.1, 0.6, 0.3]], np.float32)
    with pytest.raises(
        ExportError, match=r"disc.png: blue 0.7000 became green 0.6000; largest difference 0.4, allowed 0.001"
    ):
        parity.check_each(names, labels, ours, theirs, 1e-3)
    with pytest.raises(ExportError, match=r"by 0.4 in the mean of 1 pictures, allowed 0.1; most on golden/disc.png"):
        parity.check_mean(names, labels, ours, theirs, 0.1)
    assert parity.check_mean(names * 8, labels, ours.repeat(8, 0), np.concatenate([ours.repeat(7, 0), theirs]), 0.1) > 0


@pytest.mark.parametrize(
    ("scores", "step", "expected"),
    [
        ([[0.2, 0.8]], 0, False),
        ([[0.2, 0.9]], 0, True),
        ([[-0.1, 1.1]], 0, True),
        ([[0.0, 0.7, 0.0, 0.0]], 1 / 4, False),
    ],
)
def test_scores_that_are_no_probabilities(scores, step, expected):
    assert parity.are_logits(np.array(scores, np.float32), step) is expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.keras"], "nothing.keras does not exist"),
        (["labels.txt"], "is no model that is read: a .keras file"),
        ([], "Either SOURCE or --architecture"),
        (["colours.keras", "--architecture", "MobileNet"], "Either SOURCE or --architecture"),
        (["colours.keras", "--name", "two words"], "name 'two words' is not allowed"),
        (["colours.keras", "--version", "1:2"], "version '1:2' is not allowed"),
        (["colours.keras", "--quantize", "int8"], "needs calibration pictures"),
        (["colours.keras", "--scaling", "tf", "--scale", "1", "1", "1"], "--scaling and --scale both"),
        (["colours.keras", "--bgr"], "--offset and --bgr go with --scale"),
        (["colours.keras", "--resize", "stretch", "--crop-fraction", "1"], "goes with --resize crop"),
        (["--architecture", "AlexNet", "--weights", "none"], "no architecture 'AlexNet'; there are ConvNeXt"),
        (["--architecture", "MobileNet", "--scaling", "tf"], "--scaling and --architecture both"),
        (["--architecture", "MobileNet"], "ImageNet's weights tell 1,000 classes apart; 3 labels were given"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_a_sentence(models, run, tmp_path, arguments, message):
    arguments = [models / argument if "." in argument else argument for argument in arguments]
    with pytest.raises(ExportError, match=message):
        run(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_byte_model_is_neither_scaled_nor_quantised_again(models, pictures, run, tmp_path):
    run(models / "colours.keras", "--quantize", "int8", "--calibration", pictures).rename(tmp_path / "int8")
    artifact = tmp_path / "int8" / "model.tflite"
    for arguments, message in [
        (["--scaling", "tf"], "takes a picture's bytes, without scaling"),
        (["--quantize", "float16"], "is copied as it is"),
        (["--keep-original"], "no other original to keep"),
    ]:
        with pytest.raises(ExportError, match=message):
            run(artifact, *arguments)
    with pytest.raises(ExportError, match="takes bytes, the original floats"):
        run(models / "colours.keras", "--quantize", "int8", "--calibration", pictures, "--keep-original")
    manifest = load(run(artifact)).bundle.manifest
    assert (manifest.input.dtype, manifest.quantization) == ("uint8", "int8")


def test_labels_must_fit_the_scores(models, run, tmp_path):
    file = tmp_path / "given.txt"
    for content, message in [("red\ngreen\n", "2 labels were given; .* has 3 scores"), ("red\n \nblue\n", "is blank")]:
        file.write_text(content)
        with pytest.raises(ExportError, match=message):
            run(models / "colours.keras", labels=file)
    with pytest.raises(ExportError, match="--labels FILE is needed"):
        run(models / "colours.keras", labels=None)
    with pytest.raises(BundleError, match=r"absent.txt cannot be read"):
        run(models / "colours.keras", labels=tmp_path / "absent.txt")


def test_pictures_that_cannot_be_used_are_named(models, pictures, run, tmp_path):
    given = tmp_path / "given"
    for file, content, message in [
        ("purple/0.png", (pictures / "red" / "0.png").read_bytes(), "'purple', which is no class"),
        ("red/broken.png", b"no picture", "red/broken.png: The data is not an image"),
        ("loose.png", b"", "loose.png lies in no class's folder"),
        ("red/notes.txt", b"", "has no pictures"),
    ]:
        shutil.rmtree(given, ignore_errors=True)
        (given / file).parent.mkdir(parents=True)
        (given / file).write_bytes(content)
        with pytest.raises(ExportError, match=message):
            run(models / "colours.keras", "--evaluate", given)
    (given / "red" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ExportError, match=r"given: red/broken.png: The data is not an image"):
        run(models / "colours.keras", "--quantize", "int8", "--calibration", given)
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


def test_only_a_bundle_is_replaced_and_only_by_force(models, run, tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "diary.txt").write_text("dear diary")
    with pytest.raises(ExportError, match="exists and is no bundle"):
        run(models / "colours.keras", "--force")
    (tmp_path / "bundle" / "diary.txt").unlink()
    run(models / "colours.keras")
    with pytest.raises(ExportError, match="holds a bundle; --force replaces it"):
        run(models / "logits.keras")
    assert load(run(models / "logits.keras", "--force")).bundle.manifest.name == "logits"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_own_scaling_is_described(models, run):
    options = ["--scale", "0.01", "0.02", "0.03", "--offset", "-1", "-2", "-3", "--bgr", "--resize", "stretch"]
    spec = load(run(models / "colours.keras", *options)).bundle.manifest.input
    assert (spec.scale, spec.offset, spec.channels) == ((0.01, 0.02, 0.03), (-1.0, -2.0, -3.0), "bgr")
    assert (spec.resize, spec.height, spec.width) == ("stretch", SIDE, SIDE)


def test_every_architecture_is_scaled_as_its_own_preprocessing_does():
    names = architectures.names()
    assert len(names) >= 38
    for name in names:
        check_scaling(name)


def check_scaling(name: str) -> None:
    from keras import applications

    begin = architectures.family_of(name).begin
    modules = [module for module in vars(applications).values() if hasattr(module, "preprocess_input")]
    own = [module for module in modules if hasattr(module, name)] or [applications.mobilenet_v3]
    assert own != [applications.mobilenet_v3] or begin == "MobileNetV3"
    scaling = SCALINGS[architectures.family_of(name).scaling]
    pixels = np.random.default_rng(1).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    spec = InputSpec(height=5, width=4, scale=scaling.scale, offset=scaling.offset, channels=scaling.channels)
    expected = own[0].preprocess_input(pixels.astype(np.float32))
    assert image.scale(pixels, spec) == pytest.approx(expected, abs=1e-4), name


def test_an_architecture_with_random_weights(run, tmp_path):
    bundle = run("--architecture", "MobileNet", "--weights", "none", "--version", "2")
    loaded = load(bundle)
    spec = loaded.bundle.manifest.input
    assert loaded.bundle.labels == list(COLOURS)
    assert (spec.height, spec.width, spec.scale, spec.offset) == (224, 224, (1 / 127.5,) * 3, (-1.0,) * 3)
    loaded.check_golden()


def test_weights_that_cannot_be_downloaded(tmp_path):
    environment = {**os.environ, "KERAS_HOME": str(tmp_path / "keras")}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "model_server", "export", "--architecture", "MobileNetV3Small"]
    command += ["--output", str(tmp_path / "bundle")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("model-server: The ImageNet weights of MobileNetV3Small cannot be downloaded: URL fetch")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "bundle").exists()
    assert done.stdout == ""


def test_preparation_refuses_other_inputs():
    class Double:
        height, width, dtype = 8, 8, "float64"

    with pytest.raises(ExportError, match="input is float64; float32, uint8 and int8 are served"):
        Preparation().describe(Double())


def test_the_summary_is_one_line_and_inspect_reads_it_back(models, pictures, tmp_path):
    output = tmp_path / "colours"
    arguments = [str(models / "colours.keras"), "--labels", str(models / "labels.txt"), "--output", str(output)]
    arguments += ["--evaluate", str(pictures), "--trained-on", "paint", "--licence", "CC0-1.0"]
    done = CliRunner().invoke(export, arguments)
    assert done.stdout.count("\n") == 1
    assert "91.67% of 12 pictures right" in done.stdout
    shown = CliRunner().invoke(inspect, [str(output)]).stdout
    for text in ("colours 1", "24 x 24 RGB float32, -1 to 1", "paint", "CC0-1.0", "7 images agree", "91.67%", "80.00%"):
        assert text in shown
    assert "not run" in CliRunner().invoke(inspect, [str(output), "--no-check"]).stdout
    manifest = json.loads(CliRunner().invoke(inspect, [str(output), "--json"]).stdout)
    assert manifest == json.loads((output / "model.json").read_text())


def test_progress_is_one_line_of_a_terminal_and_nothing_elsewhere(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, expected in [
        (Terminal(), "\r\x1b[KConverting …\r\x1b[KSteps 1 of 2\r\x1b[K\r\x1b[K"),
        (io.StringIO(), ""),
    ]:
        monkeypatch.setattr(sys, "stderr", stream)
        with progress.on_stderr() as say:
            say("Converting", 0, 0)
            say("Steps", 1, 2)
            say("Steps", 2, 2)
        assert stream.getvalue() == expected


def test_the_imagenet_network_keeps_its_answers(imagenet, run):
    source = imagenet / "mobilenet_v2_1.0_224_dequant.keras"
    bundle = run(source, "--quantize", "float16", labels=imagenet / "imagenet_labels_1000.txt")
    loaded = load(bundle)
    loaded.check_golden()
    with (imagenet / "photos.tsv").open() as file:
        photos = list(csv.DictReader(file, delimiter="\t"))
    contents = [(imagenet / "photos" / photo["file"]).read_bytes() for photo in photos]
    best = classifier.evaluate(loaded, contents).argmax(axis=1).tolist()
    right = [str(index) in photo["accept"].split(",") for index, photo in zip(best, photos, strict=True)]
    assert len(right) == 19
    assert sum(right) >= 17
