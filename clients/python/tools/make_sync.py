"""Makes the synchronous client from the asynchronous one, so that they cannot differ in what they do."""

import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent.parent / "devicedb"
WORDS = [
    (r'"""The client for asyncio\. .*?\n\n', '"""The client for threads. Made from `_async` by tools/make_sync.py.\n\n'),
    (r"\basync (def|with|for) ", r"\1 "),
    (r"\bawait ", ""),
    (r"\bAsync(Client|Sites|Relays|Snapshots|Iterator)\b", r"\1"),
    (r"AsyncGenerator\[Any, None\]", "Generator[Any, None, None]"),
    (r"\bAsyncGenerator, Iterator, Callable\b", "Callable, Generator, Iterator"),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\baclosing\b", "closing"),
    (r"_shell_async", "_shell_sync"),
    (r"shared by tasks", "shared by threads"),
    (r"`async with`", "`with`"),
]

text = (HERE / "_async.py").read_text()
for pattern, word in WORDS:
    text = re.sub(pattern, word, text)
(HERE / "_sync.py").write_text(text)
