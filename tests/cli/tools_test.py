"""The scripts of tools/, in the surroundings that they meet on people's machines."""

import os
import subprocess
import sys
import unittest

from support import ProgramTest, finish

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class ProjectPythonTest(ProgramTest):
    """tools/setup.sh --tests, and --python, make the project's own Python one that docs/weights.md works in."""

    def test_torch_loads_trains_and_takes_weights_in_and_out(self):
        program = """
import sys, torch, safetensors.torch
net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(18, 4))
for step in (torch.optim.SGD(net.parameters(), 0.1), torch.optim.Adam(net.parameters())):
    torch.nn.functional.cross_entropy(net(torch.ones(5, 3, 5, 5)), torch.arange(5) % 4).backward()
    step.step()
safetensors.torch.save_file(net.state_dict(), sys.argv[1])
state = safetensors.torch.load_file(sys.argv[1])
assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
net.load_state_dict(state)
"""
        # -I: what the user's own Python has installed must not stand in for what is missing here.
        done = finish(self.begin([sys.executable, "-I", "-c", program, self.path("net.safetensors")]), 120)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
