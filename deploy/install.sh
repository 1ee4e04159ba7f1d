#!/usr/bin/env bash
# Installs edgebird as a service, or brings an installed one up to date. `install.sh --help` tells more.
set -euo pipefail

usage() {
    cat <<'END'
Usage: sudo deploy/install.sh [OPTION...]

Installs edgebird as a service on Raspberry Pi OS or Debian (bookworm or trixie), or brings an
installed one up to date. If the new version fails its self-test, the one before stays in place.

  --camera CAMERA  what to watch: 0, /dev/video0, picamera2, rtsp://..., demo:
  --mqtt URL       the broker: mqtt://[user:password@]host
  --wheels FOLDER  install from this folder, without a network; a bundle brings its own
  --no-start       do not start the service, nor let it start at boot
  --dry-run        show what would be done, and do nothing
  --uninstall      take edgebird off; settings, pictures and waiting alerts stay
  --purge          with --uninstall: take these off, too
  -h, --help       this

--camera and --mqtt are written to /etc/edgebird/edgebird.toml if there is none yet.

Where things go:
  /opt/edgebird             the program, and the version before
  /etc/edgebird             settings, which are never overwritten
  /var/lib/edgebird         pictures, and alerts that wait for the broker
  /var/cache/edgebird       downloads, to be quicker the next time
  /etc/systemd/system       edgebird.service, and edgebird@.service for several cameras
  /usr/local/bin/edgebird   the command
and a user and group edgebird, member of the group video.
END
}

# Where the project, or a bundle of it, is: one up from this file.
SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
HOME_DIR=/opt/edgebird
RELEASES=$HOME_DIR/releases
SETTINGS_DIR=/etc/edgebird
SETTINGS=$SETTINGS_DIR/edgebird.toml
STATE_DIR=/var/lib/edgebird
LOG_DIR=/var/log/edgebird
CACHE_DIR=/var/cache/edgebird
UNIT_DIR=/etc/systemd/system
COMMAND=/usr/local/bin/edgebird
PACKAGES_ADDED=$HOME_DIR/packages-added
# Two versions beside each other while one is replaced, and what is downloaded.
NEEDED_MB=700

camera='' default_camera=0 mqtt='' wheels='' start=yes dry_run='' uninstall='' purge=''
new=''

say() { printf '%s\n' "$*"; }
step() { printf '== %s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

# Everything that changes the machine goes through `run` or `put`.
run() {
    if [ -n "$dry_run" ]; then
        printf 'would run: %s\n' "$*"
    else
        "$@"
    fi
}

# put FILE MODE GROUP: writes standard input to a file, whole or not at all
put() {
    if [ -n "$dry_run" ]; then
        cat >/dev/null
        say "would write: $1"
        return
    fi
    install -m "$2" -o root -g "$3" /dev/stdin "$1.new"
    mv -f "$1.new" "$1"
}

have() { command -v "$1" >/dev/null 2>&1; }
systemd_runs() { [ -d /run/systemd/system ] && have systemctl; }
package_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}
on_a_pi() { tr -d '\0' 2>/dev/null </proc/device-tree/model | grep -q 'Raspberry Pi'; }

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
        --camera | --mqtt | --wheels)
            [ $# -ge 2 ] || fail "$1 needs a value; see --help"
            printf -v "${1#--}" '%s' "$2"
            shift
            ;;
        --no-start) start='' ;;
        --dry-run) dry_run=yes ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "unknown option $1; see --help" ;;
        esac
        shift
    done
    [ -z "$purge" ] || [ -n "$uninstall" ] || fail "--purge goes with --uninstall"
    if [ -z "$wheels" ] && [ -d "$SOURCE/wheels" ]; then
        wheels=$SOURCE/wheels
    fi
    if [ -n "$wheels" ]; then
        [ -d "$wheels" ] || fail "there is no folder $wheels"
        wheels=$(cd "$wheels" && pwd)
        compgen -G "$wheels/edgebird-*.whl" >/dev/null ||
            fail "$wheels has no edgebird-*.whl; deploy/bundle.sh makes such a folder"
    fi
}

# --- what this machine is ---------------------------------------------------------------------

