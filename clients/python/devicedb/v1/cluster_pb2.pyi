from devicedb.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_STATE_UNSPECIFIED: _ClassVar[NodeState]
    NODE_STATE_WAITING: _ClassVar[NodeState]
    NODE_STATE_JOINING: _ClassVar[NodeState]
    NODE_STATE_RESTORING: _ClassVar[NodeState]
    NODE_STATE_OPENING: _ClassVar[NodeState]
    NODE_STATE_SERVING: _ClassVar[NodeState]

class DecommissionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECOMMISSION_STATE_UNSPECIFIED: _ClassVar[DecommissionState]
    DECOMMISSION_STATE_STAYS: _ClassVar[DecommissionState]
    DECOMMISSION_STATE_LEAVING: _ClassVar[DecommissionState]
    DECOMMISSION_STATE_GONE: _ClassVar[DecommissionState]

class WaitReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAIT_REASON_UNSPECIFIED: _ClassVar[WaitReason]
    WAIT_REASON_SILENT: _ClassVar[WaitReason]
    WAIT_REASON_BEHIND: _ClassVar[WaitReason]
    WAIT_REASON_AWAY: _ClassVar[WaitReason]
    WAIT_REASON_NO_ROOM: _ClassVar[WaitReason]
    WAIT_REASON_THROTTLED: _ClassVar[WaitReason]
    WAIT_REASON_ALONE: _ClassVar[WaitReason]
    WAIT_REASON_NO_LEADER: _ClassVar[WaitReason]
NODE_STATE_UNSPECIFIED: NodeState
NODE_STATE_WAITING: NodeState
NODE_STATE_JOINING: NodeState
NODE_STATE_RESTORING: NodeState
NODE_STATE_OPENING: NodeState
NODE_STATE_SERVING: NodeState
DECOMMISSION_STATE_UNSPECIFIED: DecommissionState
DECOMMISSION_STATE_STAYS: DecommissionState
DECOMMISSION_STATE_LEAVING: DecommissionState
DECOMMISSION_STATE_GONE: DecommissionState
WAIT_REASON_UNSPECIFIED: WaitReason
WAIT_REASON_SILENT: WaitReason
WAIT_REASON_BEHIND: WaitReason
WAIT_REASON_AWAY: WaitReason
WAIT_REASON_NO_ROOM: WaitReason
WAIT_REASON_THROTTLED: WaitReason
WAIT_REASON_ALONE: WaitReason
WAIT_REASON_NO_LEADER: WaitReason

class GetIdentityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetIdentityResponse(_message.Message):
    __slots__ = ("cluster_id", "lineage", "node_id", "address", "restored_from", "state", "doing", "version")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RESTORED_FROM_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DOING_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    lineage: str
    node_id: int
    address: str
    restored_from: str
    state: NodeState
    doing: str
    version: str
    def __init__(self, cluster_id: _Optional[str] = ..., lineage: _Optional[str] = ..., node_id: _Optional[int] = ..., address: _Optional[str] = ..., restored_from: _Optional[str] = ..., state: _Optional[_Union[NodeState, str]] = ..., doing: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class InitClusterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InitClusterResponse(_message.Message):
    __slots__ = ("cluster_id", "created")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    created: bool
    def __init__(self, cluster_id: _Optional[str] = ..., created: bool = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("id", "address", "capacity_percent", "reachable", "ready", "version", "snapshot_store", "groups_wanted", "groups_led", "reason", "leaving", "draining", "certificate_name")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_STORE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_WANTED_FIELD_NUMBER: _ClassVar[int]
    GROUPS_LED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_NAME_FIELD_NUMBER: _ClassVar[int]
    id: int
    address: str
    capacity_percent: int
    reachable: bool
    ready: bool
    version: str
    snapshot_store: bool
    groups_wanted: int
    groups_led: int
    reason: str
    leaving: bool
    draining: bool
    certificate_name: str
    def __init__(self, id: _Optional[int] = ..., address: _Optional[str] = ..., capacity_percent: _Optional[int] = ..., reachable: bool = ..., ready: bool = ..., version: _Optional[str] = ..., snapshot_store: bool = ..., groups_wanted: _Optional[int] = ..., groups_led: _Optional[int] = ..., reason: _Optional[str] = ..., leaving: bool = ..., draining: bool = ..., certificate_name: _Optional[str] = ...) -> None: ...

class GetOverviewRequest(_message.Message):
    __slots__ = ("local",)
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    local: bool
    def __init__(self, local: bool = ...) -> None: ...

class VoterSet(_message.Message):
    __slots__ = ("voters", "groups", "groups_led", "meta")
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_LED_FIELD_NUMBER: _ClassVar[int]
    META_FIELD_NUMBER: _ClassVar[int]
    voters: _containers.RepeatedScalarFieldContainer[int]
    groups: int
    groups_led: int
    meta: bool
    def __init__(self, voters: _Optional[_Iterable[int]] = ..., groups: _Optional[int] = ..., groups_led: _Optional[int] = ..., meta: bool = ...) -> None: ...

class GetOverviewResponse(_message.Message):
    __slots__ = ("cluster_id", "lineage", "replication_factor", "partitions", "groups", "nodes", "groups_without_leader", "groups_under_replicated", "meta_leader", "answered_by", "sites", "relays", "meta_under_replicated", "voter_sets", "local", "joins_need_token")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    REPLICATION_FACTOR_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_WITHOUT_LEADER_FIELD_NUMBER: _ClassVar[int]
    GROUPS_UNDER_REPLICATED_FIELD_NUMBER: _ClassVar[int]
    META_LEADER_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_BY_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    RELAYS_FIELD_NUMBER: _ClassVar[int]
    META_UNDER_REPLICATED_FIELD_NUMBER: _ClassVar[int]
    VOTER_SETS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    JOINS_NEED_TOKEN_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    lineage: str
    replication_factor: int
    partitions: int
    groups: int
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    groups_without_leader: int
    groups_under_replicated: int
    meta_leader: int
    answered_by: int
    sites: int
    relays: int
    meta_under_replicated: bool
    voter_sets: _containers.RepeatedCompositeFieldContainer[VoterSet]
    local: _types_pb2.LocalAnswer
    joins_need_token: bool
    def __init__(self, cluster_id: _Optional[str] = ..., lineage: _Optional[str] = ..., replication_factor: _Optional[int] = ..., partitions: _Optional[int] = ..., groups: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., groups_without_leader: _Optional[int] = ..., groups_under_replicated: _Optional[int] = ..., meta_leader: _Optional[int] = ..., answered_by: _Optional[int] = ..., sites: _Optional[int] = ..., relays: _Optional[int] = ..., meta_under_replicated: bool = ..., voter_sets: _Optional[_Iterable[_Union[VoterSet, _Mapping]]] = ..., local: _Optional[_Union[_types_pb2.LocalAnswer, _Mapping]] = ..., joins_need_token: bool = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "local")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    local: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., local: bool = ...) -> None: ...

class ListNodesResponse(_message.Message):
    __slots__ = ("nodes", "next_page_token", "cluster_id", "lineage", "local")
    NODES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    next_page_token: str
    cluster_id: str
    lineage: str
    local: _types_pb2.LocalAnswer
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., cluster_id: _Optional[str] = ..., lineage: _Optional[str] = ..., local: _Optional[_Union[_types_pb2.LocalAnswer, _Mapping]] = ...) -> None: ...

class Partition(_message.Message):
    __slots__ = ("id", "group", "replicas", "leader")
    ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    id: int
    group: int
    replicas: _containers.RepeatedScalarFieldContainer[int]
    leader: int
    def __init__(self, id: _Optional[int] = ..., group: _Optional[int] = ..., replicas: _Optional[_Iterable[int]] = ..., leader: _Optional[int] = ...) -> None: ...

class ListPartitionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "local")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    local: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., local: bool = ...) -> None: ...

