# Sourced by the scripts of the set-up: installs Debian packages where that is possible without asking.

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# packages...: installs all of them, or returns false with the end of apt's log on stderr.
apt_install() {
  local log status=0
  log=$(mktemp)
  { DEBIAN_FRONTEND=noninteractive apt-get update -q &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; } >"$log" 2>&1 || status=$?
  [ "$status" = 0 ] || tail -n 15 "$log" >&2
  rm -f "$log"
  return "$status"
}
