"""The category of warnings that say how a file was read, where its metadata left a choice."""


class FileNote(UserWarning):
    """Says what was done with a file; nothing has to be changed.

    Examples
    --------
    >>> import warnings
    >>> warnings.simplefilter("ignore", FileNote)  # warnings that ask for a change are still shown
    """
