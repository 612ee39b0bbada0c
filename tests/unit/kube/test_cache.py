"""The cache's law: the changes it hands out rebuild exactly what it holds."""

from hypothesis import given
from hypothesis import strategies as st

from netplane.kube.cache import Cache, Change
from netplane.kube.objects import Object, ObjectKey
from netplane.kube.resources import PODS


def pod(name: str, version: int) -> Object:
    return {"metadata": {"name": name, "namespace": "d", "resourceVersion": str(version)}}


names = st.sampled_from("abcd")
versions = st.integers(1, 5)
steps = st.one_of(
    st.tuples(st.just("replace"), st.dictionaries(names, versions)),
    st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]), st.tuples(names, versions)),
)


@given(st.lists(steps))
def test_changes_rebuild_the_objects(history: list[tuple[str, object]]) -> None:
    cache = Cache(PODS)
    mirror: dict[ObjectKey, Object] = {}

    def take(change: Change | None) -> None:
        if change is None:
            return
        if change.new is None:
            assert mirror.pop(change.key) is not None
        else:
            assert (change.old is None) == (change.key not in mirror)
            mirror[change.key] = change.new

    for kind, what in history:
        if kind == "replace":
            for change in cache.replace([pod(n, v) for n, v in what.items()], "9"):  # type: ignore[attr-defined]
                take(change)
        else:
            take(cache.apply({"type": kind, "object": pod(*what)}))  # type: ignore[misc]
    assert mirror == dict(cache.objects)


def test_a_bookmark_moves_only_the_revision() -> None:
    cache = Cache(PODS)
    cache.replace([pod("a", 1)], "1")
    assert cache.apply({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}) is None
    assert cache.resource_version == "7"
    assert len(cache) == 1
