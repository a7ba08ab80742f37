"""An archive made for a study: what its catalogues lack is known, because the truth is."""

from pathlib import Path

from training.curation.curate import curate
from training.errors import TrainingError
from training.scenes.archive import TRUTH, ArchiveSpec, write_archive
from training.studies.variants import study_of

# Few frames, as of a telescope that begins: there a wrong label weighs most. One range of seeing for all, because the
# size of boxes under a seeing never trained on would drown everything else in AP50.
ARCHIVE = ArchiveSpec(
    frames=20,
    fields=10,
    size=768,
    seed=30,
    catalogue="truth",
    scene=ArchiveSpec().scene.model_copy(update={"fwhm": (2.5, 3.5)}),
)


def study_archive(name: str, folder: Path, spec: ArchiveSpec = ARCHIVE, workers: int = 2) -> tuple[Path, Path]:
    """Write and curate the archive that a study asks for; what is there is kept.

    Parameters
    ----------
    name : str
        Of the study.
    folder : Path
        Gets the archive and the data set.
    spec : ArchiveSpec
        What the archive holds, besides what the study asks for.
    workers : int
        Processes.

    Returns
    -------
    dataset, truth : Path
        The data set, and the folder of the exact truth.

    Raises
    ------
    TrainingError
        If the study is one of any data set, and asks for no archive of its own.
    """
    asked = study_of(name).archive
    if not asked:
        raise TrainingError(f"the study {name} is made on a data set of yours: curate one and name it")
    archive, dataset = folder / "archive", folder / "dataset"
    write_archive(archive, ArchiveSpec.model_validate({**dict(spec), **asked}), workers)
    curate(archive, dataset, workers=workers)
    return dataset, archive / TRUTH
