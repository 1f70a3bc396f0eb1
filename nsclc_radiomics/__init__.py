"""From a folder of scans to a signature of response to immunotherapy, and to the paper about it.

Data flow through twelve rooms; each imports only from those named before it, and each has its notebooks in a folder
of `nbs` with the same name:

    core          Volume with its geometry, errors, files, compute settings
    cohort        the folder of a cohort: cohort.yaml, patients.csv, lesions.csv, images/<patient_id>/ct.nii.gz ...
    loading       DICOM, NIfTI and NRRD become a CT in HU, a PET in SUVbw, a mask on the image's grid, or a cohort
    simulation    cohorts whose truth is known
    segmentation  a mask from a click, from a 3D U-Net, or from a MONAI bundle
    features      PyRadiomics' features, exact and fast; robustness, harmonisation, IBSI
    outcomes      lesion diameters become responses (RECIST 1.1, iRECIST), PFS and OS, Kaplan-Meier, Cox
    models        LASSO, PCA, logistic regression, random forest, SVM, 3D-CNN
    evaluation    cross-validation, AUC and calibration with intervals, decision curves, negative controls, explanation
    signature     a model trained on one cohort, stored, and applied to new patients
    paper         the chapters, executed; figures, tables, numbers, and the comparison of two runs
    cli           the command `nsclc-radiomics`

The front door: these names load their module on first use, so that the import itself costs nothing.

    read       read_volume, read_ct, read_pet, read_mask, write_volume, fetch_sample        -> Volume
    collect    import_dicom, import_nifti, load_cohort, save_cohort, simulate_cohort        -> Cohort
    measure    segment, extract, extract_cohort                                             -> mask, features
    outcome    responses, pfs, cohort_outcomes, kaplan_meier                                -> tables
    learn      make_model, CNN3DClassifier, out_of_fold, train, predict, Compute            -> probabilities
    publish    run_paper, verify                                                            -> a run's folder
    go wrong   NsclcError, the base of every error that is raised on purpose

Six lines, on one of two real lung CTs:

    import nsclc_radiomics as nr

    sample = nr.fetch_sample()
    ct = nr.read_volume(sample / "lung1_image.nrrd", unit="HU")
    mask = nr.read_mask(sample / "lung1_label.nrrd", ct)
    features = nr.extract(ct, mask, settings="original")
    print(features["original_shape_Sphericity"])

Arrays are (z, y, x); points and spacing are mm in the order x, y, z, in the patient (LPS). Times are days. A patient
who cannot be used is named with the reason and never dropped without a word. The examples of all functions work on
the folder `trial`: nr.simulate_cohort("trial", patients=12, external=2, dicom=1). Research only: nothing here is for
the care of patients.
"""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; `_MODULE_OF` says the same at run time
    from .cohort.folder import Cohort as Cohort
    from .cohort.folder import load_cohort as load_cohort
    from .cohort.folder import save_cohort as save_cohort
    from .cohort.sample import fetch_sample as fetch_sample
    from .core.compute import Compute as Compute
    from .core.errors import NsclcError as NsclcError
    from .core.volume import Volume as Volume
    from .core.volume_files import read_volume as read_volume
    from .core.volume_files import write_volume as write_volume
    from .evaluation.protocol import out_of_fold as out_of_fold
    from .features.extraction import extract as extract
    from .features.extraction import extract_cohort as extract_cohort
    from .loading.ct import read_ct as read_ct
    from .loading.hospital import import_dicom as import_dicom
    from .loading.mask import read_mask as read_mask
    from .loading.pet import read_pet as read_pet
    from .loading.tables import import_nifti as import_nifti
    from .models.baselines import make_model as make_model
    from .models.cnn import CNN3DClassifier as CNN3DClassifier
    from .outcomes.endpoints import cohort_outcomes as cohort_outcomes
    from .outcomes.endpoints import pfs as pfs
    from .outcomes.responses import responses as responses
    from .outcomes.survival import kaplan_meier as kaplan_meier
    from .paper.chapters import run_paper as run_paper
    from .paper.compare import verify as verify
    from .segmentation.segmenter import segment as segment
    from .signature.page import predict as predict
    from .signature.train import train as train
    from .simulation.cohort import simulate_cohort as simulate_cohort

_MODULE_OF = {
    "Volume": "core.volume",
    "Compute": "core.compute",
    "read_volume": "core.volume_files",
    "write_volume": "core.volume_files",
    "read_ct": "loading.ct",
    "read_pet": "loading.pet",
    "read_mask": "loading.mask",
    "fetch_sample": "cohort.sample",
    "Cohort": "cohort.folder",
    "load_cohort": "cohort.folder",
    "save_cohort": "cohort.folder",
    "import_dicom": "loading.hospital",
    "import_nifti": "loading.tables",
    "simulate_cohort": "simulation.cohort",
    "segment": "segmentation.segmenter",
    "extract": "features.extraction",
    "extract_cohort": "features.extraction",
    "responses": "outcomes.responses",
    "pfs": "outcomes.endpoints",
    "cohort_outcomes": "outcomes.endpoints",
    "kaplan_meier": "outcomes.survival",
    "make_model": "models.baselines",
    "CNN3DClassifier": "models.cnn",
    "out_of_fold": "evaluation.protocol",
    "train": "signature.train",
    "predict": "signature.page",
    "run_paper": "paper.chapters",
    "verify": "paper.compare",
    "NsclcError": "core.errors",
}

__all__ = list(_MODULE_OF)


if not TYPE_CHECKING:  # a type checker would take any name for right

    def __getattr__(name: str) -> Any:
        "A name of the front door, from its module, which is loaded now (PEP 562)."
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
