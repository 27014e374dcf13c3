# Sourced by the other scripts, after venv.sh: puts the tools of bootstrap-tools on the PATH, before the system's.
# shellcheck shell=bash
export PATH="${root:?source venv.sh first}/.tools/bin:$PATH"

need_tools() { "$root/scripts/bootstrap-tools" "$@"; }
