#!/usr/bin/env bash
# Gathers all that install.sh needs on a board without a network. `bundle.sh --help` tells more.
set -euo pipefail

usage() {
    cat <<'END'
Usage: deploy/bundle.sh [--dry-run] DISTRIBUTION [ARCHITECTURE [FOLDER]]

Makes a folder to copy to a board that has no network, on which deploy/install.sh in it installs
edgebird. To be run on any Linux machine that has a network and the board's version of Python.

  DISTRIBUTION  of the board: bookworm (Python 3.11) or trixie (Python 3.13)
  ARCHITECTURE  of the board: aarch64 (default; a Raspberry Pi) or x86_64
  FOLDER        default: edgebird-DISTRIBUTION-ARCHITECTURE, in the current folder
  --dry-run     only find out which packages would be taken

The board itself still needs python3-venv, and a Raspberry Pi for its ribbon camera
python3-picamera2; both are in Raspberry Pi OS unless it is the Lite edition.
END
}

fail() {
    printf 'bundle.sh: %s\n' "$*" >&2
    exit 1
}

# A Python of the board's version: pip judges conditions such as python_version < '3.12' by its own.
find_python() {
    local candidate
    for candidate in "python$1" python3 "$(pyenv root 2>/dev/null)"/versions/"$1".*/bin/python; do
        if "$candidate" -c "import pip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" \
            2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "Python $1 with pip is needed here, as on the board"
}

dry_run=''
case ${1-} in
-h | --help)
    usage
    exit 0
    ;;
--dry-run)
    dry_run=yes
    shift
    ;;
esac
distribution=${1-} architecture=${2-aarch64}
# The numpy that python3-picamera2 brings along, and what goes with it; the release's C library.
case $distribution in
bookworm) version=3.11 glibc_minor=36 constraints=('numpy==1.24.2' 'opencv-python-headless<4.12') ;;
trixie) version=3.13 glibc_minor=41 constraints=('numpy==2.2.4') ;;
'') fail "for which distribution? bookworm or trixie; see --help" ;;
*) fail "unknown distribution $distribution: bookworm or trixie; see --help" ;;
esac
case $architecture in
aarch64 | x86_64) ;;
*) fail "unknown architecture $architecture: aarch64 or x86_64 (there is no interpreter for others)" ;;
esac
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${3-edgebird-$distribution-$architecture}
python=$(find_python $version)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '%s\n' "${constraints[@]}" >"$work/constraints.txt"
platforms=(--platform "manylinux2014_$architecture")
for minor in $(seq 17 $glibc_minor); do
    platforms+=(--platform "manylinux_2_${minor}_$architecture")
done
pip=("$python" -m pip --quiet --disable-pip-version-check)
for_board=(--only-binary ':all:' --implementation cp --python-version "$version" "${platforms[@]}")

"${pip[@]}" wheel --no-deps --wheel-dir "$work/wheels" "$source"
if [ -n "$dry_run" ]; then
    "${pip[@]}" install --dry-run --ignore-installed --target "$work/none" --report "$work/report" \
        --constraint "$work/constraints.txt" "${for_board[@]}" "$work"/wheels/*.whl
    "$python" - "$work/report" <<'END'
import json, sys
for package in json.load(open(sys.argv[1]))["install"]:
    print(package["download_info"]["url"].rsplit("/", 1)[1])
END
    exit
fi
"${pip[@]}" download --dest "$work/wheels" --constraint "$work/constraints.txt" "${for_board[@]}" \
    "$work"/wheels/*.whl
mkdir -p "$folder"
rm -rf "$folder/wheels"
mkdir -p "$folder/deploy"
cp -r "$work/wheels" "$source/systemd" "$source/README.md" "$source/LICENSE" "$folder"
cp "$source/deploy/install.sh" "$folder/deploy"
printf '%s: %s packages for Python %s, %s MB\n' "$folder" \
    "$(find "$folder/wheels" -name '*.whl' | wc -l)" "$version" \
    $(($(cat "$folder"/wheels/*.whl | wc -c) / 1000000))
printf 'Copy it to the board, and there: sudo %s/deploy/install.sh\n' "$(basename "$folder")"
