#!/usr/bin/env bash
# Makes sure of a Vulkan driver that draws on the processor, which ManiSkill needs even without pictures: Mesa's lavapipe,
# 24.3 or newer. Installs it where that is possible without asking, else prints the line that does. Never stops the set-up.
set -uo pipefail
[ "$(uname -s)" = Linux ] || exit 0
least=24.3

recent() { # whether a Debian version is new enough
  [ -n "$1" ] && dpkg --compare-versions "$1" ge "$least"
}
installed() { dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null || true; }
offered() { apt-cache policy mesa-vulkan-drivers 2>/dev/null | sed -n 's/^ *Candidate: //p' | grep -v none; }

if ! command -v dpkg >/dev/null; then
  compgen -G '/usr/share/vulkan/icd.d/lvp_icd*.json' >/dev/null ||
    echo "  !! ManiSkill needs Mesa's lavapipe, $least or newer (Fedora: sudo dnf install mesa-vulkan-drivers)" >&2
  exit 0
fi
recent "$(installed)" && exit 0

. "$(dirname "$0")/apt.sh"
package=mesa-vulkan-drivers
prepare=true
if ! recent "$(offered)"; then
  # Only this package from the backports of the release, from the mirror already in use: the rest of Mesa stays.
  release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' | awk -v r="$release" '$2 == r { print $1; exit }')
  package=mesa-vulkan-drivers/$release-backports
  prepare="echo deb $mirror $release-backports main > /etc/apt/sources.list.d/$release-backports.list"
  apt-get indextargets --format '$(RELEASE)' | grep -qx "$release-backports" && prepare=true
fi
if may_install; then
  echo "setup: installing $package, with which ManiSkill draws"
  sh -c "$prepare" && apt_install "$package" && recent "$(installed)" && exit 0
fi
cat >&2 <<TEXT

  !! ManiSkill needs Mesa's lavapipe (package mesa-vulkan-drivers), $least or newer; here is: $(installed | grep . || echo none)
  !! Install it with:   sudo sh -c '$prepare && apt-get update && apt-get install -y $package'

TEXT
exit 0
