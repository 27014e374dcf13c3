"""The scripts on a bare Debian: what is missing is installed, or the command that does is named; once is enough."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import REPOSITORY

# Stands for Debian's python3, which has no ensurepip until python3-venv is installed. It records what it is asked.
PYTHON = """#!/bin/bash
echo "python $*" >>"$CALLS"
case "$*" in
  -V) echo "Python $VERSION.0" ;;
  *"< (3, 11)"*) [[ $VERSION != 3.9 ]] ;;
  *"import ensurepip"*) [[ -e $CALLS.ensurepip ]] ;;
  *python{}.{}-venv*) echo "python$VERSION-venv" ;;
  "-m venv"*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; echo "command = $*" >"$4/pyvenv.cfg" ;;
esac
"""
APT_GET = (
    '#!/bin/bash\necho "apt-get $DEBIAN_FRONTEND $*" >>"$CALLS"\n[[ $* != *install* ]] || touch "$CALLS.ensurepip"\n'
)
SUDO = "#!/bin/bash\nexit 1\n"
DOCKER = """#!/bin/bash
echo "docker $DOCKER_BUILDKIT $*" >>"$CALLS"
case "$1" in
  version) echo 20.10.24 ;;
  buildx) exit 1 ;;
  build) echo "step 7 of 9"; [[ $* != *broken* ]] ;;
  image) [[ $* != *base* ]] && echo 573123456 ;;
