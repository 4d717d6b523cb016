"""Packaging: wide ranges here, exact versions in constraints.txt (the Makefile installs with both)."""

from pathlib import Path

from setuptools import find_packages, setup

ROOMS = ("common", "data", "model", "pretrain", "launch", "scripts")

setup(
    name="shared-diff-pretrain",
    version="0.1.0",
    description="Pretraining framework for Shared DIFF Transformers on megatron-core layers and DeepSpeed ZeRO",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=[f"{room}*" for room in ROOMS]),
    # setuptools adds the markers of types by itself from 69 on; the build may use 68.
    package_data={room: ["py.typed"] for room in ROOMS}
    | {
        "launch.slurm": ["pretrain.sbatch", "site.yaml", "site_infiniband.yaml", "site_efa.yaml"],
        "scripts.reporting": ["page.html", "page.css", "page.js"],
    },
    install_requires=[
        "torch>=2.7",
        "deepspeed>=0.19.3,<0.20",
        "megatron-core>=0.16,<0.17",
        "datasets>=3",
        "tiktoken>=0.9",
        "tokenizers>=0.21",
        "huggingface-hub>=0.30",
        "regex>=2024.5",
        "wandb>=0.31",
        "jsonargparse>=4.40",
        "docstring-parser>=0.16",
        "pyyaml>=6",
        "numpy>=2",
        "pyarrow>=17",
        "pydantic>=2",
        "matplotlib>=3.9",
        "safetensors>=0.5",
        "fsspec>=2024.6",
        "aiohttp>=3.9",
        "xxhash>=3.4",
        "jinja2>=3.1",
    ],
    extras_require={
        # Built from source against the machine's CUDA; see docs/using.md. PyPI's `apex` is another project.
        "gpu": ["flash-attn>=2.7", "liger-kernel>=0.6", "triton>=3.6"],
        # pytablewriter: older ones, which pip falls back to, call the columns of lm-eval's table A, B, C.
        "eval": ["transformers>=5", "lm-eval>=0.4.9", "pytablewriter>=1", "accelerate>=1", "scipy>=1.11"],
        # What `metrics.tensorboard: true` writes with, by torch.utils.tensorboard.
        "tensorboard": ["tensorboard>=2.20"],
        "s3": ["s3fs>=2024.6"],
        # An S3 server to test with. moto's own extra `server` brings what other services need, too.
        "lab": ["moto[s3]>=5", "flask>=3", "flask-cors>=5", "werkzeug>=3", "boto3>=1.35"],
        # peft: tunes exports, as users do. triton: runs kernels without a GPU, in its interpreter, and compiles them
        # for one.
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "ruff>=0.12",
            "mypy>=1.16",
            "types-PyYAML",
            "psutil",
            "packaging",
            "peft>=0.18",
            "triton>=3.6",
            "tensorboard>=2.20",
        ],
    },
)
