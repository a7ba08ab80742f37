"""What can go wrong in training, in the user's words."""

from lynceus.errors import LynceusError


class TrainingError(LynceusError):
    """A training command cannot go on, for a reason the user can mend."""

    code = "cannot_train"