check_machine() {
    have apt-get ||
        fail "this is for Raspberry Pi OS and Debian; elsewhere: python3 -m venv, then pip install"
    have python3 || install_packages python3
    [ -n "$dry_run" ] && ! have python3 && return
    local bits python
    # The programs' size counts: a 64-bit kernel with 32-bit programs calls itself aarch64.
    bits=$(python3 -c 'import struct; print(8 * struct.calcsize("P"))')
    python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    case $python in
    3.11 | 3.12 | 3.13) ;;
    *) fail "Python $python does not fit: edgebird needs 3.11 to 3.13, as in Debian bookworm or trixie" ;;
    esac
    if [ "$bits" = 32 ]; then
        [ "$python" = 3.11 ] || fail "this system is a 32-bit one with Python $python, for which there" \
            "is no interpreter of networks: LiteRT exists for 64 bits only, its predecessor for up to" \
            "Python 3.11. Use the 64-bit Raspberry Pi OS, which runs on a Zero 2 W and from the Pi 3 on"
        case $(uname -m) in
        armv6l) fail "this board is too old: a Raspberry Pi 3, a Zero 2 W or a newer one is needed" ;;
        esac
        say "a 32-bit system: not tested; the 64-bit Raspberry Pi OS is faster, too"
    fi
    local free_mb
    free_mb=$(df -Pm /opt | awk 'NR == 2 { print $4 }')
    [ "$free_mb" -ge "$NEEDED_MB" ] ||
        fail "only $free_mb MB are free on the disk of /opt, and $NEEDED_MB are needed"
}

# install_packages NAME...: those that are missing, remembered for --uninstall
install_packages() {
    add_packages "$@" || fail "cannot install $*; without a network, install them before"
}

# add_packages NAME...: the same, or fails with the distribution's own words
add_packages() {
    local missing=() before
    local name
    for name in "$@"; do
        package_installed "$name" || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    step "installing from the distribution: ${missing[*]}"
    if [ -n "$dry_run" ]; then
        run apt-get install --no-install-recommends "${missing[@]}"
        return
    fi
    before=$(mktemp)
    dpkg-query -W -f '${Package}\n' | sort -u >"$before"
    apt_get install --no-install-recommends "${missing[@]}" 2>/dev/null || {
        apt_get update || say "the list of packages could not be brought up to date"
        apt_get install --no-install-recommends "${missing[@]}" || {
            rm -f "$before"
            return 1
        }
    }
    mkdir -p "$HOME_DIR"
    dpkg-query -W -f '${Package}\n' | sort -u | comm -13 "$before" - >>"$PACKAGES_ADDED"
    rm -f "$before"
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 "$@" </dev/null >/dev/null
}

# The ribbon camera's library, which only Raspberry Pi OS has.
install_ribbon_library() {
    if ribbon_camera; then
        install_packages python3-picamera2
    else
        add_packages python3-picamera2 2>/dev/null ||
            say "python3-picamera2 cannot be had, so the Pi's ribbon camera will not work; others do"
    fi
}

