"""numpy's matrix products, kept to the thread that asks for them."""

from functools import cache

from threadpoolctl import threadpool_limits


@cache
def one_thread_each() -> None:
    """Keep BLAS from starting threads of its own in this process, once and for all.

    Frames and tiles are what this house does side by side. The products between are small: a thread that waits
    for company spends more than it saves, and on a busy machine it waits long.
    """
    threadpool_limits(1, user_api="blas")
