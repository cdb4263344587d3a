"""Files of weights and of whole runs, written so that a crash never costs the old ones."""

from katachi.io.checkpoint import load_checkpoint as load_checkpoint
from katachi.io.checkpoint import save_checkpoint as save_checkpoint
from katachi.io.safetensors import load_safetensors as load_safetensors
from katachi.io.safetensors import save_safetensors as save_safetensors
