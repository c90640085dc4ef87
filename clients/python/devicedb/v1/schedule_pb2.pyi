from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VerificationDepth(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERIFICATION_DEPTH_UNSPECIFIED: _ClassVar[VerificationDepth]
    VERIFICATION_DEPTH_QUICK: _ClassVar[VerificationDepth]
    VERIFICATION_DEPTH_SHARE: _ClassVar[VerificationDepth]
    VERIFICATION_DEPTH_WHOLE: _ClassVar[VerificationDepth]
VERIFICATION_DEPTH_UNSPECIFIED: VerificationDepth
VERIFICATION_DEPTH_QUICK: VerificationDepth
VERIFICATION_DEPTH_SHARE: VerificationDepth
VERIFICATION_DEPTH_WHOLE: VerificationDepth

class Schedule(_message.Message):
    __slots__ = ("name", "cron", "keep", "start_deadline_ms", "paused", "created_ms", "next_ms", "running", "stored", "failed", "missed", "skipped", "failures", "note", "verify")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CRON_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    START_DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    NEXT_MS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    name: str
    cron: str
    keep: str
    start_deadline_ms: int
    paused: bool
    created_ms: int
    next_ms: int
    running: ScheduledRun
    stored: ScheduledRun
    failed: ScheduledRun
    missed: int
    skipped: int
    failures: int
    note: str
    verify: str
    def __init__(self, name: _Optional[str] = ..., cron: _Optional[str] = ..., keep: _Optional[str] = ..., start_deadline_ms: _Optional[int] = ..., paused: bool = ..., created_ms: _Optional[int] = ..., next_ms: _Optional[int] = ..., running: _Optional[_Union[ScheduledRun, _Mapping]] = ..., stored: _Optional[_Union[ScheduledRun, _Mapping]] = ..., failed: _Optional[_Union[ScheduledRun, _Mapping]] = ..., missed: _Optional[int] = ..., skipped: _Optional[int] = ..., failures: _Optional[int] = ..., note: _Optional[str] = ..., verify: _Optional[str] = ...) -> None: ...

class ScheduledRun(_message.Message):
    __slots__ = ("uuid", "planned_ms", "began_ms", "ended_ms", "reason", "by_hand")
    UUID_FIELD_NUMBER: _ClassVar[int]
    PLANNED_MS_FIELD_NUMBER: _ClassVar[int]
    BEGAN_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_HAND_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    planned_ms: int
    began_ms: int
    ended_ms: int
    reason: str
    by_hand: bool
    def __init__(self, uuid: _Optional[str] = ..., planned_ms: _Optional[int] = ..., began_ms: _Optional[int] = ..., ended_ms: _Optional[int] = ..., reason: _Optional[str] = ..., by_hand: bool = ...) -> None: ...

class PutScheduleRequest(_message.Message):
    __slots__ = ("name", "cron", "keep", "start_deadline_ms", "replace", "verify")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CRON_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    START_DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    name: str
    cron: str
    keep: str
    start_deadline_ms: int
    replace: bool
    verify: str
    def __init__(self, name: _Optional[str] = ..., cron: _Optional[str] = ..., keep: _Optional[str] = ..., start_deadline_ms: _Optional[int] = ..., replace: bool = ..., verify: _Optional[str] = ...) -> None: ...

class PutScheduleResponse(_message.Message):
    __slots__ = ("schedule", "changed")
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    schedule: Schedule
    changed: bool
    def __init__(self, schedule: _Optional[_Union[Schedule, _Mapping]] = ..., changed: bool = ...) -> None: ...

class GetScheduleRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetScheduleResponse(_message.Message):
    __slots__ = ("schedule",)
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    schedule: Schedule
    def __init__(self, schedule: _Optional[_Union[Schedule, _Mapping]] = ...) -> None: ...

class ListSchedulesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSchedulesResponse(_message.Message):
    __slots__ = ("schedules", "next_page_token", "repositories", "verification", "drill", "unreadable_reports")
    SCHEDULES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REPOSITORIES_FIELD_NUMBER: _ClassVar[int]
    VERIFICATION_FIELD_NUMBER: _ClassVar[int]
    DRILL_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_REPORTS_FIELD_NUMBER: _ClassVar[int]
    schedules: _containers.RepeatedCompositeFieldContainer[Schedule]
    next_page_token: str
    repositories: _containers.RepeatedScalarFieldContainer[str]
    verification: RepositoryVerification
    drill: RepositoryDrill
    unreadable_reports: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, schedules: _Optional[_Iterable[_Union[Schedule, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., repositories: _Optional[_Iterable[str]] = ..., verification: _Optional[_Union[RepositoryVerification, _Mapping]] = ..., drill: _Optional[_Union[RepositoryDrill, _Mapping]] = ..., unreadable_reports: _Optional[_Iterable[str]] = ...) -> None: ...

class RepositoryVerification(_message.Message):
    __slots__ = ("report", "began_ms", "depth", "percent", "sound", "problems", "snapshots", "snapshots_since")
    REPORT_FIELD_NUMBER: _ClassVar[int]
    BEGAN_MS_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    SOUND_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_SINCE_FIELD_NUMBER: _ClassVar[int]
    report: str
    began_ms: int
    depth: VerificationDepth
    percent: int
    sound: bool
    problems: int
    snapshots: int
    snapshots_since: int
    def __init__(self, report: _Optional[str] = ..., began_ms: _Optional[int] = ..., depth: _Optional[_Union[VerificationDepth, str]] = ..., percent: _Optional[int] = ..., sound: bool = ..., problems: _Optional[int] = ..., snapshots: _Optional[int] = ..., snapshots_since: _Optional[int] = ...) -> None: ...

class RepositoryDrill(_message.Message):
    __slots__ = ("report", "began_ms", "uuid", "passed", "problem", "rto_ms", "rpo_ms", "snapshots_since")
    REPORT_FIELD_NUMBER: _ClassVar[int]
    BEGAN_MS_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    RTO_MS_FIELD_NUMBER: _ClassVar[int]
    RPO_MS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_SINCE_FIELD_NUMBER: _ClassVar[int]
    report: str
    began_ms: int
    uuid: str
    passed: bool
    problem: str
    rto_ms: int
    rpo_ms: int
    snapshots_since: int
    def __init__(self, report: _Optional[str] = ..., began_ms: _Optional[int] = ..., uuid: _Optional[str] = ..., passed: bool = ..., problem: _Optional[str] = ..., rto_ms: _Optional[int] = ..., rpo_ms: _Optional[int] = ..., snapshots_since: _Optional[int] = ...) -> None: ...

class DeleteScheduleRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteScheduleResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseScheduleRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PauseScheduleResponse(_message.Message):
    __slots__ = ("schedule",)
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    schedule: Schedule
    def __init__(self, schedule: _Optional[_Union[Schedule, _Mapping]] = ...) -> None: ...

class ResumeScheduleRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ResumeScheduleResponse(_message.Message):
    __slots__ = ("schedule",)
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    schedule: Schedule
    def __init__(self, schedule: _Optional[_Union[Schedule, _Mapping]] = ...) -> None: ...

class RunScheduleRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RunScheduleResponse(_message.Message):
    __slots__ = ("schedule", "began")
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    BEGAN_FIELD_NUMBER: _ClassVar[int]
    schedule: Schedule
    began: bool
    def __init__(self, schedule: _Optional[_Union[Schedule, _Mapping]] = ..., began: bool = ...) -> None: ...
