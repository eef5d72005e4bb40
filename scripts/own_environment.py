"""A virtual environment for a script that compares CoPriv with PyTorch, so that nothing is installed anywhere else."""

import os
import subprocess
import sys
import venv


def in_own_environment(work, packages, **variables):
    """Makes the environment in the folder `work` once, and runs this script again in it, without --install and with these
    environment variables; its exit status."""
    python = work / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(work / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    rest = [argument for argument in sys.argv if argument != "--install"]
    return subprocess.run([python, *rest], env={**os.environ, **variables}).returncode
