import pytest

from benchmarks.report import write_report

from .made import various


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The folder of a report on various results, and what was written there."""
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(various(), folder)


@pytest.fixture(scope="session")
def text(written):
    return (written[0] / "report.md").read_text(encoding="utf-8")
