# Sourced by scripts/test and scripts/quickstart: a .venv with what the project needs. Installs only when the inputs changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv
python=${PYTHON:-python3}

ensure_environment() {
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "Python 3.11 or newer is needed; $python is not. Set PYTHON to one." >&2
        exit 2
    fi
    local stamp inputs
    inputs=$(cat pyproject.toml constraints.txt CMakeLists.txt $(find moecompress/runtime/core -type f | LC_ALL=C sort) | sha256sum | cut -d' ' -f1)
    stamp=$venv/.installed-$inputs
    [ -f "$stamp" ] && return
    echo "Setting up $venv (once; later runs install nothing)" >&2
    [ -x $venv/bin/python ] || "$python" -m venv $venv
    $venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
        -e '.[compress,test,reference]' >&2
    rm -f $venv/.installed-*
    touch "$stamp"
}

# The slow tests compile for an ARM processor and run the result. Root on Debian gets the packages, others are told.
ensure_arm_tools() {
    command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "The slow tests need aarch64-linux-gnu-g++ and qemu-aarch64: apt-get install g++-aarch64-linux-gnu qemu-user" >&2
        exit 2
    fi
    echo "Installing g++-aarch64-linux-gnu and qemu-user (once)" >&2
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends g++-aarch64-linux-gnu qemu-user >&2
}
