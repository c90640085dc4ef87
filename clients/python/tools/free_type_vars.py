"""Frees the type variables of generated gRPC stubs of their constraints.

mypy-protobuf gives a service one type variable for each method, either of two types, and mypy looks at the class once for each combination: with 20 methods a
million times, which takes minutes and gigabytes, and twice that with the next method. Nothing is lost without the constraints: the two constructors say which
types there are.
"""

import pathlib
import re
import sys

CONSTRAINED = re.compile(r"(typing_extensions\.TypeVar\(\n    '\w+',\n)(?:    grpc\.[\w.]+\[\n(?:        .*\n)*    \],\n){2}(?=    default=)")


def main() -> None:
    """Rewrites the stubs in the folder that is named."""
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*_pb2_grpc.pyi")):
        text = path.read_text()
        methods = text.count("typing_extensions.TypeVar(")
        freed, found = CONSTRAINED.subn(r"\1", text)
        if found != methods:
            raise SystemExit(f"{path}: {methods} type variables, {found} of them as they are expected")
        path.write_text(freed)


main()
