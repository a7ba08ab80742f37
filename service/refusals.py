"""Why the service may turn a request away, besides what `lynceus.errors` knows; no HTTP here."""

from lynceus.errors import LynceusError


class BadParameterError(LynceusError):
    """A parameter or part of the request has a value that makes no sense."""

    code = "bad_parameter"


class UnknownModelError(LynceusError):
    """No version or track of that name is loaded."""

    code = "unknown_model"


class SlowUploadError(LynceusError):
    """The upload did not end in time."""

    code = "upload_too_slow"


class OverloadedError(LynceusError):
    """There is no room now.

    Parameters
    ----------
    message : str
        For the caller.
    retry_after : float
        When there should be room again, in seconds.
    """

    code = "overloaded"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeviceFullError(OverloadedError):
    """The network's device, or the host, has no memory left for this frame."""

    code = "out_of_memory"

    def __init__(self, message: str, retry_after: float = 10.0) -> None:
        super().__init__(message, retry_after)


class DiskFullError(OverloadedError):
    """The upload does not fit on the disk."""

    code = "disk_full"

    def __init__(self, message: str, retry_after: float = 30.0) -> None:
        super().__init__(message, retry_after)


class UnauthorizedError(LynceusError):
    """The request brings no API key, or one that is not known.

    Parameters
    ----------
    message : str
        For the caller.
    presented : bool
        Whether there was a key.
    """

    code = "unauthorized"

    def __init__(self, message: str, presented: bool = False) -> None:
        super().__init__(message)
        self.presented = presented


class RateLimitedError(LynceusError):
    """The API key asks too often.

    Parameters
    ----------
    message : str
        For the caller.
    retry_after : float
        When it may ask again, in seconds.
    """

    code = "rate_limited"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(LynceusError):
    """The answer was not ready in the time the caller gave."""

    code = "deadline_exceeded"


class ClientGoneError(LynceusError):
    """The caller hung up: nobody will read the answer."""

    code = "client_gone"
