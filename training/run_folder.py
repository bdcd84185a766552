"""The folder of a training run: one that no earlier run is lost in, with a log of what was said and left out."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG_FILE = "log.txt"


@contextmanager
def run_folder(folder: Path, resume: str | None = None) -> Iterator[None]:
    """
    What a run says is shown, and written with all details to `log.txt` in its folder, at last the error that ended it;
    a resumed run appends to it. Of several processes each writes what it met, under its rank.

    Args:
        folder: Of checkpoints and model; made when the first thing is written to it.
        resume: The checkpoint to go on from, or "auto", if the run is to go on.

    Raises:
        ValueError: for the folder of another run.
        NotADirectoryError: for a file.

    Example:

    ```python
    >>> import logging
    >>> from pathlib import Path
    >>> from omnilatent.training.run_folder import run_folder

    >>> with run_folder(Path("runs/new")):
    ...     logging.getLogger("omnilatent.training").warning("Left out a.png")
    >>> Path("runs/new/log.txt").read_text().split(maxsplit=2)[2]
    'Left out a.png\\n'
    ```
    """
    check_unused(folder, resume)
    # a name that is no Unicode is written with its bytes
    file = _LogFile(folder / LOG_FILE, encoding="utf-8", errors="backslashreplace", delay=True)
    console = logging.StreamHandler()
    console.setLevel(logging.INFO)  # each of thousands of bad samples is for the file
    rank = f"rank {os.environ.get('RANK')}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""  # of the launcher
    file.setFormatter(logging.Formatter(f"%(asctime)s {rank}%(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("omnilatent")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    for handler in (console, file):
        logger.addHandler(handler)
    try:
        yield
    except BaseException:
        if folder.is_dir():  # a run that is refused leaves none
            logger.debug("The run ended here.", exc_info=True)
        raise
    finally:
        logger.setLevel(level)
        for handler in (console, file):
            logger.removeHandler(handler)
        file.close()


def check_unused(folder: Path, resume: str | None = None) -> None:
    """
    Refuse a folder in which checkpoints of two runs would be mixed, or a trained model overwritten.

    Args:
        folder: Of the run.
        resume: As of `run_folder`. A checkpoint of the folder, and "auto" where it has some, go on with its run.

    Raises:
        ValueError: for the folder of another run.
        NotADirectoryError: for a file.
    """
    folder = Path(folder)
    if folder.is_file():
        raise NotADirectoryError(f"{str(folder)!r} is a file, expected the folder of a run.")
    if any(folder.glob("checkpoint-*/")):
        if resume != "auto" and (resume is None or Path(resume).resolve().parent != folder.resolve()):
            raise ValueError(
                f"{str(folder)!r} holds the checkpoints of an earlier run: go on with it by --resume auto, or name "
                "another folder."
            )
    elif (folder / "config.json").exists():
        raise ValueError(f"{str(folder)!r} holds a model, which would be overwritten: name another folder.")


class _LogFile(logging.FileHandler):
    """Makes its folder with the file, so that a run that is refused leaves none."""

    def _open(self):
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()
