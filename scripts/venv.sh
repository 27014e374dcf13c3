# Sourced by the other scripts: `use_venv EXTRA…` puts the package with those extras into .venv, and that on the PATH.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
stamp=$venv/installed
python=${PYTHON:-python3}

use_venv() {
  local extras
  extras=$(printf '%s\n' "$@" | sort -u)
  if ! _is_installed "$extras"; then
    extras=$(sort -u <(_installed_extras) <(echo "$extras"))
    _install "$extras"
    { _fingerprint; echo "$extras"; } >"$stamp"
  fi
  export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH"
}

# A script's help is the comment at its top.
show_help() { sed -n '2,${/^#/!q; s/^# \{0,1\}//p}' "$1"; }

# The stamp's first line says what was installed from what, the others the extras.
_is_installed() {
  [[ -f $stamp && $(head -n 1 "$stamp") == "$(_fingerprint)" && -z $(comm -13 <(_installed_extras) <(echo "$1")) ]]
}

_installed_extras() { if [[ -f $stamp ]]; then tail -n +2 "$stamp"; fi; }

_fingerprint() {
  { echo "$root"; "$venv/bin/python" -V; cat "$root/pyproject.toml" "$root/constraints.txt"; } 2>&1 | sha256sum
}

_install() {
  local extras=${1//$'\n'/,}
  local -a options=(--disable-pip-version-check --no-input --constraint "$root/constraints.txt")
  # A virtual environment does not survive that it or its Python is moved.
  if ! { grep -qsF " $venv" "$venv/pyvenv.cfg" && "$venv/bin/python" -m pip --version &>/dev/null; }; then
    _need_python
    echo "Creating $venv" >&2
    "$python" -m venv --clear "$venv"
  fi
  rm -f "$stamp"
  echo "Installing model-server[$extras]" >&2
  if ! [[ -t 2 ]]; then options+=(--quiet); fi
  "$venv/bin/python" -m pip install "${options[@]}" --editable "$root[$extras]" >&2
}

# want COMMAND [PACKAGE]: installs a Debian package that would be of use; where that may not be done, life goes on without.
want() { command -v "$1" >/dev/null || (_apt_install "${2:-$1}") || true; }

_need_python() {
  if ! command -v "$python" >/dev/null; then _apt_install python3 python3-venv; fi
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$python is $("$python" -V 2>&1); 3.11 or newer is needed. Name another as in PYTHON=python3.12 $0" >&2
    exit 1
  fi
  # Debian ships Python without ensurepip, and `python3 -m venv` fails for want of it.
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    _apt_install "$("$python" -c 'import sys; print("python{}.{}-venv".format(*sys.version_info))')"
  fi
}

_apt_install() {
  local -a as_root=()
  if [[ $(id -u) != 0 ]]; then as_root=(sudo -n env "http_proxy=${http_proxy-}" "https_proxy=${https_proxy-}"); fi
  if ! command -v apt-get >/dev/null || ! "${as_root[@]}" true 2>/dev/null; then
    echo "$* is missing and cannot be installed from here. Run: sudo apt-get install $*" >&2
    exit 1
  fi
  echo "Installing $*" >&2
  "${as_root[@]}" apt-get update -qq >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@" >&2
}
