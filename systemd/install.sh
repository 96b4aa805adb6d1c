#!/usr/bin/env bash
# Called by `make install` and `make uninstall`; reads DESTDIR, PREFIX, WHEEL and PYTHON.
# Installs a virtual environment of its own under PREFIX/lib/stackd, the command, and the units. Configuration and state
# are never overwritten and never removed.
set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."

destdir=${DESTDIR:-}
prefix=${PREFIX:-/usr/local}
wheel=${WHEEL:-}
lib=$prefix/lib/stackd
# systemd looks for units below /usr and /usr/local only
case $prefix in /usr | /usr/local) units=$prefix/lib ;; *) units=/usr/local/lib ;; esac
on_this_machine() { [[ -z $destdir && -d /run/systemd/system ]]; }
complain() {
  echo "stackd: $*" >&2
  exit 1
}

# The service runs as a user of its own and sees no home directory, so the interpreter must not live in one.
usable() {
  "$1" - 2>/dev/null <<'PY'
import ensurepip, os, sqlite3, ssl, sys, venv
home = ("/root/", "/home/", os.path.expanduser("~") + "/")
where = (os.path.realpath(sys.executable), os.path.realpath(sys.base_prefix) + "/")
sys.exit(sys.version_info < (3, 11) or any(path.startswith(home) for path in where))
PY
}

interpreter() {
  local candidate
  for candidate in ${PYTHON:-/usr/bin/python3 /usr/local/bin/python3 python3 python3.14 python3.13 python3.12 python3.11}; do
    if usable "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  complain "needs Python 3.11 or newer with venv, outside of home directories (Debian: apt install python3-venv); name one with PYTHON=…"
}

install_stackd() {
  local python target=$destdir$lib source
  if [[ -z $destdir ]] && ((EUID != 0)); then complain "run it as root, or with DESTDIR=… for a package"; fi
  python=$(interpreter)
  source=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$source' '$target.new'" EXIT
  echo "installing stackd into $target with $("$python" --version)"
  mkdir -p "$destdir$prefix/lib"
  "$python" -m venv --clear "$target.new"
  install_packages "$target.new/bin/python" "$source"
  # what knows its own path is told the final one, without DESTDIR and .new
  sed -i "1s|^#!.*|#!$lib/bin/python|" $(grep -rlI --include='*' -e "^#!.*$target.new" "$target.new/bin")
  sed -i "s|$target.new|$lib|g" "$target.new/pyvenv.cfg" "$target.new"/bin/activate*
  "$target.new/bin/python" -m compileall -q -f -s "$target.new" -p "$lib" "$target.new/lib"
  rm -rf "$target.old"
  [[ ! -e $target ]] || mv "$target" "$target.old"
  mv "$target.new" "$target"
  rm -rf "$target.old"
  install_files
  if on_this_machine; then settle; fi
}

install_packages() {
  local pip=("$1" -m pip --quiet --disable-pip-version-check --no-input install --no-compile --constraint constraints.txt)
  if [[ -n $wheel ]]; then
    "${pip[@]}" "$wheel"
    return
  fi
  # built from a copy: root leaves nothing behind in the checkout
  cp -r pyproject.toml README.md LICENSE stackd "$2/"
  "${pip[@]}" setuptools
  "${pip[@]}" --no-build-isolation "$2"
}

install_files() {
  mkdir -p "$destdir$prefix/bin"
  ln -sfn "$lib/bin/stackd" "$destdir$prefix/bin/stackd"
  install -d "$destdir$units/systemd/system"
  local unit
  for unit in stackd.service stackd.socket; do
    sed "s|/usr/local/bin/stackd|$prefix/bin/stackd|g" "systemd/$unit" >"$destdir$units/systemd/system/$unit"
  done
  install -Dm 644 systemd/stackd.sysusers.conf "$destdir$units/sysusers.d/stackd.conf"
  install -Dm 644 systemd/stackd.tmpfiles.conf "$destdir$units/tmpfiles.d/stackd.conf"
  if [[ ! -e $destdir/etc/stackd/config.toml ]]; then
    install -d -m 750 "$destdir/etc/stackd"
    sed 's|^path = "stackd.db"|path = "/var/lib/stackd/stackd.db"|' config.example.toml >"$destdir/etc/stackd/config.toml"
    chmod 640 "$destdir/etc/stackd/config.toml"
  fi
}

settle() {
  systemd-sysusers "$units/sysusers.d/stackd.conf"
  systemd-tmpfiles --create "$units/tmpfiles.d/stackd.conf"
  systemctl daemon-reload
  if systemctl is-active --quiet stackd.service; then
    echo "installed; the new version runs after: systemctl restart stackd"
  else
    echo "installed; next: a key in /etc/stackd/api-key, a kubeconfig in /etc/stackd/kubeconfig, systemctl enable --now stackd"
  fi
}

uninstall_stackd() {
  if on_this_machine; then systemctl disable --quiet --now stackd.socket stackd.service 2>/dev/null || true; fi
  rm -rf "$destdir$lib"
  rm -f "$destdir$prefix/bin/stackd" "$destdir$units/systemd/system/stackd".{service,socket} \
    "$destdir$units"/{sysusers,tmpfiles}.d/stackd.conf
  if on_this_machine; then systemctl daemon-reload; fi
  echo "uninstalled; kept: ${destdir}/etc/stackd, ${destdir}/var/lib/stackd and the user stackd"
}

case ${1:-} in
  install) install_stackd ;;
  uninstall) uninstall_stackd ;;
  *) complain "usage: systemd/install.sh install|uninstall" ;;
esac
