"""The processes of the models: starting, commanding and ending them."""
from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[2]
# Only the package of this file, under its own name: other environments lack the project's requirements. The folder of
# the project, which may be among the packages of this environment, is searched last.
_START = ('import sys; sys.path.append(sys.argv[2]); sys.path.insert(0, sys.argv[1]); '
          'import benchmark.worker as worker; sys.path.pop(0); worker.main(sys.argv[3:])')


class WorkerError(Exception):
    """A command to a model failed; the message says why."""


class Process:
    """The process of one model.

    Args:
        name: of the model.
        python: path of the interpreter that has its library.
        device: 'cpu' or 'cuda'.
        threads: that torch may use; the process stays on as many cores, if the system allows it.
    """

    def __init__(self, name: str, python: str = sys.executable, device: str = 'cpu', threads: int = 1) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile('w+')  # noqa: SIM115 - lives as long as the process
        limits = {variable: str(threads) for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')}
        env = dict(os.environ, TORCHINDUCTOR_COMPILE_THREADS='1', **limits)
        command = [python, '-c', _START, str(_HERE.parent), str(_ROOT), name, device, str(threads)]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
                                             text=True, env=env)
        except OSError as error:
            raise WorkerError(f'cannot run {python}: {error}') from error
        if hasattr(os, 'sched_setaffinity'):
            os.sched_setaffinity(self._process.pid, sorted(os.sched_getaffinity(0))[:threads])

    def ask(self, command: str, **arguments: Any) -> Dict[str, Any]:
        """Give a command of :class:`~.worker.Worker` and wait for the answer.

        Raises:
            WorkerError: if it failed there.
        """
        try:
            self._process.stdin.write(json.dumps(dict(arguments, do=command)) + '\n')
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ''
        if not line:
            raise WorkerError(f'the process of {self.name} died: {self._last_words()}')
        answer = json.loads(line)
        if 'error' in answer:
            raise WorkerError(answer['error'])
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else f'status {status}' + (' (killed, perhaps for want of memory)' * (status == -9))

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # a command that a dead process did not read
                pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Pool:
    """A process for each model, kept until the end.

    Args:
        models: names, the first of which also measures the rate of matrix products.
        pythons: interpreters of models that this one's environment does not have.
        device: 'cpu' or 'cuda'.
        threads: per process; only one process works at a time.

    Attributes:
        about: for each model that could be started the versions in its environment.
        missing: for each that could not, why.
    """

    def __init__(self, models: Iterable[str], pythons: Optional[Mapping[str, str]] = None, device: str = 'cpu',
                 threads: int = 1) -> None:
        self.device = device
        self._settings = dict(device=device, threads=threads)
        self._pythons = dict(pythons or {})
        self.processes: Dict[str, Process] = {}
        self.about: Dict[str, Dict[str, Any]] = {}
        self.missing: Dict[str, str] = {}
        for name in models:
            try:
                self._start(name)
            except WorkerError as error:
                self.missing[name] = str(error)

    @property
    def names(self) -> List[str]:
        """Return the names of the models that run."""
        return list(self.about)

    def fresh(self, name: str) -> Process:
        """Start a new process for a model; the caller closes it."""
        return Process(name, self._pythons.get(name, sys.executable), **self._settings)

    def _start(self, name: str) -> None:
        process = self.processes[name] = self.fresh(name)
        try:
            self.about[name] = process.ask('about')
        except WorkerError:
            self.processes.pop(name).close()
            raise

    def restart(self, name: str) -> None:
        """Start again after a process has died."""
        self.processes[name].close()
        self._start(name)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self.processes.values():
            process.close()