# Whether that is the camera, as far as one knows: settings that are there are not changed.
ribbon_camera() {
    grep -qsE '^\s*source\s*=\s*.picamera2' "$SETTINGS_DIR"/*.toml ||
        { writes_settings && [[ ${camera:-$default_camera} == picamera2* ]]; }
}

# Settings are written where there are none; beside those of other cameras only if one is named.
writes_settings() {
    [ ! -e "$SETTINGS" ] && { [ -n "$camera" ] || ! compgen -G "$SETTINGS_DIR/*.toml" >/dev/null; }
}

usb_camera() { compgen -G '/dev/v4l/by-id/*' >/dev/null; }

# What is watched unless --camera says it.
choose_camera() {
    if on_a_pi && ! usb_camera; then
        default_camera=picamera2
    fi
}

# --- the program ------------------------------------------------------------------------------

# The environment sees the system's packages where the ribbon camera's library is one of them.
system_packages() { package_installed python3-picamera2; }

# Versions that go with the system's numpy: the camera's library is compiled against that one, so
# another one must not stand before it.
write_constraints() {
    system_packages || return 0
    local numpy
    numpy=$(python3 -c 'import numpy; print(numpy.__version__)') || return 0
    say "numpy==$numpy"
    case $numpy in
    # from 4.12 on OpenCV asks for numpy 2
    1.*) say 'opencv-python-headless<4.12' ;;
    esac
}

# What would be installed, as one number: unchanged means that there is nothing to do.
fingerprint() {
    {
        python3 -VV
        write_constraints
        cat "$SOURCE"/systemd/*.service
        if [ -n "$wheels" ]; then
            cd "$wheels" && sha256sum -- *.whl
        else
            cd "$SOURCE" &&
                find edgebird pyproject.toml README.md LICENSE -type f ! -name '*.pyc' -print0 |
                sort -z | xargs -0 sha256sum
        fi
    } | sha256sum | cut -d ' ' -f 1
}

self_test() {
    local found state
    state=$(mktemp -d) && chown edgebird: "$state"
    found=$(cd / && timeout 600 runuser -u edgebird -- env STATE_DIRECTORY="$state" \
        "$1/bin/edgebird" detect --json --source 'demo:?seconds=9&fps=5&pace=0' --max-frames 30) &&
        grep -q '"event": *"start"' <<<"$found" || found=''
    rm -rf "$state"
    [ -n "$found" ]
}

# Makes and tests a new environment; its folder is then in $new, or that is empty: nothing changed.
make_release() {
    local mark options=() pip_options=() constraints
    mark=$(fingerprint)
    if [ "$(cat $HOME_DIR/current/fingerprint 2>/dev/null)" = "$mark" ] &&
        self_test $HOME_DIR/current >/dev/null 2>&1; then
        step "the program is up to date"
        return
    fi
    new=$RELEASES/$(date -u +%Y%m%dT%H%M%SZ)
    step "installing into $new; on a Raspberry Pi this takes some minutes"
    if system_packages; then
        options=(--system-site-packages)
    fi
    if [ -n "$dry_run" ]; then
        run python3 -m venv "${options[@]}" "$new"
        run "$new/bin/python" -m pip install "${wheels:-$SOURCE}"
        run self_test "$new"
        return
    fi
    mkdir -p "$RELEASES"
    python3 -m venv "${options[@]}" "$new"
    # a way back takes the units of that version, too
    cp "$SOURCE"/systemd/*.service "$new"
    constraints=$new/constraints.txt
    write_constraints >"$constraints"
    pip_options=(--quiet --disable-pip-version-check --no-input --constraint "$constraints")
    if [ -n "$wheels" ]; then
        pip_options+=(--no-index --find-links "$wheels" edgebird)
    else
        pip_options+=(--cache-dir "$CACHE_DIR" "$SOURCE")
    fi
    # /tmp may be in memory, and small
    TMPDIR=$new "$new/bin/python" -m pip install "${pip_options[@]}" || {
        say "this goes with it: $(tr '\n' ' ' <"$constraints")"
        fail "the program cannot be installed; ${wheels:+the bundle must be for this system, }see above"
    }
    if system_packages && compgen -G "$new/lib/python*/site-packages/numpy" >/dev/null; then
        fail "numpy was installed a second time, which would break the ribbon camera's library"
    fi
    step "self-test: birds in a drawn garden"
    self_test "$new" || fail "the new version fails its self-test, so nothing was changed"
    say "$mark" >"$new/fingerprint"
}

# switch_to RELEASE: from one moment to the next
switch_to() {
    local name from=$1
    run ln -sfn "$1" $HOME_DIR/next
    run mv -fT $HOME_DIR/next $HOME_DIR/current
    [ -z "$dry_run" ] || from=$SOURCE/systemd
    for name in edgebird.service edgebird@.service; do
        put "$UNIT_DIR/$name" 0644 root <"$from/$name"
    done
    if systemd_runs; then
        run systemctl daemon-reload
    fi
}

# units_that_are STATE[,STATE...]
units_that_are() {
    systemctl list-units --plain --no-legend --state="$1" \
        'edgebird.service' 'edgebird@*.service' | awk '{ print $1 }'
}

enabled_units() {
    local link
    for link in "$UNIT_DIR"/multi-user.target.wants/edgebird{,@*}.service; do
        [ ! -L "$link" ] || say "${link##*/}"
    done
}

running_units() { units_that_are active,activating,reloading; }

# Which units are to run: those that start at boot or run already, else the one.
wanted_units() {
    { enabled_units; running_units || true; } | sort -u | grep . || say edgebird.service
}

