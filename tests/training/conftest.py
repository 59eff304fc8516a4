import pytest
import torch

import suffice


@pytest.fixture
def network():
    torch.manual_seed(0)
    return suffice.models.convnet(num_classes=10, widths=(4, 8))
