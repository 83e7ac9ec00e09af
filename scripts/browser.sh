#!/usr/bin/env bash
# Chromium, in which the tests click through the web pages: installed where that is possible without asking, else the line
# that does is printed, and those tests are skipped.
set -uo pipefail
for name in chromium chromium-browser google-chrome; do "$name" --version >/dev/null 2>&1 && exit 0; done # a name may be there that only says how to install it
. "$(dirname "$0")/apt.sh"
if may_install; then
  echo "setup: installing chromium, in which the tests click through the web pages"
  apt_install chromium && exit 0
fi
echo "  The tests of the web pages in a browser are skipped; install one with: sudo sh -c 'apt-get update && apt-get install -y chromium'" >&2
exit 0
