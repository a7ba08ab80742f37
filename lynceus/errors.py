"""What can go wrong, in the user's words.

Every error that a caller can cause or must handle descends from `LynceusError`; its text is
fit to be shown to that caller, and its `code` is stable. Programming mistakes stay
`ValueError` and `TypeError`.
"""


class LynceusError(Exception):
    """The root of the tree; `code` names the kind of error for programs."""

    code = "lynceus_error"


class FrameError(LynceusError):
    """The bytes hold no frame that can be used."""

    code = "unusable_frame"


class NotFitsError(FrameError):
    """The bytes are not FITS at all, compressed or plain."""

    code = "not_fits"


class NoSuchHduError(FrameError):
    """The file is FITS, but the HDU asked for is not in it or holds no frame."""

    code = "no_such_hdu"


class TooLargeError(FrameError):
    """The file passes one of the limits on bytes, pixels, header cards or HDUs."""

    code = "too_large"


class BundleError(LynceusError):
    """A bundle is missing, damaged, or written in a format this version does not know."""

    code = "bad_bundle"


class DetectionError(LynceusError):
    """The network failed on this frame."""

    code = "detection_failed"


class FormatError(LynceusError):
    """No output format of that name."""

    code = "no_such_format"


class CatalogueError(LynceusError):
    """The bytes hold no table of sources that can be used."""

    code = "bad_catalogue"


class StoreError(LynceusError):
    """A store holds no such version or track, or cannot do what is asked."""

    code = "store_error"


class ConflictError(StoreError):
    """Somebody else changed the track, or published that version, in the meantime."""

    code = "conflict"


class StoreAwayError(StoreError):
    """The store cannot be reached now; what is in the cache can still be used."""

    code = "store_away"


class ComparisonError(LynceusError):
    """Two versions could not be compared."""

    code = "not_compared"


class ServiceError(LynceusError):
    """The service failed on what it was asked.

    Parameters
    ----------
    detail : str
        What the service says of it.
    status : int or None
        Of its HTTP answer; None where there was none.
    code : str or None
        The stable name it gives the error, by default that of the class.
    retry_after : float or None
        Seconds that it asks to be left alone.
    """

    code = "service_failed"

    def __init__(
        self, detail: str, *, status: int | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = code or type(self).code
        self.retry_after = retry_after


class RefusedError(ServiceError):
    """The service refuses what it was asked; asking again changes nothing."""

    code = "refused"


class UnavailableError(ServiceError):
    """The service cannot be reached, is full, or was too slow; it may answer later."""

    code = "unavailable"


class SpoolError(LynceusError):
    """The folder watcher cannot use its state folder."""

    code = "bad_spool"
