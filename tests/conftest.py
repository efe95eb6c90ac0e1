"""Test processes side by side: one thread each, or each team of threads waits for processors that the others hold."""

import os

import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
