"""Every namespace has a ServiceAccount ``default``: pods that name none run under it."""

from collections.abc import Mapping
from typing import Any

from controlplane.controllers.actions import Create
from controlplane.controllers.loop.frame import Controller, Decision, Mapper, itself
from netplane.kube.cache import Change
from netplane.kube.objects import ObjectKey, is_deleting, namespace_of
from netplane.kube.resources import NAMESPACES, SERVICEACCOUNTS

DEFAULT = "default"


class ServiceAccountController(Controller):
    """One key per Namespace."""

    name = "serviceaccount"
    component = "service-account-controller"
    resources = (NAMESPACES, SERVICEACCOUNTS)

    def watches(self) -> Mapping[Any, Mapper]:
        """Namespaces, and accounts that are gone."""
        return {NAMESPACES: itself, SERVICEACCOUNTS: self._of_gone}

    def decide(self, key: ObjectKey) -> Decision:
        """Make the account where the namespace lives and lacks it."""
        namespace = self.caches[NAMESPACES].get(*key)
        if namespace is None or is_deleting(namespace):
            return Decision()
        if self.caches[SERVICEACCOUNTS].get(key.name, DEFAULT) is not None:
            return Decision()
        account = {
            "apiVersion": SERVICEACCOUNTS.api_version,
            "kind": SERVICEACCOUNTS.kind,
            "metadata": {"name": DEFAULT, "namespace": key.name},
        }
        return Decision([Create(SERVICEACCOUNTS, account)])

    @staticmethod
    def _of_gone(change: Change) -> list[ObjectKey]:
        return [ObjectKey("", namespace_of(change.object))] if change.new is None else []