class ListPartitionsResponse(_message.Message):
    __slots__ = ("partitions", "next_page_token", "local")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedCompositeFieldContainer[Partition]
    next_page_token: str
    local: _types_pb2.LocalAnswer
    def __init__(self, partitions: _Optional[_Iterable[_Union[Partition, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., local: _Optional[_Union[_types_pb2.LocalAnswer, _Mapping]] = ...) -> None: ...

class Site(_message.Message):
    __slots__ = ("id", "partition", "relays")
    ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    RELAYS_FIELD_NUMBER: _ClassVar[int]
    id: str
    partition: int
    relays: int
    def __init__(self, id: _Optional[str] = ..., partition: _Optional[int] = ..., relays: _Optional[int] = ...) -> None: ...

class AddSiteRequest(_message.Message):
    __slots__ = ("site",)
    SITE_FIELD_NUMBER: _ClassVar[int]
    site: str
    def __init__(self, site: _Optional[str] = ...) -> None: ...

class AddSiteResponse(_message.Message):
    __slots__ = ("site", "created")
    SITE_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    site: Site
    created: bool
    def __init__(self, site: _Optional[_Union[Site, _Mapping]] = ..., created: bool = ...) -> None: ...

class RemoveSiteRequest(_message.Message):
    __slots__ = ("site",)
    SITE_FIELD_NUMBER: _ClassVar[int]
    site: str
    def __init__(self, site: _Optional[str] = ...) -> None: ...

class RemoveSiteResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSitesRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "local")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    local: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., local: bool = ...) -> None: ...

class ListSitesResponse(_message.Message):
    __slots__ = ("sites", "next_page_token", "local")
    SITES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    sites: _containers.RepeatedCompositeFieldContainer[Site]
    next_page_token: str
    local: _types_pb2.LocalAnswer
    def __init__(self, sites: _Optional[_Iterable[_Union[Site, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., local: _Optional[_Union[_types_pb2.LocalAnswer, _Mapping]] = ...) -> None: ...

class Relay(_message.Message):
    __slots__ = ("id", "site")
    ID_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    id: str
    site: str
    def __init__(self, id: _Optional[str] = ..., site: _Optional[str] = ...) -> None: ...

class AddRelayRequest(_message.Message):
    __slots__ = ("relay", "site")
    RELAY_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    relay: str
    site: str
    def __init__(self, relay: _Optional[str] = ..., site: _Optional[str] = ...) -> None: ...

class AddRelayResponse(_message.Message):
    __slots__ = ("relay", "created")
    RELAY_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    relay: Relay
    created: bool
    def __init__(self, relay: _Optional[_Union[Relay, _Mapping]] = ..., created: bool = ...) -> None: ...

class RemoveRelayRequest(_message.Message):
    __slots__ = ("relay",)
    RELAY_FIELD_NUMBER: _ClassVar[int]
    relay: str
    def __init__(self, relay: _Optional[str] = ...) -> None: ...

class RemoveRelayResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MoveRelayRequest(_message.Message):
    __slots__ = ("relay", "site")
    RELAY_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    relay: str
    site: str
    def __init__(self, relay: _Optional[str] = ..., site: _Optional[str] = ...) -> None: ...

class MoveRelayResponse(_message.Message):
    __slots__ = ("relay",)
    RELAY_FIELD_NUMBER: _ClassVar[int]
    relay: Relay
    def __init__(self, relay: _Optional[_Union[Relay, _Mapping]] = ...) -> None: ...

class ListRelaysRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "site", "local")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    site: str
    local: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., site: _Optional[str] = ..., local: bool = ...) -> None: ...

class ListRelaysResponse(_message.Message):
    __slots__ = ("relays", "next_page_token", "local")
    RELAYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    relays: _containers.RepeatedCompositeFieldContainer[Relay]
    next_page_token: str
    local: _types_pb2.LocalAnswer
    def __init__(self, relays: _Optional[_Iterable[_Union[Relay, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., local: _Optional[_Union[_types_pb2.LocalAnswer, _Mapping]] = ...) -> None: ...

class GetUpgradeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetUpgradeResponse(_message.Message):
    __slots__ = ("level", "known_to_all", "newest", "nodes")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    KNOWN_TO_ALL_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    level: int
    known_to_all: int
    newest: int
    nodes: _containers.RepeatedCompositeFieldContainer[NodeVersion]
    def __init__(self, level: _Optional[int] = ..., known_to_all: _Optional[int] = ..., newest: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[NodeVersion, _Mapping]]] = ...) -> None: ...

class NodeVersion(_message.Message):
    __slots__ = ("node_id", "address", "version", "level")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    address: str
    version: str
    level: int
    def __init__(self, node_id: _Optional[int] = ..., address: _Optional[str] = ..., version: _Optional[str] = ..., level: _Optional[int] = ...) -> None: ...

class FinalizeUpgradeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FinalizeUpgradeResponse(_message.Message):
    __slots__ = ("level", "raised")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    RAISED_FIELD_NUMBER: _ClassVar[int]
    level: int
    raised: bool
    def __init__(self, level: _Optional[int] = ..., raised: bool = ...) -> None: ...

class RemoveNodeRequest(_message.Message):
    __slots__ = ("node_id", "force", "validate_only", "etag", "replacement_id")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REPLACEMENT_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    force: bool
    validate_only: bool
    etag: str
    replacement_id: int
    def __init__(self, node_id: _Optional[int] = ..., force: bool = ..., validate_only: bool = ..., etag: _Optional[str] = ..., replacement_id: _Optional[int] = ...) -> None: ...

class RemoveNodeResponse(_message.Message):
    __slots__ = ("plan", "removed", "operation_id")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    plan: RemovalPlan
    removed: bool
    operation_id: str
    def __init__(self, plan: _Optional[_Union[RemovalPlan, _Mapping]] = ..., removed: bool = ..., operation_id: _Optional[str] = ...) -> None: ...

class DecommissionNodeRequest(_message.Message):
    __slots__ = ("node_id", "force", "validate_only", "etag", "replacement_id")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REPLACEMENT_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    force: bool
    validate_only: bool
    etag: str
    replacement_id: int
    def __init__(self, node_id: _Optional[int] = ..., force: bool = ..., validate_only: bool = ..., etag: _Optional[str] = ..., replacement_id: _Optional[int] = ...) -> None: ...

class DecommissionNodeResponse(_message.Message):
    __slots__ = ("plan", "state", "replicas_left", "waits", "operation_id")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_LEFT_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    plan: RemovalPlan
    state: DecommissionState
    replicas_left: int
    waits: _containers.RepeatedCompositeFieldContainer[Wait]
    operation_id: str
    def __init__(self, plan: _Optional[_Union[RemovalPlan, _Mapping]] = ..., state: _Optional[_Union[DecommissionState, str]] = ..., replicas_left: _Optional[int] = ..., waits: _Optional[_Iterable[_Union[Wait, _Mapping]]] = ..., operation_id: _Optional[str] = ...) -> None: ...

class Wait(_message.Message):
    __slots__ = ("group", "node_id", "reason", "text", "since_s")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    group: int
    node_id: int
    reason: WaitReason
    text: str
    since_s: int
    def __init__(self, group: _Optional[int] = ..., node_id: _Optional[int] = ..., reason: _Optional[_Union[WaitReason, str]] = ..., text: _Optional[str] = ..., since_s: _Optional[int] = ...) -> None: ...

class CancelDecommissionRequest(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    def __init__(self, node_id: _Optional[int] = ...) -> None: ...

class CancelDecommissionResponse(_message.Message):
    __slots__ = ("cancelled", "operation_id")
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    cancelled: bool
    operation_id: str
    def __init__(self, cancelled: bool = ..., operation_id: _Optional[str] = ...) -> None: ...

class SetCapacityRequest(_message.Message):
    __slots__ = ("node_id", "capacity_percent", "validate_only", "force")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    capacity_percent: int
    validate_only: bool
    force: bool
    def __init__(self, node_id: _Optional[int] = ..., capacity_percent: _Optional[int] = ..., validate_only: bool = ..., force: bool = ...) -> None: ...

class SetCapacityResponse(_message.Message):
    __slots__ = ("replicas_moved", "changed", "operation_id", "objections")
    REPLICAS_MOVED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    OBJECTIONS_FIELD_NUMBER: _ClassVar[int]
    replicas_moved: int
    changed: bool
    operation_id: str
    objections: _containers.RepeatedCompositeFieldContainer[Objection]
    def __init__(self, replicas_moved: _Optional[int] = ..., changed: bool = ..., operation_id: _Optional[str] = ..., objections: _Optional[_Iterable[_Union[Objection, _Mapping]]] = ...) -> None: ...

class SetCertificateNameRequest(_message.Message):
    __slots__ = ("node_id", "certificate_name")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_NAME_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    certificate_name: str
    def __init__(self, node_id: _Optional[int] = ..., certificate_name: _Optional[str] = ...) -> None: ...

class SetCertificateNameResponse(_message.Message):
    __slots__ = ("changed",)
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    def __init__(self, changed: bool = ...) -> None: ...

class RebalanceRequest(_message.Message):
    __slots__ = ("validate_only", "etag", "force")
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    validate_only: bool
    etag: str
    force: bool
    def __init__(self, validate_only: bool = ..., etag: _Optional[str] = ..., force: bool = ...) -> None: ...

class RebalanceResponse(_message.Message):
    __slots__ = ("replicas_moved", "groups_changed", "changed", "away", "etag", "operation_id", "objections")
    REPLICAS_MOVED_FIELD_NUMBER: _ClassVar[int]
    GROUPS_CHANGED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    AWAY_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    OBJECTIONS_FIELD_NUMBER: _ClassVar[int]
    replicas_moved: int
    groups_changed: int
    changed: bool
    away: _containers.RepeatedScalarFieldContainer[int]
    etag: str
    operation_id: str
    objections: _containers.RepeatedCompositeFieldContainer[Objection]
    def __init__(self, replicas_moved: _Optional[int] = ..., groups_changed: _Optional[int] = ..., changed: bool = ..., away: _Optional[_Iterable[int]] = ..., etag: _Optional[str] = ..., operation_id: _Optional[str] = ..., objections: _Optional[_Iterable[_Union[Objection, _Mapping]]] = ...) -> None: ...

class DrainNodeRequest(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    def __init__(self, node_id: _Optional[int] = ...) -> None: ...

class DrainNodeResponse(_message.Message):
    __slots__ = ("changed", "operation_id")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    operation_id: str
    def __init__(self, changed: bool = ..., operation_id: _Optional[str] = ...) -> None: ...

class UndrainNodeRequest(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    def __init__(self, node_id: _Optional[int] = ...) -> None: ...

class UndrainNodeResponse(_message.Message):
    __slots__ = ("changed",)
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    def __init__(self, changed: bool = ...) -> None: ...

class RemovalPlan(_message.Message):
    __slots__ = ("address", "replicas_moved", "groups_short", "objections", "etag")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_MOVED_FIELD_NUMBER: _ClassVar[int]
    GROUPS_SHORT_FIELD_NUMBER: _ClassVar[int]
    OBJECTIONS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    address: str
    replicas_moved: int
    groups_short: int
    objections: _containers.RepeatedCompositeFieldContainer[Objection]
    etag: str
    def __init__(self, address: _Optional[str] = ..., replicas_moved: _Optional[int] = ..., groups_short: _Optional[int] = ..., objections: _Optional[_Iterable[_Union[Objection, _Mapping]]] = ..., etag: _Optional[str] = ...) -> None: ...

class Objection(_message.Message):
    __slots__ = ("refuses", "forcible", "code", "text", "groups")
    REFUSES_FIELD_NUMBER: _ClassVar[int]
    FORCIBLE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    refuses: bool
    forcible: bool
    code: str
    text: str
    groups: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, refuses: bool = ..., forcible: bool = ..., code: _Optional[str] = ..., text: _Optional[str] = ..., groups: _Optional[_Iterable[int]] = ...) -> None: ...
