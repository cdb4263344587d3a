"""Files of weights, written so that a crash never costs the old ones."""

from katachi.io.safetensors import load_safetensors as load_safetensors
from katachi.io.safetensors import save_safetensors as save_safetensors
