"""A trunk that TensorFlow takes in quickly, for tests of what goes on around a network.

`python tests/shallow.py ...` is `python -m model_build ...` with it in place of Lite0's.
"""

from __future__ import annotations

import re
from dataclasses import replace

from model_build.trunk import LITE0, TRUNKS, Trunk

_REPEATS = [stage.repeats for stage in LITE0.stages]


class _FirstBlocks(Trunk):
    """The first block of each of Lite0's stages, with its ImageNet weights."""

    def _names(self) -> dict[str, tuple[str, str]]:
        def of_lite0(source: str) -> str:
            return re.sub(r"(?<=_blocks.)\d+", lambda n: str(sum(_REPEATS[: int(n[0])])), source)

        names = super()._names().items()
        return {name: (of_lite0(layer), of_lite0(norm)) for name, (layer, norm) in names}


SHALLOW = _FirstBlocks(LITE0.package, tuple(replace(stage, repeats=1) for stage in LITE0.stages))

if __name__ == "__main__":
    from model_build.__main__ import main

    TRUNKS["lite0"] = SHALLOW
    main()
