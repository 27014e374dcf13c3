"""A bundle vouches for each of its files, and proves by its golden images that it is served as it was made."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from conftest import DEFAULT_BUNDLE
from model_server import bundle as bundles
from model_server import classifier
from model_server.cli.inspect import inspect
from model_server.errors import BundleError
from model_server.exporter.pictures import OWN_FILES
from model_server.up import announcement


@pytest.fixture
def bundle(tmp_path) -> Path:
    return Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle"))


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Fail where something is waited for that does not come."""

    def fail(*_: object) -> None:
        raise AssertionError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def load(path: Path, runtime: str = "auto") -> classifier.Classifier:
    return classifier.load(path, runtime, 1, OWN_FILES)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((path / "model.json").read_text())
    change(manifest)
    (path / "model.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("runtime", ["litert", "openvino"])
def test_the_shipped_model_passes_its_golden_check(runtime):
    loaded = load(DEFAULT_BUNDLE, runtime)
    loaded.check_golden()
    assert len(loaded.bundle.manifest.golden) >= 6


def test_the_shipped_model_states_what_it_is():
    loaded = bundles.read(DEFAULT_BUNDLE)
    manifest = loaded.manifest
    assert (manifest.name, len(loaded.labels)) == ("cifar10", 10)
    assert manifest.accuracy.images == 10_000
    assert manifest.accuracy.top1 >= 0.91
    assert set(manifest.accuracy.per_class) == set(loaded.labels)
    assert "CIFAR-10" in manifest.trained_on
    assert manifest.licence.startswith("Apache-2.0")
    assert (DEFAULT_BUNDLE / manifest.artifact).stat().st_size < 3_000_000


def alter_a_byte(path: Path) -> None:
    content = bytearray((path / "model.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "model.tflite").write_bytes(content)


def swap_two_labels(path: Path) -> None:
    first, second, *others = (path / "labels.txt").read_text().splitlines()
    (path / "labels.txt").write_text("\n".join([second, first, *others]) + "\n")


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (alter_a_byte, r"model.tflite has been altered: its sha256 is not the manifest's"),
        (swap_two_labels, r"labels.txt has been altered"),
        (lambda path: (path / "model.tflite").unlink(), r"model.tflite is missing"),
        (lambda path: (path / "labels.txt").unlink(), r"labels.txt is missing"),
        (lambda path: (path / "golden" / "disc.png").unlink(), r"golden/disc.png is missing"),
        (lambda path: (path / "golden" / "more.png").write_bytes(b"?"), r"golden/more.png is not listed in model.json"),
        (lambda path: (path / "model.keras").write_bytes(b"?"), r"model.keras is not listed in model.json"),
        (lambda path: (path / "model.json").write_text("{"), r"model.json: the document: Invalid JSON"),
        (lambda path: (path / "model.json").write_text("[]"), r"model.json: the document: "),
        (lambda path: edit(path, lambda m: m.update(artifact="../model.tflite")), r"artifact: .*inside the bundle"),
        (lambda path: edit(path, lambda m: m.update(labels="/etc/passwd")), r"labels: .*inside the bundle"),
        (lambda path: edit(path, lambda m: m["golden"][0].update(file="../x")), r"golden.0.file: .*inside the bundle"),
        (lambda path: edit(path, lambda m: m.update(sha256={"../x": ""})), r"sha256.*inside the bundle"),
        (lambda path: edit(path, lambda m: m.pop("input")), r"input: Field required"),
        (lambda path: edit(path, lambda m: m.update(colour="red")), r"colour: Extra inputs are not permitted"),
        (lambda path: edit(path, lambda m: m.update(format=2)), r"format: Input should be 1"),
        (lambda path: edit(path, lambda m: m["input"].update(height=64)), r"says input 64 x 32 .* takes 32 x 32"),
        (lambda path: edit(path, lambda m: m["input"].update(dtype="uint8")), r"32 x 32 uint8, .* 32 x 32 float32"),
    ],
)
def test_a_tampered_bundle_is_refused_in_a_sentence(bundle, tamper, message):
    tamper(bundle)
    with pytest.raises(BundleError, match=message):
        load(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["input"].update(scale=[1 / 255] * 3, offset=[0, 0, 0]), r"Golden image .* differs: expected"),
        (lambda m: m["input"].update(channels="bgr"), r"Golden image .* differs: expected"),
        (lambda m: m["golden"][0]["scores"].reverse(), r"gradient.png differs: expected"),
        (lambda m: m["golden"][0]["scores"].pop(), r"gradient.png: its label or scores do not fit the 10 labels"),
        (lambda m: m["golden"][0].update(label="dragon"), r"gradient.png: its label or scores do not fit"),
        (lambda m: m["golden"][0].update(file="labels.txt"), r"labels.txt cannot be read: The data is not an image"),
        (lambda m: m["golden"][0].update(file="golden/none.png"), r"golden/none.png cannot be read"),
    ],
)
def test_the_golden_check_refuses_in_a_sentence(bundle, change, message):
    edit(bundle, change)
    with pytest.raises(BundleError, match=message):
        load(bundle).check_golden()


