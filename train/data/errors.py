"""What can be wrong with data, in words."""


class DataError(ValueError):
    """Data whose content cannot be used: damaged, empty, or not what its format promises."""


class AbsentDataError(DataError):
    """Data that is not where it is expected; the message names the folder and what to do."""


class UnsafeDataError(DataError):
    """A file whose reading would run code that it names. Nothing of it was run."""


class LibraryError(RuntimeError):
    """A library that cannot be imported."""
