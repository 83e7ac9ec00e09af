#!/usr/bin/env bash
# Chromium, in which the tests click through the web pages: installed where that is possible without asking, else the line
# that does is printed, and those tests are skipped.
set -uo pipefail
for name in chromium chromium-browser google-chrome; do command -v "$name" >/dev/null && exit 0; done
line='apt-get update && apt-get install -y chromium'
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "setup: installing chromium, in which the tests click through the web pages"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  { apt-get update -q && apt-get install -y -q --no-install-recommends chromium; } >"$log" 2>&1 && exit 0
  tail -n 5 "$log" >&2
fi
echo "  The tests of the web pages in a browser are skipped; install one with: sudo sh -c '$line'" >&2
exit 0
