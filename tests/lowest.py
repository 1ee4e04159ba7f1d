"""Print pip constraints that hold each dependency at its lower bound in pyproject.toml."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
REQUIREMENTS = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["broker"]

# only the first ">=" is the version's; a later one belongs to the environment marker
sys.stdout.writelines(requirement.replace(">=", "==", 1) + "\n" for requirement in REQUIREMENTS)
