"""What one picture may cost: a bomb is refused within its budget, and nobody else waits for it or loses by it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc
from PIL import Image

import picture_bombs as bombs
from conftest import Server, StartServer, environment_with
from model_server.bundle import InputSpec
from model_server.decoding.complaints import SECONDS_A_LINE
from model_server.decoding.decoders import Decoders
from model_server.decoding.messages import Decoding
from model_server.errors import ExportError, InvalidInput
from model_server.exporter import pictures as exporter_pictures
from model_server.exporter.pictures import LabelledPictures
from model_server.image import Limits
from model_server.training import dataset
from picture_bombs import RAW, ROWS_PER_STRIP, STRIP_OFFSETS
from pictures import b64, draw, encode
from queue_server import running_proxy
from system import COMMAND
from test_workers import sample, workers_of

PHOTO = encode(draw())
IMAGE = {"Content-Type": "image/jpeg"}
SPEC = InputSpec(height=224, width=224)
DEFAULT = Limits(12 * 2**20, 50_000_000)
CPU_SECONDS = 2
SLACK_SECONDS = 30
"""For a new worker on a machine on which others test."""
POD_BYTES = 2**30
"""What the chart gives the predictor with its one worker."""

BY_STRUCTURE: dict[str, tuple[Callable[[], bytes], str]] = {
    "1,000 TIFF tiles that are one block": (lambda: bombs.shared_tiles(1000, 65_536), "hold 1,048,576,000 pixels"),
    "100 larger ones": (lambda: bombs.shared_tiles(100, 1 << 20), "hold"),
    "TIFF of 16 x 16 in a tile of 2 GiB": (lambda: bombs.giant_tile(32_768, 16_384), "16 x 16 pixels in parts"),
    "TIFF of 16 x 16 in a tile as high": (lambda: bombs.giant_tile(16, 1 << 26), "16 x 16 pixels in parts"),
    "TIFF strips that share 4 MB": (
        lambda: bombs.shared_strips(3000, bombs.empty_blocks(4_000_000, bytes(4))),
        "name 12,000",
    ),
    "progressive JPEG of 10,000 scans": (lambda: bombs.short_scans(10_000, 4000, 4000), "more than 100 scans"),
    "WebP canvas of 16,383 x 16,383": (lambda: bombs.webp_canvas(16_383, 16_383), "16383 x 16383 pixels"),
}
BY_TIME: dict[str, Callable[[], bytes]] = {
    "progressive JPEG of 90 scans and 49 million pixels": lambda: bombs.short_scans(90, 7000, 7000),
    "BMP of six million runs": lambda: bombs.bmp_rle(7000, 7000, 6_000_000),
    "PNG of 900,000 chunks": lambda: bombs.png_with(*[(b"abCd", b"")] * 900_000),
}
SLOW = BY_TIME["progressive JPEG of 90 scans and 49 million pixels"]()
BY_MEMORY: dict[str, Callable[[], bytes]] = {
    "WebP canvas of 7,000 x 7,000": lambda: bombs.webp_canvas(7000, 7000),
    "two arrays for a picture": lambda: encode(Image.new("RGBA", (7071, 7071)), "WEBP", lossless=True, method=0),
}
BOMBS = {
    **{name: make for name, (make, _) in BY_STRUCTURE.items()},
    **BY_TIME,
    **BY_MEMORY,
    "a million raw TIFF strips": lambda: bombs.tiff(
        {**bombs.rgba(1, 1_000_000, RAW), ROWS_PER_STRIP: [1]}, bytes(4), offsets=STRIP_OFFSETS, count=1_000_000
    ),
    "2,000 texts that inflate": lambda: bombs.png_with(*[(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))] * 2000),
    "profile that inflates": lambda: bombs.png_with((b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
}
NOISY = bombs.tiff(
    {256: [8], 257: [100_000], 258: [1], 259: [3], 262: [0], 277: [1], 278: [100_000]},
    np.random.default_rng(3).bytes(100_000),
    offsets=STRIP_OFFSETS,
    count=1,
)
"""A fax page of nonsense, of which libtiff complains line by line, 6 MB in all."""


def predict(server: Server, data: bytes = PHOTO, seconds: float = 60) -> httpx.Response:
    return httpx.post(server.predict_url, content=data, headers=IMAGE, timeout=seconds)


def timed(work: Callable[[], httpx.Response]) -> tuple[httpx.Response, float, float]:
    """Return a reply, the seconds it took, and when it came."""
    begun = time.monotonic()
    return work(), (ended := time.monotonic()) - begun, ended


@contextlib.contextmanager
def watched_memory(server: Server) -> Iterator[list[int]]:
    """Note the memory of the server and its workers, shared pages counted once, every few milliseconds."""
    seen, done = [0], threading.Event()

    def watch() -> None:
        tree = psutil.Process(server.process.pid)
        while not done.wait(0.02):
            with contextlib.suppress(psutil.NoSuchProcess):
                seen[0] = max(seen[0], sum(one.memory_full_info().pss for one in (tree, *tree.children())))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def strict(request: pytest.FixtureRequest, start_server: StartServer) -> Iterator[tuple[Server, int]]:
    with start_server(workers=request.param, max_image_cpu_seconds=CPU_SECONDS, log_format="text") as server:
        yield server, request.param


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_its_budget_and_others_are_answered(name: str, strict: tuple[Server, int]) -> None:
    (server, workers), bomb = strict, BOMBS[name]()
    assert len(workers_of(server)) >= workers - 1, "one worker too is a process"
    with concurrent.futures.ThreadPoolExecutor(8) as pool, watched_memory(server) as memory:
        refused = pool.submit(timed, lambda: predict(server, bomb))
        time.sleep(0.05)
        answered = [pool.submit(timed, lambda: predict(server)) for _ in range(6)]
        reply, seconds, refused_at = refused.result()
        others = [one.result() for one in answered]
    assert 400 <= reply.status_code < 500, reply.text
    assert re.fullmatch(r"[A-Z].{20,200}\.", reply.json()["error"])
    assert seconds < SLACK_SECONDS
    assert [other.status_code for other, *_ in others] == [200] * 6
    assert max(seconds for _, seconds, _ in others) < SLACK_SECONDS
    if workers == 2 and name in BY_TIME:
        assert max(at for *_, at in others) < refused_at, "what lies behind a bomb is given to others"
    assert memory[0] < POD_BYTES * workers


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(Decoding(SPEC, DEFAULT), 1) as started:
        yield started


@pytest.mark.parametrize("name", BY_STRUCTURE)
def test_the_structure_of_a_bomb_is_enough_to_refuse_it(name: str, decoders: Decoders) -> None:
    make, sentence = BY_STRUCTURE[name]
    data = make()
    begun = time.monotonic()
    with pytest.raises(InvalidInput, match=sentence):
        decoders.decode(data)
    assert time.monotonic() - begun < 0.5


def test_a_bomb_sent_by_grpc_is_an_invalid_argument(strict: tuple[Server, int]) -> None:
    with tritonclient.grpc.InferenceServerClient(strict[0].grpc) as triton:
        with pytest.raises(tritonclient.grpc.InferenceServerException, match="one image may: 2 s") as caught:
            triton.infer(strict[0].model, [tensor(SLOW)])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_the_place_of_a_bomb_among_others_is_named_and_the_rest_is_not_worked_on(strict: tuple[Server, int]) -> None:
    items = [{"b64": b64(data)} for data in (PHOTO, SLOW, *[PHOTO] * 3)]
    reply = httpx.post(strict[0].predict_url, json={"instances": items}, timeout=60)
    assert reply.status_code == 400
    assert reply.json()["error"].startswith("instances[1]: The image takes more processor time to decode")
    many, before = [{"b64": b64(SLOW)}] * 10, sample(strict[0], "worker_restarts_total")
    reply = httpx.post(strict[0].predict_url, json={"instances": many}, timeout=90)
    assert (reply.status_code, reply.json()["error"].partition("[")[0]) == (400, "instances")
    assert sample(strict[0], "worker_restarts_total") - before <= 3, "ten budgets are not spent on one request"


def tensor(*pictures: bytes) -> tritonclient.grpc.InferInput:
    made = tritonclient.grpc.InferInput("image", [len(pictures)], "BYTES")
    made.set_data_from_numpy(np.array(pictures, dtype=np.object_))
    return made


@pytest.mark.parametrize("count", [1, 3])
def test_a_worker_does_not_go_on_for_a_caller_who_has_gone(count: int, start_server: StartServer) -> None:
    with (
        start_server(workers=1, max_image_cpu_seconds=600) as server,
        tritonclient.grpc.InferenceServerClient(server.grpc) as triton,
    ):
        (before,) = workers_of(server)
        with pytest.raises(tritonclient.grpc.InferenceServerException, match="Deadline Exceeded"):
            triton.infer(server.model, [tensor(*[SLOW] * count)], client_timeout=0.3)
        reply, seconds, _ = timed(lambda: predict(server))
        assert reply.status_code == 200
        assert seconds < SLACK_SECONDS
        assert before not in workers_of(server)
        assert len(server.log.read_text().split("worker process ended")) == 2, "one worker was enough to end"


def test_what_a_bomb_leaves_behind_takes_no_memory_from_the_next_picture(decoders: Decoders) -> None:
    large = encode(Image.new("RGBA", (7000, 6500), (9, 9, 9, 200)), "PNG", compress_level=1)
    for make in (*BY_MEMORY.values(), BOMBS["a million raw TIFF strips"], lambda: bombs.gif_comments(6_000_000)):
        with contextlib.suppress(InvalidInput):
            decoders.decode(make())
        assert decoders.decode(large).shape == (224, 224, 3)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_phone_s_picture_takes_a_third_of_the_budget(progressive: bool) -> None:
    grain = np.random.default_rng(1).integers(96, 160, (510, 510, 3), dtype=np.uint8)
    picture = Image.fromarray(np.tile(grain, (12, 16, 1)))
    data = encode(picture, "JPEG", quality=75, subsampling="4:2:0", progressive=progressive)
    assert picture.width * picture.height > 49_000_000
    third = dataclasses.replace(
        DEFAULT, max_bytes=2**25, cpu_seconds=DEFAULT.cpu_seconds / 3, memory_bytes=DEFAULT.memory_bytes // 3
    )
    with Decoders(Decoding(SPEC, third), 1) as decoders:
        assert decoders.decode(data).shape == (224, 224, 3)


def test_memory_that_is_short_for_another_reason_is_for_later_not_the_picture_s_fault(
    start_server: StartServer,
) -> None:
    large = encode(Image.new("RGB", (7000, 6500), (9, 9, 9)), "PNG", compress_level=1)
    scans = encode(Image.new("RGB", (7000, 6500), (9, 9, 9)), "JPEG", progressive=True)
    with start_server(workers=1) as server:
        (worker,) = workers_of(server)
        before = worker.rlimit(psutil.RLIMIT_AS)
        worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms + 100 * 2**20, before[1]))
        for data in (large, scans):
            reply = predict(server, data)
            assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
            assert reply.json()["error"] == "The server is short of memory. Try again later."
        assert predict(server).status_code == 200
        worker.rlimit(psutil.RLIMIT_AS, before)
        assert [predict(server, data).status_code for data in (large, scans)] == [200, 200]


def test_libraries_that_complain_of_pictures_get_one_line_in_the_log(start_server: StartServer) -> None:
    with start_server(workers=2, log_format="text") as server:
        begun = time.monotonic()
        for _ in range(10):
            assert predict(server, NOISY).status_code in {200, 400}
        time.sleep(0.3)
        lines = server.log.read_bytes().split(b"\n")
    complaints = [line for line in lines if b"Fax3Decode1D" in line]
    assert 1 <= len(complaints) <= 1 + (time.monotonic() - begun) // SECONDS_A_LINE
    assert len(complaints[0]) < 400
    assert complaints[0].isascii()
    assert complaints[0].decode().isprintable()
    assert sum(map(len, lines)) < 20_000, "libtiff writes 6 MB of each"


def test_a_queued_bomb_is_tried_once_and_keeps_nobody_from_an_answer(
    start_server: StartServer, tmp_path: Path, database_url: str
) -> None:
    with (
        start_server(workers=2, max_image_cpu_seconds=CPU_SECONDS) as server,
        running_proxy(tmp_path / "log", database_url, server.url, model=server.model) as proxy,
    ):
        bomb = proxy.submit(SLOW).json()["id"]
        others = [proxy.submit().json()["id"] for _ in range(20)]
        ended = [proxy.prediction(one, wait=30) for one in others]
        assert {one["status"] for one in ended} == {"succeeded"}
        refused = proxy.prediction(bomb, wait=30)
        assert (refused["status"], refused["attempts"]) == ("failed", 1)
        assert refused["error"]["message"].startswith(
            "The image takes more processor time to decode than one image may"
        )


def test_a_model_that_batches_decodes_in_processes_too(tmp_path: Path, start_server: StartServer) -> None:
    program = """if True:
        import sys, keras
        layers = [keras.layers.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Softmax()]
        keras.Sequential(layers).save(sys.argv[1])
    """
    command = [sys.executable, "-c", program, str(tmp_path / "model.keras")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    with start_server(model_dir=tmp_path, workers=2, max_image_cpu_seconds=CPU_SECONDS) as server:
        assert len(workers_of(server)) == 2
        assert all("tensorflow" not in module for one in workers_of(server) for module in libraries_of(one))
        labels = [
            predict(server, encode(Image.new("RGB", (300, 200), colour), "PNG")).json()["predictions"][0]["label"]
            for colour in ("red", "lime", "blue")
        ]
        assert labels == ["red", "green", "blue"]
        assert predict(server, SLOW).status_code == 400
        assert predict(server).status_code == 200


def libraries_of(process: psutil.Process) -> set[str]:
    return {part for mapped in process.memory_maps() for part in Path(mapped.path).parts}


def test_a_worker_that_only_decodes_loads_neither_server_nor_model(decoders: Decoders) -> None:
    program = "import sys, model_server.decoding.worker as _; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"kserve", "pandas", "ai_edge_litert", "openvino", "tensorflow", "starlette"} & set(loaded)


def test_classify_names_a_bomb_and_goes_on(tmp_path: Path) -> None:
    for name, data in (("a.jpg", SLOW), ("b.tif", BY_STRUCTURE["100 larger ones"][0]()), ("c.jpg", PHOTO)):
        (tmp_path / name).write_bytes(data)
    environment = environment_with({"max_image_cpu_seconds": 1})
    finished = subprocess.run(
        [COMMAND, "classify", "--csv", tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 1
    assert [line.split(",")[0] for line in finished.stdout.splitlines()[1:]] == [f"{tmp_path}/c.jpg"]
    assert f"{tmp_path}/a.jpg: The image takes more processor time to decode than one image may: 1 s" in finished.stderr
    assert f"{tmp_path}/b.tif: The parts of the TIFF hold 1,677,721,600 pixels" in finished.stderr


@pytest.mark.parametrize("name", ["slow.jpg", "tiles.tif"])
def test_training_and_evaluation_name_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    own = dataclasses.replace(exporter_pictures.OWN_FILES, cpu_seconds=1)
    monkeypatch.setattr(exporter_pictures, "OWN_FILES", own)
    bomb = SLOW if name == "slow.jpg" else bombs.shared_tiles(1000, 65_536)
    for file, data in {**{f"{number}.jpg": PHOTO for number in range(40)}, name: bomb}.items():
        (tmp_path / "train" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "cat" / file).write_bytes(data)
    entries = [(f"train/cat/{file}", "cat") for file in (*[f"{number}.jpg" for number in range(40)], name)]
    with pytest.raises(ExportError, match=rf"train/cat/{name}: The (image takes more|parts of the TIFF)"):
        dataset.decode(LabelledPictures(tmp_path, entries), ["cat"], SPEC, lambda *_: None)


# --- what must not be refused ---


def tiled(compression: int, width: int, height: int, tile: int) -> bytes:
    """A TIFF in tiles of a colour each, with an offset and a size of its own, as scanners and maps have them."""
    count = -(-width // tile) * -(-height // tile)
    block = bytes((200, 100, 50)) * tile * tile
    data = zlib.compress(block) if compression == bombs.DEFLATE else block
    tags = {
        256: [width], 257: [height], 258: [8, 8, 8], 259: [compression], 262: [2], 277: [3],
        bombs.TILE_WIDTH: [tile], bombs.TILE_HEIGHT: [tile],
    }  # fmt: skip
    return bombs.tiff(tags, data, offsets=bombs.TILE_OFFSETS, count=count)


GRAIN = Image.fromarray(np.random.default_rng(2).integers(0, 256, (700, 900, 3), dtype=np.uint8))
PAGES = {"save_all": True, "append_images": [GRAIN.rotate(90)] * 5}
HONEST: dict[str, Callable[[], bytes]] = {
    **{
        f"TIFF, {kind}, {mode}": lambda kind=kind, mode=mode: encode(GRAIN.convert(mode), "TIFF", compression=kind)
        for kind, mode in [
            *itertools.product(
                ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"), ("RGB", "L")
            ),
            ("tiff_lzw", "CMYK"),
            ("tiff_deflate", "RGBA"),
            ("group3", "1"),
            ("group4", "1"),
            ("tiff_ccitt", "1"),
        ]
    },
    "TIFF in strips of one row": lambda: encode(GRAIN, "TIFF", compression="tiff_lzw", strip_size=1),
    "BigTIFF": lambda: encode(GRAIN, "TIFF", big_tiff=True, compression="tiff_lzw"),
    "TIFF of many pages": lambda: encode(GRAIN, "TIFF", **PAGES),
    **{f"TIFF in tiles of {tile}": lambda tile=tile: tiled(bombs.DEFLATE, 1000, 700, tile) for tile in (16, 256, 4096)},
    "TIFF in raw tiles": lambda: tiled(RAW, 1000, 700, 256),
    "TIFF of 10 x 10 in a tile of 512": lambda: tiled(bombs.DEFLATE, 10, 10, 512),
    "TIFF of empty tiles, a strip of land": lambda: tiled(bombs.DEFLATE, 30_000, 20, 256),
    "progressive JPEG": lambda: encode(GRAIN, "JPEG", progressive=True),
    "MPO of six pictures": lambda: encode(GRAIN, "MPO", **PAGES),
    "animated GIF": lambda: encode(GRAIN, "GIF", **PAGES),
    "animated WebP": lambda: encode(GRAIN, "WEBP", method=0, **PAGES),
    "animated PNG": lambda: encode(GRAIN, "PNG", compress_level=1, **PAGES),
    "a film behind a JPEG": lambda: PHOTO + np.random.default_rng(4).bytes(9_000_000) + b"\xff\xda" * 500,
    "JPEG with scans in its metadata": lambda: (
        PHOTO[:2] + (b"\xff\xe3" + struct.pack(">H", 60_002) + b"\xff\xda" * 30_000) + PHOTO[2:]
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_picture_is_not_taken_for_a_bomb(name: str, decoders: Decoders) -> None:
    assert decoders.decode(HONEST[name]()).shape == (224, 224, 3)
