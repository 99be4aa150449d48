"""Counts the instructions that a Raspberry Pi's core executes per run of a net, emulated by qemu; one thread.

python -m tests.benchmarks.instructions --nets track mobilenet_v2 --against onnxruntime
python -m tests.benchmarks.instructions --nets mobilenet_v2 --choosing     # of the first plan, which times kernels

The engine's counts repeat to 0.02 %, ONNX Runtime's to 0.3 %, on any machine and under any load. They are not times:
caches and memory are not modelled. Two plans are counted: by the fixed rule, and with the kernels of fewest
instructions, which a board's clock may choose.

Needs gcc, a qemu-aarch64 that loads plugins (Debian 12: apt install qemu-user) and the arm64 root of tests/aarch64,
which that test makes. The wheel of ONNX Runtime is fetched on first use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.aarch64.arm64_root import FOLDER, pip_for_arm64
from tests.benchmarks.common import ROOT, benchmark_parser, command

# Each core's number of MIDR_EL1 as /proc/cpuinfo has it (without an ARM core there ONNX Runtime crashes when it is
# imported), and its Pi's data caches: size, and CPUs that share it, by level.
CORES = {
    "cortex-a53": (0xD03, ("32K", "0"), ("512K", "0-3")),
    "cortex-a72": (0xD08, ("32K", "0"), ("1024K", "0-3")),
    "cortex-a76": (0xD0B, ("64K", "0"), ("512K", "0"), ("2048K", "0-3")),
}
CPUINFO = "processor\t: 0\nFeatures\t: fp asimd crc32 cpuid\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
# Versions of qemu's interface for plugins; a qemu takes those that it knows.
VERSIONS = range(1, 6)
NETS = ("track", "digits", "cifar10", "mobilenet_v2", "yolox_nano")
PEER_PACKAGES = ("onnxruntime", "flatbuffers", "protobuf", "packaging")


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument("--nets", nargs="*", default=NETS, metavar="NET", help="names of nets")
    parser.add_argument("--core", choices=CORES, default="cortex-a72", help="core to emulate")
    parser.add_argument("--against", choices=("onnxruntime", "none"), default="none", help="another runtime to count")
    parser.add_argument("--choosing", action="store_true", help="count making the first plan, with kernels timed")
    options = parser.parse_args()
    if not (qemu := shutil.which("qemu-aarch64")) or not shutil.which("gcc"):
        parser.error("needs qemu-aarch64 and gcc: sudo apt install qemu-user gcc")
    if not FOLDER.is_dir():
        parser.error(f"needs {FOLDER}: python -m pytest -m slow tests/aarch64 makes it, as root")
    path = ["/opt/numpy", "/opt/site", str(ROOT)]
    if options.against == "onnxruntime":
        path.append("/opt/onnxruntime")
        if not (FOLDER / "opt/onnxruntime").is_dir():
            pip_for_arm64(FOLDER / "opt/onnxruntime", "--no-deps", *PEER_PACKAGES).check_returncode()
    describe(options.core)
    with tempfile.TemporaryDirectory() as folder:
        emulator = [qemu, "-cpu", options.core, "-L", str(FOLDER)]
        emulator += ["-plugin", plugin(qemu, Path(folder)), str(FOLDER / "usr/bin/python3.11")]
        environment = {"PYTHONPATH": ":".join(path), "OPENBLAS_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
        print(f"{options.core} emulated, one thread; millions of instructions; command: {command()}")
        for index, name in enumerate(options.nets):
            arguments = [name, f"{folder}/count", options.against, "choosing" if options.choosing else "runs"]
            done = subprocess.run(
                [*emulator, "-m", "tests.aarch64.count_net", *arguments],
                cwd=ROOT, env=environment, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                sys.exit(f"{name}: {(done.stderr or done.stdout)[-1000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            if not index:
                print(found["versions"])
            print(as_line(name, found["counts"]), flush=True)


def describe(core: str) -> None:
    """Write what the emulated program reads of its CPU in /proc and /sys; qemu looks in the root first."""
    part, *levels = CORES[core]
    cpu = FOLDER / "sys/devices/system/cpu/cpu0"
    shutil.rmtree(cpu, ignore_errors=True)
    files = {
        FOLDER / "proc/cpuinfo": f"{CPUINFO}CPU variant\t: 0x0\nCPU part\t: {part:#x}\nCPU revision\t: 3",
        cpu / "topology/thread_siblings_list": "0",
    }
    for level, (size, cpus) in enumerate(levels, 1):
        texts = {"level": level, "type": "Data", "size": size, "shared_cpu_list": cpus}
        files |= {cpu / f"cache/index{level}/{name}": str(text) for name, text in texts.items()}
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


def plugin(qemu: str, folder: Path) -> str:
    """Return the value of -plugin: count_instructions.c compiled for the first version that this qemu takes."""
    source, library = ROOT / "tests/aarch64/count_instructions.c", folder / "count.so"
    for version in VERSIONS:
        build = ["gcc", "-shared", "-fPIC", "-O2", f"-DVERSION={version}", "-o", str(library), str(source)]
        subprocess.run(build, check=True)
        value = f"{library},to={folder / 'count'}"
        trial = subprocess.run([qemu, "-plugin", value, "/none"], capture_output=True, text=True)
        if "plugin" not in trial.stderr:
            return value
    sys.exit(f"{qemu} takes no plugin: {trial.stderr.strip()}")


def as_line(name: str, counts: dict[str, float]) -> str:
    """Return a net's line; ratios are by the last count, if that is another runtime's."""
    peer = counts.get("onnxruntime")
    cells = [
        f"{key} {value / 1e6:.3f}" + (f" ({value / peer:.2f})" if peer and key != "onnxruntime" else "")
        for key, value in counts.items()
    ]
    return f"{name:<14} " + "   ".join(cells)


if __name__ == "__main__":
    main()