def test_a_change_within_the_tolerance_passes(bundle):
    def nudge(manifest: dict) -> None:
        manifest["golden"][0]["scores"][0] += manifest["tolerance"] / 10

    edit(bundle, nudge)
    load(bundle).check_golden()


def test_a_folder_without_manifest_is_read_and_hashed(bundle, tmp_path):
    (bundle / "model.json").unlink()
    plain = load(bundle)
    assert not plain.bundle.proven
    assert len(plain.bundle.manifest.version) == 12
    shown = CliRunner().invoke(inspect, [str(bundle)]).stdout
    assert "no manifest, nothing to verify" in shown
    assert "none to check" in shown
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"it has no model.json, model.tflite, model.keras or saved_model/"):
        load(tmp_path / "empty")


def test_what_a_runtime_cannot_load_is_refused(bundle):
    with pytest.raises(BundleError, match=r"nothing that the runtime tensorflow can load"):
        load(bundle, "tensorflow")
    (bundle / "model.tflite").write_bytes(b"no model")
    edit(bundle, lambda m: m["sha256"].update(bundles.hash_files(bundle, "model.tflite")))
    with pytest.raises(BundleError, match=r"The runtime litert cannot load .*model.tflite"):
        load(bundle)


def plain(path: Path) -> Path:
    (path / "model.json").unlink()
    return path


def instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink(missing_ok=True)
    make(path)


def a_link_to(target: str | Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def a_socket(path: Path) -> None:
    # A path longer than 107 bytes cannot be bound.
    before = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(before)


def of_10_gigabytes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 1024**3)


STRANGE: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": a_socket,
    "a folder": Path.mkdir,
    "a device": a_link_to("/dev/zero"),
    "a terminal": a_link_to("/dev/tty"),
    "out": a_link_to("/etc/hostname"),
    "out by steps": a_link_to("../../../../../../../../../../etc/hostname"),
    "itself": lambda path: path.symlink_to(path.name),
    "nowhere": a_link_to("missing"),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize(
    ("name", "is_plain"),
    [
        *((name, False) for name in ("model.json", "labels.txt", "model.tflite", "golden/disc.png")),
        *((name, True) for name in ("labels.txt", "model.tflite")),
    ],
)
def test_only_regular_files_inside_of_a_bundle_are_opened(bundle, name, is_plain, kind):
    """A pipe would be waited for, a device read, without an end; a link would tell what else this machine has."""
    path = plain(bundle) if is_plain else bundle
    instead(path / name, STRANGE[kind])
    with alarm(10), pytest.raises(BundleError) as caught:
        load(path).check_golden()
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device", "out"])
@pytest.mark.parametrize("name", ["model.json", "more"])
def test_no_other_way_to_name_a_file_leads_to_one_that_is_not_regular(bundle, name, kind):
    """As the labels, as a golden image, beside what is listed, and as a name or a picture to announce."""
    instead(bundle / "more", STRANGE[kind])
    edit(bundle, lambda m: m.update(labels="more") if name == "more" else m["golden"][0].update(file="more"))
    with alarm(10), pytest.raises(BundleError):
        load(bundle).check_golden()
    instead(bundle / "golden" / "more", STRANGE[kind])
    with alarm(10), pytest.raises(BundleError):
        load(bundle)
    instead(bundle / "model.json", STRANGE[kind])
    with alarm(10):
        assert classifier.name_of(bundle) == "bundle"
        assert announcement.picture_to_try(bundle) == Path("photo.jpg")


