#!/usr/bin/env bash
# Chromium, in which the tests click through the web pages: installed where that is possible without asking, else the line
# that does is printed, and those tests are skipped.
set -uo pipefail
for name in chromium chromium-browser google-chrome; do command -v "$name" >/dev/null && exit 0; done
. "$(dirname "$0")/apt.sh"
if may_install; then
  echo "setup: installing chromium, in which the tests click through the web pages"
  apt_install chromium && exit 0
fi
echo "  The tests of the web pages in a browser are skipped; install one with: sudo sh -c 'apt-get update && apt-get install -y chromium'" >&2
exit 0
