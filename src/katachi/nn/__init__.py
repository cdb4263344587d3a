"""Layers, losses and the Module they are made of."""

from katachi.nn import functional as functional
from katachi.nn import init as init
from katachi.nn.attention import MultiheadAttention as MultiheadAttention
from katachi.nn.attention import TransformerBlock as TransformerBlock
from katachi.nn.containers import ModuleList as ModuleList
from katachi.nn.containers import Sequential as Sequential
from katachi.nn.embedding import Embedding as Embedding
from katachi.nn.layers import Conv2d as Conv2d
from katachi.nn.layers import Linear as Linear
from katachi.nn.layers import MaxPool2d as MaxPool2d
from katachi.nn.module import Buffer as Buffer
from katachi.nn.module import Module as Module
from katachi.nn.module import Parameter as Parameter
from katachi.nn.normalize import BatchNorm2d as BatchNorm2d
from katachi.nn.normalize import LayerNorm as LayerNorm
from katachi.nn.simple import GELU as GELU
from katachi.nn.simple import Dropout as Dropout
from katachi.nn.simple import Flatten as Flatten
from katachi.nn.simple import ReLU as ReLU
from katachi.nn.simple import Sigmoid as Sigmoid
from katachi.nn.simple import Tanh as Tanh