# start_units start|restart UNIT...: a service that runs already is left alone by start
start_units() {
    local verb=$1 unit
    shift
    # what somebody runs for a while beside those that start at boot is not to start at boot, too
    [ -n "$(enabled_units)" ] || run systemctl enable --quiet "$@"
    for unit in "$@"; do
        run systemctl reset-failed "$unit" 2>/dev/null || true
        run systemctl "$verb" "$unit" || return 1
    done
}

# in_use RELEASE: whether a process runs from it
in_use() {
    local file word
    for file in /proc/[0-9]*/cmdline; do
        while IFS= read -r -d '' word; do
            [[ $word != "$1"/* ]] || return 0
        done 2>/dev/null <"$file"
    done
    return 1
}

# remove_old_releases BEFORE: this one stays for a way back by hand, as does what is in use
remove_old_releases() {
    local old
    for old in "$RELEASES"/*; do
        [ "$old" -ef $HOME_DIR/current ] || [ "$old" -ef "$1" ] || in_use "$old" || rm -rf "$old"
    done
}

# --- settings ---------------------------------------------------------------------------------

quoted() { python3 -c 'import json, sys; print(json.dumps(sys.argv[1], ensure_ascii=False))' "$1"; }

write_settings() {
    # what is added here belongs to the group too, so that the service can read it
    run install -d -m 2750 -o root -g edgebird $SETTINGS_DIR
    if ! writes_settings; then
        step "settings: those in $SETTINGS_DIR stay as they are"
        [ -z "$camera$mqtt" ] || say "   (--camera and --mqtt were not written to it)"
        return
    fi
    camera=${camera:-$default_camera}
    # a stream's address may hold a password
    step "settings: $SETTINGS, camera ${camera##*@}"
    {
        say "# Settings of edgebird. What there is: $HOME_DIR/current/lib/python3*/site-packages/edgebird/example.toml"
        say "# After a change: sudo systemctl restart edgebird"
        say ""
        say "[camera]"
        say "source = $(quoted "$camera")"
        say ""
        say "[mqtt]"
        if [ -n "$mqtt" ]; then
            say "url = $(quoted "$mqtt")"
        else
            say '# url = "mqtt://broker.local"'
        fi
        say "# user = \"feeder\"   # its password: one line in $SETTINGS_DIR/mqtt-password"
        say ""
        say "[output]"
        say "# pictures of the visits, in $STATE_DIR/pictures; the oldest go when there are more"
        say 'save = "pictures"'
        say "keep_mb = 500"
    } | put $SETTINGS 0640 edgebird
}

# Whether the user edgebird, if there is one, is the service's, and no person's.
user_is_ours() {
    local entry uid shell
    entry=$(getent passwd edgebird) || return 0
    IFS=: read -r _ _ uid _ _ _ shell <<<"$entry"
    [ "$uid" -lt 1000 ] && [[ $shell == */nologin || $shell == */false ]]
}

check_user() {
    user_is_ours ||
        fail "the user edgebird is a person's account, and the service needs one of this name that" \
            "nobody can log in to: give the person's account and its group another name first"
}

make_user() {
    local group=--user-group
    ! getent passwd edgebird >/dev/null || return 0
    step "adding the user edgebird"
    ! getent group edgebird >/dev/null || group=--gid=edgebird
    run useradd --system "$group" --no-create-home --home-dir $STATE_DIR \
        --shell /usr/sbin/nologin --groups video edgebird
}

remove_user() {
    if ! user_is_ours; then
        say "the user edgebird is a person's account, which stays; the rest is gone"
        return
    fi
    local left=''
    ! getent passwd edgebird >/dev/null || run userdel edgebird || left=user
    # goes with its user, but not where it has other members
    ! getent group edgebird >/dev/null || run groupdel edgebird || left="${left:+$left and }group"
    if [ -n "$left" ]; then
        say "the $left edgebird: in use, not removed; the rest is gone"
    else
        say "nothing of edgebird is left"
    fi
}

# --- the two ways -----------------------------------------------------------------------------

install_all() {
    local before='' units=() verb=restart
    check_machine
    check_user
    choose_camera
    install_packages python3-venv
    if on_a_pi; then
        install_ribbon_library
    fi
    make_user
    if [ -L $HOME_DIR/current ]; then
        before=$(readlink -f $HOME_DIR/current)
    fi
    make_release
    write_settings
    run ln -sfn $HOME_DIR/current/bin/edgebird $COMMAND
    switch_to "${new:-$before}"

    if systemd_runs; then
        mapfile -t units < <(wanted_units)
    fi
    if [ -z "$start" ] || ! systemd_runs; then
        step "the service was not started"
        [ -z "$before" ] || say "   one that runs already stays at its version until it is restarted"
    else
        step "starting the service"
        [ -n "$new" ] || verb=start
        if ! start_units "$verb" "${units[@]}"; then
            systemctl status --no-pager --lines 8 "${units[@]}" || true
            if [ -n "$new" ] && [ -n "$before" ]; then
                say "the new version does not start: back to the one before"
                switch_to "$before"
                start_units restart "${units[@]}" || true
                fail "the version before was put back; the messages above say why the new one failed"
            fi
            fail "the service does not start: see above, correct $SETTINGS, and then" \
                "sudo systemctl restart edgebird"
        fi
    fi

    if [ -n "$new" ] && [ -z "$dry_run" ]; then
        remove_old_releases "$before"
    fi
    new=''
    next_step
}

next_step() {
    [ -z "$dry_run" ] || return 0
    say ""
    say "edgebird $($COMMAND --version | awk '{ print $NF }') is installed."
    say "  how it goes     systemctl status edgebird"
    say "  what it says    journalctl -u edgebird -f"
    say "  its settings    sudo nano $SETTINGS   then: sudo systemctl restart edgebird"
    say "  its alerts      edgebird watch --mqtt ${mqtt:-mqtt://broker.local}" | sed 's#://[^/]*@#://user:password@#'
    say "  an update       run this again, from a newer copy"
    say "  and off again   sudo $SOURCE/deploy/install.sh --uninstall"
}

remove_all() {
    local unit added=''
    step "taking edgebird off"
    if systemd_runs; then
        for unit in $(wanted_units) $(units_that_are failed); do
            run systemctl disable --now --quiet "$unit" 2>/dev/null || true
            run systemctl reset-failed "$unit" 2>/dev/null || true
        done
    fi
    [ ! -s $PACKAGES_ADDED ] || added=$(sort -u $PACKAGES_ADDED | tr '\n' ' ')
    run rm -rf $UNIT_DIR/edgebird.service $UNIT_DIR/edgebird@.service \
        $UNIT_DIR/multi-user.target.wants/edgebird{,@*}.service \
        $COMMAND $RELEASES $HOME_DIR/current $HOME_DIR/next $PACKAGES_ADDED $CACHE_DIR /run/edgebird
    # a folder with something else in it, perhaps a checkout, is not ours to remove
    [ ! -d $HOME_DIR ] || run rmdir --ignore-fail-on-non-empty $HOME_DIR
    if systemd_runs; then
        run systemctl daemon-reload
    fi
    if [ -n "$purge" ]; then
        run rm -rf $SETTINGS_DIR $STATE_DIR $LOG_DIR \
            $UNIT_DIR/edgebird.service.d $UNIT_DIR/edgebird@*.service.d
        remove_user
    else
        say "settings in $SETTINGS_DIR, pictures and alerts in $STATE_DIR and the user edgebird stay;"
        say "with --uninstall --purge they go, too"
    fi
    if [ -n "$added" ]; then
        # something else may need them by now: apt shows what else would go, and asks
        say "distribution packages that were installed for it go with:"
        say "  sudo apt-get purge $added"
    fi
}

clean_up() {
    # a new environment that did not make it
    if [ -n "$new" ] && [ -z "$dry_run" ] && [ "$(readlink -f $HOME_DIR/current)" != "$new" ]; then
        rm -rf "$new"
    fi
}

main() {
    parse "$@"
    [ "$(id -u)" = 0 ] || [ -n "$dry_run" ] || fail "this changes the system: run it with sudo"
    umask 022
    cd /
    trap clean_up EXIT
    if [ -z "$dry_run" ]; then
        exec 9>/run/lock/edgebird-install
        flock -n 9 || fail "another install.sh is at work"
    fi
    if [ -n "$uninstall" ]; then
        remove_all
    else
        install_all
    fi
    [ -n "$dry_run" ] || rm -f /run/lock/edgebird-install
}

# not where a test reads the functions
[ "${BASH_SOURCE[0]}" != "$0" ] || main "$@"
