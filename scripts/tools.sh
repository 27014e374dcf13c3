# Sourced by the other scripts: puts the tools of bootstrap-tools on the PATH, before those of the system.
# shellcheck shell=bash
export PATH="$root/.tools/bin:$PATH"

need_tools() { "$root/scripts/bootstrap-tools" "$@"; }
