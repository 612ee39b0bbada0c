"""The files each machine of a lab finds when it boots: settings, certificates, kubeconfigs.

They are those of a real machine, under the machine's own root.
"""

import json
import math
import sys
from pathlib import Path

from cni import install as cni_install
from controlplane.auth import files as auth_files
from controlplane.auth.identities import ADMIN
from controlplane.auth.pki import Authority
from netplane.lab import place
from netplane.lab.spec import LabSpec, Machine
from netplane.node.supervise import files as supervise_files
from netplane.node.supervise.files import API_LOOPBACK, write_yaml

ANYONE_MAY_LIST = 0o755


def write(spec: LabSpec, port: int) -> None:
    """All of them; `port` is where the API answers on the caller's own 127.0.0.1."""
    spec.directory.chmod(ANYONE_MAY_LIST)
    place.record_of(spec.directory).write_text(json.dumps(spec.as_json()))
    authority = _write_master(spec, spec.machines[0])
    for machine in spec.machines[1:]:
        _write_node(spec, machine, authority)
    for path, server in (
        (place.outside_kubeconfig(spec.directory), f"https://127.0.0.1:{port}"),
        (place.inside_kubeconfig(spec.directory), spec.server),
    ):
        auth_files.ensure_kubeconfig(authority, path, server, ADMIN)


def _write_master(spec: LabSpec, machine: Machine) -> Authority:
    settings = {
        "addresses": [str(machine.address)],
        "nodeMonitorGracePeriodSeconds": spec.node_monitor_grace_period_seconds,
        "podEvictionTimeoutSeconds": spec.pod_eviction_timeout_seconds,
    }
    write_yaml(machine.paths.etc / "controlplane.yaml", settings)
    supervise_files.write(machine.root, supervise_files.MASTER, {"controlplane": [API_LOOPBACK]})
    return auth_files.write_cluster(
        machine.paths.etc, server=spec.server, addresses=[machine.address], names=[machine.name]
    )


def _write_node(spec: LabSpec, machine: Machine, authority: Authority) -> None:
    # A lease is renewed so often that one lost renewal is no reason to call the node dead.
    grace = spec.node_monitor_grace_period_seconds
    write_yaml(machine.paths.etc / "node.yaml", {"leaseRenew": grace / 4, "leaseDuration": math.ceil(grace)})
    write_yaml(machine.paths.etc / "proxy.yaml", {"mode": spec.mode})
    supervise_files.write(machine.root, supervise_files.NODE)
    cni_install.install(machine.paths.cni_bin_dir, Path(sys.executable), machine.paths)
    auth_files.write_node(
        machine.paths.etc, authority, node=machine.name, addresses=[machine.address], server=spec.server
    )
