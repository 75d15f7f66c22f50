"""See to it that the GUI tests can run: Xvfb and the libraries that Qt and OpenGL load.

On Linux, what is missing is installed through apt where that is possible (root); otherwise the
exact command is printed and the exit status is 1, so that GUI tests are never left out unseen.
Uses the standard library only, because it runs before anything is installed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

# Debian package -> what it must bring: a program, or a library by its soname.
NEEDED = {
    "xvfb": "Xvfb",
    "libgl1": "libGL.so.1",
    "libegl1": "libEGL.so.1",
    "libglib2.0-0": "libglib-2.0.so.0",
    "libfontconfig1": "libfontconfig.so.1",
    "libdbus-1-3": "libdbus-1.so.3",
    "libxkbcommon-x11-0": "libxkbcommon-x11.so.0",
    "libxcb-cursor0": "libxcb-cursor.so.0",
    "libxcb-icccm4": "libxcb-icccm.so.4",
    "libxcb-image0": "libxcb-image.so.0",
    "libxcb-keysyms1": "libxcb-keysyms.so.1",
    "libxcb-render-util0": "libxcb-render-util.so.0",
    "libxcb-shape0": "libxcb-shape.so.0",
    "libxcb-xinerama0": "libxcb-xinerama.so.0",
    "libxcb-xkb1": "libxcb-xkb.so.1",
}


def missing() -> list[str]:
    """Return the Debian packages whose program or library is not there."""
    return [package for package, brings in NEEDED.items() if not _present(brings)]


def _present(name: str) -> bool:
    if ".so" not in name:
        return shutil.which(name) is not None
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def main() -> int:
    """Install what is missing or say how; 0 if the GUI tests can run."""
    if not sys.platform.startswith("linux"):
        return 0
    packages = missing()
    if not packages:
        return 0
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"GUI tests need {' '.join(packages)}: installing through apt.", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        # An update that fails is no reason to stop: the packages may be in apt's lists already.
        subprocess.run(["apt-get", "update"], env=environment, check=False)
        subprocess.run(install, env=environment, check=False)
        packages = missing()
    if packages:
        print(
            "The GUI tests cannot run: Xvfb or libraries of Qt and OpenGL are missing. On Debian "
            "and Ubuntu run\n\n"
            "    sudo apt-get update && sudo apt-get install -y --no-install-recommends "
            f"{' '.join(packages)}\n\nand start the tests again.",
            file=sys.stderr,
        )
    return 1 if packages else 0


if __name__ == "__main__":
    sys.exit(main())
