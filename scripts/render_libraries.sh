#!/usr/bin/env bash
# Makes sure that MuJoCo finds a way to render without a screen: EGL or OSMesa. Installs them where that is possible
# without asking, else prints the line that does. Never stops the set-up: all but simulation from images works without.
set -uo pipefail
[ "$(uname -s)" = Linux ] || exit 0 # elsewhere the system's own OpenGL renders

present() { # soname: the loader's cache, or a look at the places that it does not list
  { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null; } | grep -q "$1" && return 0
  compgen -G "/usr/lib/*/$1*" >/dev/null || compgen -G "/usr/lib64/$1*" >/dev/null
}
present libEGL.so.1 && present libOSMesa.so && exit 0

line='apt-get update && apt-get install -y libegl1 libosmesa6'
. "$(dirname "$0")/apt.sh"
if may_install; then
  echo "setup: installing libegl1 and libosmesa6, which rendering needs"
  # Newer distributions dropped OSMesa; EGL alone is enough.
  { apt_install libegl1 libosmesa6 || apt_install libegl1; } && present libEGL.so.1 && exit 0
fi
present libEGL.so.1 || present libOSMesa.so && exit 0 # one of the two is enough
cat >&2 <<TEXT

  !! Rendering libraries are missing: simulators cannot make images, and 'make demo' will stop.
  !! Install them with:   sudo sh -c '$line'
  !! (Fedora: sudo dnf install mesa-libEGL mesa-libOSMesa)   Then check with: failwise doctor

TEXT
exit 0
