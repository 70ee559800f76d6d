"""Make the project's virtual environment: `python3.11 tools/dev/bootstrap.py --help`.

Only the standard library is used, and this file parses under any Python, so that an old one
is reported in one line; the work is in `envsetup/`.
"""
import os
import sys

MIN_PYTHON, MAX_PYTHON = (3, 9), (3, 12)


def main():
    found = tuple(sys.version_info[:2])
    if not MIN_PYTHON <= found <= MAX_PYTHON:
        sys.stderr.write('set-up: cannot start: Python %d.%d to %d.%d is needed, this is %d.%d (%s); name another one '
                         'with PYTHON=...\n' % (MIN_PYTHON + MAX_PYTHON + found + (sys.executable,)))
        return 1
    if os.name != 'posix':
        sys.stderr.write('set-up: cannot start: Linux or macOS is needed, this is %s\n' % sys.platform)
        return 1
    from envsetup.setup import run
    return run(sys.argv[1:])


if __name__ == '__main__':
    sys.exit(main())
