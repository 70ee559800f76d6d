"""The notebook runs, with fewer iterations and images than it shows."""
from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip('nbformat', reason='pip install -e .[docs]')
nbclient = pytest.importorskip('nbclient', reason='pip install -e .[docs]')
pytest.importorskip('ipykernel', reason='pip install -e .[docs]')

PATH = Path(__file__).parents[1] / 'docs/notebooks/getting_started.ipynb'


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def test_the_outputs_are_small_and_show_no_failure(notebook):
    assert PATH.stat().st_size < 400_000
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', ())]
    assert {output.output_type for output in outputs} <= {'stream', 'display_data', 'execute_result'}
    assert all(output.get('name', 'stdout') == 'stdout' for output in outputs)


@pytest.mark.slow
def test_it_runs_from_data_to_predictions_at_two_windows(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(PATH.parents[2]))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    for many, few in (('ITERATIONS = 400', 'ITERATIONS = 4'), ('num_train=200, num_val=8', 'num_train=8, num_val=3')):
        assert sum(many in cell.source for cell in notebook.cells) == 1
        for cell in notebook.cells:
            cell.source = cell.source.replace(many, few)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name='python3',
                            resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    printed = ''.join(output.text for cell in notebook.cells for output in cell.get('outputs', ())
                      if output.output_type == 'stream')
    assert '{7: (2, 13, 13), 12: (2, 23, 23)}' in printed
    assert 'the predictions are the same, bit for bit' in printed
    pictures = [output for cell in notebook.cells for output in cell.get('outputs', ())
                if 'image/jpeg' in output.get('data', {})]
    assert len(pictures) == 5
    assert (tmp_path / 'work_dirs/getting_started/run/iter_4.pth').is_file()