esac
"""


class Machine:
    """A copy of the scripts, on a machine whose python3, apt-get and user are ours to choose."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        self.calls_file = folder / "calls"
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name in ("scripts", "helm", "manifests"):
            shutil.copytree(REPOSITORY / name, self.root / name)
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(REPOSITORY / name, self.root)
        for name, content in {"python3": PYTHON, "apt-get": APT_GET, "sudo": SUDO}.items():
            self.place(name, content)
        for name in ("chromium", "helm", "rabbitmq-server"):
            self.place(name, "#!/bin/bash\n")

    def place(self, name: str, content: str) -> None:
        (self._bin / name).write_text(content)
        (self._bin / name).chmod(0o755)

    def run(self, *arguments: str, user: int = 0, version: str = "3.11") -> subprocess.CompletedProcess[str]:
        self.place("id", f"#!/bin/bash\necho {user}\n")
        self.calls_file.write_text("")
        path = f"{self._bin}:/usr/bin:/bin"
        environment = {"PATH": path, "CALLS": str(self.calls_file), "VERSION": version, "HOME": ""}
        command = arguments if arguments[:1] == ("bash",) else [self.root / "scripts" / "test", *arguments]
        return subprocess.run(
            command, env=environment, cwd=self.root, capture_output=True, text=True, timeout=30, check=False
        )

    def calls(self, word: str) -> list[str]:
        return [line for line in self.calls_file.read_text().splitlines() if word in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_debian_lacks_is_installed_without_a_question(machine: Machine) -> None:
    finished = machine.run("-k", "exif")
    assert finished.returncode == 0, finished.stderr
    (installed,) = machine.calls(" install -qq")
    assert installed == "apt-get noninteractive install -qq --no-install-recommends python3.11-venv"
    (pip,) = machine.calls("pip install")
    assert "--no-input" in pip
    assert f"--constraint {machine.root}/constraints.txt" in pip
    assert pip.endswith(f"--editable {machine.root}[test]")
    assert machine.calls("-m pytest") == ["python -m pytest -k exif"]


def test_second_run_installs_nothing_until_the_dependencies_change(machine: Machine) -> None:
    machine.run()
    machine.run()
    assert machine.calls("pip install") == []
    (machine.root / "constraints.txt").open("a").write("\n")
    machine.run()
    assert len(machine.calls("pip install")) == 1


def test_extras_of_one_script_do_not_take_away_those_of_another(machine: Machine) -> None:
    machine.run()
    shutil.copy(machine.root / "scripts" / "test", machine.root / "scripts" / "other")
    other = machine.root / "scripts" / "test"
    other.write_text(other.read_text().replace("use_venv test", "use_venv up"))
    machine.run()
    assert machine.calls("pip install")[0].endswith("[test,up]")
    shutil.copy(machine.root / "scripts" / "other", other)
    machine.run()
    assert machine.calls("pip install") == []


def test_environment_of_a_moved_repository_is_made_anew(machine: Machine) -> None:
    machine.run()
    machine.root = machine.root.rename(machine.root.with_name("moved"))
    assert machine.run().returncode == 0
    assert machine.calls("-m venv") == [f"python -m venv --clear {machine.root}/.venv"]


def test_failed_installation_is_not_taken_for_done(machine: Machine) -> None:
    machine.place("python3", PYTHON.replace("  -V)", '  *"pip install"*) exit 1 ;;\n  -V)'))
    assert machine.run().returncode == 1
    assert machine.calls("-m pytest") == []
    machine.run()
    assert len(machine.calls("pip install")) == 1


def test_command_is_named_where_it_may_not_be_run(machine: Machine) -> None:
    finished = machine.run(user=1000)
    assert finished.returncode == 1
    assert finished.stderr.endswith("Run: sudo apt-get install python3.11-venv\n")
    assert machine.calls("apt-get") == []


@pytest.mark.parametrize("user", [0, 1000])
def test_what_is_only_wanted_is_installed_where_it_may_be(machine: Machine, user: int) -> None:
    finished = machine.run("bash", "-ec", "source scripts/venv.sh; want absent-browser; echo on", user=user)
    assert finished.stdout == "on\n"
    installed = machine.calls(" install -qq")
    assert installed == ([] if user else ["apt-get noninteractive install -qq --no-install-recommends absent-browser"])
    assert ("Run: sudo apt-get install absent-browser" in finished.stderr) is (user != 0)


def test_old_python_is_named(machine: Machine) -> None:
    finished = machine.run(version="3.9")
    assert finished.returncode == 1
    assert "python3 is Python 3.9.0; 3.11 or newer is needed." in finished.stderr
    assert machine.calls("-m venv") == []


@pytest.fixture
def builder(machine: Machine) -> Machine:
    machine.place("docker", DOCKER)
    return machine


def test_image_is_built_of_what_the_options_say(builder: Machine) -> None:
    options = "--target tensorflow --base debian:12 --ca-bundle a.crt --pip-conf my.conf -- --network host"
    finished = builder.run("bash", "scripts/build-image", *options.split())
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "model-server:0.1.0-tensorflow: 573 MB\n"
    (call,) = builder.calls("docker 1 build")
    for option in (
        "--target tensorflow --tag model-server:0.1.0-tensorflow --build-arg VERSION=0.1.0",
        "--build-arg BASE_IMAGE=debian:12",
        "--secret id=ca_bundle,src=a.crt --secret id=pip_conf,src=my.conf",
    ):
        assert f" {option} " in call
    assert call.endswith(f" --network host {builder.root}")


def test_build_in_a_pipe_is_quiet_until_it_fails(builder: Machine) -> None:
    assert builder.run("bash", "scripts/build-image").stderr == "Building model-server:0.1.0\n"
    failed = builder.run("bash", "scripts/build-image", "--tag", "broken")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "Building broken\nstep 7 of 9\n"


@pytest.mark.parametrize(
    ("options", "docker", "words"),
    [
        (["--targte", "test"], DOCKER, "--targte is no option"),
        (["--target"], DOCKER, "--target needs a value"),
        (["--local-base"], DOCKER, "--local-base needs root"),
        ([], DOCKER.replace("20.10.24", "28.2.2"), "Docker 28.2.2 builds by its plugin buildx, which is missing"),
        ([], "#!/bin/bash\necho 'Cannot connect to the Docker daemon' >&2; exit 1\n", "cannot be used: Cannot connect"),
    ],
)
def test_image_that_cannot_be_built_is_explained(builder: Machine, options: list[str], docker: str, words: str) -> None:
    builder.place("docker", docker)
    finished = builder.run("bash", "scripts/build-image", *options, user=1000)
    assert finished.returncode == 2
    assert words in finished.stderr
    assert builder.calls("docker 1 build") == []


def test_image_that_has_changed_is_deployed_under_another_tag(machine: Machine) -> None:
    """Under the same tag no pod would be replaced."""
    images = []
    for name in ("kind", "kubectl", "helm"):
        machine.place(name, f'#!/bin/bash\necho "{name} $*" >>"$CALLS"\n')
    for identifier in ("sha256:0123456789abcdef", "sha256:fedcba9876543210"):
        inspect = f'echo "docker $*" >>"$CALLS"; case "$*" in *"{{{{.Id}}}}"*) echo {identifier}; exit ;; esac'
        machine.place("docker", DOCKER.replace('echo "docker $DOCKER_BUILDKIT $*" >>"$CALLS"', inspect))
        finished = machine.run("bash", "scripts/deploy")
        assert finished.returncode == 0, finished.stderr
        (loaded,) = machine.calls("kind load docker-image ")
        images.append(loaded.split()[3])
        assert machine.calls(f"docker tag model-server:0.1.0 {images[-1]}")
        (upgraded,) = machine.calls("helm upgrade ")
        assert f"--set image.tag={images[-1].partition(':')[2]} " in upgraded
    assert images == ["model-server:0.1.0-0123456789ab", "model-server:0.1.0-fedcba987654"]


def test_manifests_stay_where_they_cannot_be_rendered(machine: Machine) -> None:
    machine.place("helm", "#!/bin/bash\nexit 1\n")
    before = (machine.root / "manifests" / "keda" / "predictor.yaml").read_text()
    assert machine.run("bash", "scripts/render").returncode == 1
    assert (machine.root / "manifests" / "keda" / "predictor.yaml").read_text() == before


@pytest.mark.parametrize("name", ["run", "test", "train", "build-image"])
def test_help_needs_no_installation(machine: Machine, name: str) -> None:
    environment = os.environ | {"CALLS": str(machine.calls_file)}
    command = [machine.root / "scripts" / name, "--help"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "Example: scripts/" in finished.stdout
    assert not (machine.root / ".venv").exists()
