"""Small discrete diffusion language models: train, judge honestly, watch denoising, put on a Jetson."""

__version__ = "0.1.0"
