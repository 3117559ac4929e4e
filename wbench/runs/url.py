"""A URL: opened through fsspec, and shown without its password."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wbench.errors import MissingPackageError, RunError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class Address:
    """A URL that fsspec can open.

    Args:
        url: The URL.

    Attributes:
        url: The URL, without a slash at its end.
        shown: The same without user and password.

    Raises:
        RunError: If fsspec does not know the protocol, or the URL names no folder.
        MissingPackageError: If the protocol's package is not installed.
    """

    def __init__(self, url: str) -> None:
        protocol, _, rest = url.partition("://")
        self.url = f"{protocol}://{rest.rstrip('/')}"
        self.shown = without_password(self.url)
        self._login = re.match(r"[^/\s]*@|", rest).group()  # type: ignore[union-attr]
        if "::" in url or set("*?[]") & set(url):
            raise RunError(
                f"runs cannot be kept in {self.shown}: a plain URL is allowed, without '::', '*', '?', '[' or ']'"
            )
        self.base = self._connect()[1].rstrip("/")
        if not self.base.strip("/"):
            raise RunError(f"{self.shown} names no folder; allowed: e.g. {protocol}://bucket/runs")

    def _connect(self) -> tuple[AbstractFileSystem, str]:
        try:
            from fsspec.core import url_to_fs

            return url_to_fs(self.url)
        except ImportError as error:
            raise MissingPackageError(
                f"{self.shown} needs a package: {error}; e.g. pip install s3fs (or gcsfs, adlfs)"
            ) from error
        except Exception as error:
            raise RunError(f"runs cannot be kept in {self.shown}: {self.reason(error)}") from self.cause(error)

    @property
    def fs(self) -> AbstractFileSystem:
        """The file system: fsspec keeps one a process and thread, so that a forked process gets its own."""
        return self._connect()[0]

    def reason(self, error: BaseException) -> str:
        """Return the cause of a failure in one line, without a password.

        Args:
            error: What was raised.
        """
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return self._clean(str(text).splitlines()[0])

    def cause(self, error: BaseException) -> BaseException | None:
        """Return the error to show as the cause, unless its text holds a password.

        Args:
            error: What was raised.
        """
        return error if self._clean(str(error)) == str(error) else None

    def _clean(self, text: str) -> str:
        return without_password(text.replace(self._login, "") if self._login else text)


def without_password(text: str) -> str:
    """Return text with the user and password of every URL in it removed.

    Args:
        text: Any.
    """
    return re.sub(r"://[^/\s]*@", "://", text)
