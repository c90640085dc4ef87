"""Which cluster calls are for: asked of all endpoints at once before the first call where there are several, and said with every call from then on.

- Endpoints of two clusters, or of one cluster that was restored apart, are refused by name before anything is asked of any of them.
- Who does not answer in time is left out. If it is a node of another cluster, it refuses the call itself, since the call says which one it means.
- A node that belongs to no cluster yet, or is too old to say, is left out as well. Where none can say, no call says anything.
"""

from __future__ import annotations

import os
import uuid as uuids
from collections.abc import Sequence

from ._errors import InvalidArgument, OtherCluster
from ._requests import need
from .v1 import cluster_pb2

HEADER = "devicedb-cluster-id"
ENVIRONMENT = "DDBCTL_CLUSTER_ID"
# Seconds that an endpoint has to say who it is, so that one that is stopped does not hold up the first call.
ANSWER = 1.0
REQUEST = cluster_pb2.GetIdentityRequest()


def pinned(cluster_id: str | uuids.UUID | None) -> str:
    """The cluster that the caller or the environment names; empty where none does."""
    if cluster_id is None:
        cluster_id = os.environ.get(ENVIRONMENT)
        if cluster_id is None:
            return ""
    if isinstance(cluster_id, uuids.UUID):
        return str(cluster_id)
    try:
        return str(uuids.UUID(need("cluster_id", cluster_id, str)))
    except ValueError:
        raise InvalidArgument(f"{cluster_id!r} is not the id of a cluster, as in 5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11") from None


def compare(what: str, said: Sequence[tuple[str, cluster_pb2.GetIdentityResponse]]) -> str:
    """The cluster that the endpoints which answered belong to; empty while they belong to none."""
    clusters = [(endpoint, identity.cluster_id) for endpoint, identity in said if identity.cluster_id]
    lineages = [(endpoint, identity.lineage) for endpoint, identity in said if identity.lineage]
    if _differ(clusters):
        told = ", ".join(f"{endpoint} to cluster {name}" for endpoint, name in clusters)
        remedy = "name the nodes of one of them, or say which one you mean with cluster_id"
        raise OtherCluster(f"cannot {what}: the endpoints belong to different clusters: {told}: {remedy}", endpoint=",".join(at for at, _ in clusters))
    if _differ(lineages):
        told = ", ".join(f"{endpoint} to lineage {name}" for endpoint, name in lineages)
        why = f"the endpoints are of two histories of cluster {clusters[0][1]}: it was restored beside itself"
        raise OtherCluster(f"cannot {what}: {why}: {told}: name the nodes of one of them", endpoint=",".join(at for at, _ in lineages))
    return clusters[0][1] if clusters else ""


def _differ(said: Sequence[tuple[str, str]]) -> bool:
    return len({name for _, name in said}) > 1
