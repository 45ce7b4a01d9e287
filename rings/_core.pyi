"""Types of the compiled core; each is described in the module that offers it."""

from typing import final

from typing_extensions import Buffer

@final
class View:
    """A range of a buffer, which counts the exports of itself."""

    def __new__(
        cls, buffer: Buffer, offset: int, length: int, readonly: bool = False
    ) -> View: ...
    @property
    def exports(self) -> int: ...
    @property
    def released(self) -> bool: ...
    def release(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
