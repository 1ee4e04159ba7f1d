"""What is shipped, and what it drags in."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import edgebird

ROOT = Path(__file__).parents[1]


def run_python(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter that runs ``code`` in the project's folder."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    run_python(build, str(folder))
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of the source distribution by name: all of the project that git does not ignore."""
    folder = tmp_path_factory.mktemp("sdist")
    build = "import sys; from hatchling.build import build_sdist; build_sdist(sys.argv[1])"
    run_python(build, str(folder))
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        return {name.split("/", 1)[1]: file.read() for name, file in files.items() if file}


def test_wheel_has_the_models_with_their_cards(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if name.startswith("edgebird/models/")}
    in_tree = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("edgebird/models/*.*")}
    assert shipped == in_tree
    models = {Path(name).stem for name in shipped if name.endswith(".tflite")}
    cards = {Path(name).stem for name in shipped if name.endswith(".json")}
    assert models == cards != set()


def test_wheel_has_the_runtime_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {"edgebird/py.typed", "edgebird/example.toml"} <= set(names)
    assert {name.split("/")[0] for name in names} == {
        "edgebird",
        f"edgebird-{edgebird.__version__}.dist-info",
    }


def test_wheel_is_light_to_install(wheel: zipfile.ZipFile) -> None:
    metadata_name = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
    metadata = wheel.read(metadata_name).decode()
    requirements = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.MULTILINE)
    assert set(requirements) == {
        "numpy",
        "opencv-python-headless",
        "ai-edge-litert",
        "tflite-runtime",
        "paho-mqtt",
        "msgspec",
        "click",
    }


@pytest.mark.parametrize(
    ("machine", "allowed"), [("armv7l", False), ("armv8l", False), ("aarch64", True)]
)
def test_only_the_interpreter_for_32_bit_arm_keeps_to_numpy_1(
    wheel: zipfile.ZipFile, machine: str, allowed: bool
) -> None:
    metadata_name = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
    metadata = wheel.read(metadata_name).decode()
    board = {"platform_machine": machine, "python_version": "3.11", "extra": ""}
    requirements = [
        Requirement(text) for text in re.findall(r"^Requires-Dist: (.+)", metadata, re.MULTILINE)
    ]
    needed = [r for r in requirements if r.marker is None or r.marker.evaluate(board)]
    assert {"ai-edge-litert", "tflite-runtime"} & {r.name for r in needed} == {
        "ai-edge-litert" if allowed else "tflite-runtime"
    }
    numpy = [r.specifier for r in needed if r.name == "numpy"]
    assert all(specifier.contains("1.26.4") for specifier in numpy)
    assert all(specifier.contains("2.0.0") for specifier in numpy) == allowed


def test_source_distribution_has_the_build_stage_and_no_data(source: dict[str, bytes]) -> None:
    assert source.keys() >= {"LICENSE", "Makefile", "model_build/__init__.py", "tests/lowest.py"}
    assert not {name.split("/")[0] for name in source} & {"data", "runs", "out", ".venv"}


@pytest.mark.parametrize("folder", [ROOT, Path.home()], ids=["checkout", "home"])
def test_no_file_names_a_folder_of_this_machine(source: dict[str, bytes], folder: Path) -> None:
    own_path = re.compile(rb"(?<![\w.])" + re.escape(os.fsencode(folder)) + rb"\b")
    assert [name for name, content in source.items() if own_path.search(content)] == []


def test_version_is_the_same_everywhere(wheel: zipfile.ZipFile) -> None:
    assert f"/edgebird-{edgebird.__version__}-" in f"/{Path(str(wheel.filename)).name}"
    assert importlib.metadata.version("edgebird") == edgebird.__version__


def test_no_module_imports_an_optional_library() -> None:
    code = """
import importlib, pkgutil, sys
import edgebird
for module in pkgutil.walk_packages(edgebird.__path__, "edgebird."):
    importlib.import_module(module.name)
print(*{name.split(".")[0] for name in sys.modules})
"""
    loaded = set(run_python(code).split())
    assert "edgebird" in loaded
    assert not loaded & {"model_build", "tensorflow", "keras", "amqtt", "picamera2"}


def test_what_only_tells_of_visits_does_without_numpy_and_its_memory() -> None:
    code = """
import sys
import edgebird.cli, edgebird.history.listing, edgebird.mqtt.alert_command, edgebird.mqtt.watch
print(*sys.modules)
"""
    assert not {"numpy", "cv2"} & set(run_python(code).split())


def test_no_function_of_the_runtime_imports_the_build_stage() -> None:
    for path in ROOT.glob("edgebird/**/*.py"):
        text = path.read_text(encoding="utf-8")
        imported = set(re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE))
        assert "model_build" not in imported, path
        assert "tensorflow" not in imported, path