@pytest.mark.parametrize("name", ["model.json", "labels.txt", "golden/disc.png"])
def test_files_are_read_up_to_a_size(bundle, name):
    loaded = load(bundle)
    of_10_gigabytes(bundle / name)
    read = {
        "model.json": lambda: load(bundle),
        "labels.txt": lambda: load(plain(bundle)),
        "golden/disc.png": loaded.check_golden,
    }[name]
    with alarm(10), pytest.raises(BundleError, match=r"has more than the [0-9,]+ bytes that are read of it"):
        read()


def test_links_of_a_kubernetes_volume_are_followed(bundle, tmp_path):
    """A ConfigMap, a Secret or a projected volume: each name leads through `..data` to a folder that is exchanged."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    bundle.rename(mounted / "..2026_01_01")
    (mounted / "..data").symlink_to("..2026_01_01")
    for file in (mounted / "..data").iterdir():
        (mounted / file.name).symlink_to(Path("..data") / file.name)
    load(mounted).check_golden()
    (tmp_path / "linked").symlink_to(mounted)
    load(tmp_path / "linked").check_golden()
    load(plain(mounted))


HOSTILE = "cat\x1b]0;owned\x07\x1b[2J\u2028\u202e\x9b\x7f"


@pytest.mark.parametrize("style", [(), ("--json",)])
@pytest.mark.parametrize("check", [(), ("--no-check",)])
def test_inspect_shows_no_terminal_what_a_bundle_says_to_it(bundle, style, check):
    def spoil(manifest: dict) -> None:
        manifest |= {"trained_on": f"{HOSTILE}\nlicence     mine", "licence": HOSTILE, "golden": []}
        manifest["accuracy"]["per_class"] = dict.fromkeys([HOSTILE, f"{HOSTILE}\n"], 0.5)
        manifest["sha256"] = bundles.hash_files(bundle, "labels.txt", "model.tflite")

    for golden in (bundle / "golden").iterdir():
        golden.unlink()
    edit(bundle, spoil)
    done = CliRunner().invoke(inspect, [str(bundle), *style, *check])
    assert done.exit_code == 0, done.output
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    if style:
        assert json.loads(done.stdout)["licence"] == HOSTILE
    else:
        assert sum(line.startswith("licence") for line in done.stdout.split("\n")) == 1


def test_a_refusal_shows_no_terminal_what_a_bundle_says_to_it(bundle):
    edit(bundle, lambda m: m["input"].update({HOSTILE: 1}))
    command = [sys.executable, "-m", "model_server", "inspect", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.removesuffix("\n").isprintable()


def test_inspect_shows_the_shipped_model():
    shown = CliRunner().invoke(inspect, [str(DEFAULT_BUNDLE)]).stdout
    for text in (
        "cifar10 1",
        "32 x 32 RGB float32, -1 to 1",
        "airplane; automobile",
        "hashes verified",
        "7 images agree",
    ):
        assert text in shown
    assert shown.count("%") >= 11


def test_inspect_of_a_broken_bundle_is_one_sentence_and_status_1(bundle):
    alter_a_byte(bundle)
    command = [sys.executable, "-m", "model_server", "inspect", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("model-server: ")
    assert done.stderr.count("\n") == 1
    assert "model.tflite has been altered" in done.stderr
