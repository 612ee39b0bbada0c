#!/usr/bin/env bash
# Makes a machine part of a netplane cluster. Vagrant runs it, and it is what the README gives for any VM.
#
#   provision.sh all-in-one    [--address A]
#   provision.sh control-plane [--address A] [--token T] [--ca PREFIX]      PREFIX.crt and PREFIX.key
#   provision.sh worker        --join TOKEN@HOST --ca-hash HASH [--name N]
#
# Safe to repeat. NETPLANE_SOURCE is the checkout (default: the one this script is in, or /vagrant),
# NETPLANE_ROOT another root for the configuration steps, NETPLANE_STEPS=configure runs only those.
set -euo pipefail

readonly PREFIX=/opt/netplane
readonly ROOT=${NETPLANE_ROOT:-/}
readonly STEPS=${NETPLANE_STEPS:-install configure start}

die() { printf 'provision.sh: %s\n' "$*" >&2; exit 2; }
say() { printf '==> %s\n' "$*"; }

find_source() {
  local here
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  for candidate in "${NETPLANE_SOURCE:-}" "$here" /vagrant; do
    [ -n "$candidate" ] && [ -f "$candidate/pyproject.toml" ] && { echo "$candidate"; return; }
  done
  die "cannot find netplane's checkout: set NETPLANE_SOURCE"
}

install_netplane() {
  local source
  source=$(find_source)
  say "installing netplane into $PREFIX"
  mkdir -p "$PREFIX"
  (cd "$source" && tar -c --exclude=.venv --exclude=.cache --exclude=.git --exclude=.vagrant .) | tar -x -C "$PREFIX"
  "$PREFIX/dev" setup run
  ln -sfn "$PREFIX/.venv/bin/netplane" /usr/local/bin/netplane
  install -m 644 "$PREFIX"/deploy/systemd/* /etc/systemd/system/
  systemctl daemon-reload
}

# The configuration steps: files under $ROOT only.
configure() { # ROLE and the options it was given
  local netplane=${NETPLANE:-netplane}
  case $ROLE in
    all-in-one | control-plane)
      if [ -n "$CA" ]; then
        install -D -m 644 "$CA.crt" "$ROOT/etc/netplane/pki/ca.crt"
        install -D -m 600 "$CA.key" "$ROOT/etc/netplane/pki/ca.key"
      fi
      local options=(--root "$ROOT" --role "$ROLE")
      [ -z "$ADDRESS" ] || options+=(--address "$ADDRESS")
      [ -z "$NAME" ] || options+=(--name "$NAME")
      say "configuring the $ROLE"
      "$netplane" init "${options[@]}"
      [ -z "$TOKEN" ] || "$netplane" token --root "$ROOT" --use "$TOKEN" >/dev/null
      ;;
    worker)
      local options=(--root "$ROOT" --join "$JOIN" --ca-hash "$CA_HASH" --configure-only)
      [ -z "$NAME" ] || options+=(--name "$NAME")
      say "joining ${JOIN#*@}"
      "$netplane" node "${options[@]}"
      ;;
  esac
}

start() {
  local units=(netplane.target)
  case $ROLE in
    control-plane) units+=(netplane-controlplane.service) ;;
    worker) units+=(netplane-cni.service netplane-node.service netplane-proxy.service netplane-dns.service) ;;
    all-in-one)
      units+=(netplane-controlplane.service netplane-cni.service netplane-node.service
        netplane-proxy.service netplane-dns.service)
      ;;
  esac
  say "starting ${units[*]}"
  systemctl enable --now "${units[@]}"
}

ROLE=${1:-}
[ $# -gt 0 ] && shift
ADDRESS='' TOKEN='' CA='' JOIN='' CA_HASH='' NAME=''
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || die "option $1 needs a value"
  case $1 in
    --address) ADDRESS=$2 ;;
    --token) TOKEN=$2 ;;
    --ca) CA=$2 ;;
    --join) JOIN=$2 ;;
    --ca-hash) CA_HASH=$2 ;;
    --name) NAME=$2 ;;
    *) die "unknown option '$1'" ;;
  esac
  shift 2
done
case $ROLE in
  all-in-one | control-plane) [ -z "$JOIN$CA_HASH" ] || die "--join and --ca-hash are for a worker" ;;
  worker)
    if [ -z "$JOIN" ] || [ -z "$CA_HASH" ]; then die "a worker needs --join TOKEN@HOST and --ca-hash HASH"; fi
    [ -z "$ADDRESS$TOKEN$CA" ] || die "--address, --token and --ca are for a control plane"
    ;;
  *) die "unknown role '$ROLE': all-in-one, control-plane or worker" ;;
esac

for step in $STEPS; do
  case $step in
    install) install_netplane ;;
    configure) configure ;;
    start) start ;;
    *) die "unknown step '$step' in NETPLANE_STEPS" ;;
  esac
done
